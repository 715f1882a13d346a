"""A public critic of observations that are vectors: linear in a fixed map of them. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LinearCritic:
    """What earlier booked sums say of a return; nothing of it was fitted on the trajectories at hand."""

    weights: NDArray[np.float64]  # [width]
    start: float  # the public value before anything was learned
    lowest: float  # public range of returns, to which values are cut
    highest: float

    def values(self, along: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the value of each observation, float64 [...]. along: [...], its features times the weights."""
        return np.asarray(np.clip(self.start + along, self.lowest, self.highest), dtype=np.float64)
