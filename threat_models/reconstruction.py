"""Scoring of reconstructed states: found, by chance, by the prior, and by the swapped cohort.

A guess is a score a state. Of as many best-scored states as were visited, the share that was: R-precision. The null
that counts is the swapped cohort: the same guess held against people who were not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from threat_models.statistics import auc, mean_interval

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trial:
    """One guess and what it is held against."""

    scores: Scores  # [states], larger means visited
    visited: NDArray[np.bool_]  # [states], by the people who were there
    swapped: NDArray[np.bool_]  # [states], by as many others
    prior: Scores  # [states], how often people visit them: public


@dataclass(frozen=True, slots=True)
class Reconstructed:
    """Means over trials, with the 95 % t-interval of the share found and of its excess over the swapped cohort."""

    found: tuple[float, float, float]  # value, low, high
    area: tuple[float, float, float]
    excess: tuple[float, float, float]
    uniform: float
    prior: float
    swapped: float
    trials: int

    @property
    def nulls(self) -> dict[str, float]:
        """Return what chance reaches."""
        return {"uniform": self.uniform, "prior": self.prior, "swapped": self.swapped}


def found_share(scores: Scores, visited: NDArray[np.bool_], rng: np.random.Generator) -> float:
    """Return the R-precision of a score a state; ties are broken at random."""
    order = np.lexsort((rng.random(scores.size), -scores))
    return float(visited[order[: int(visited.sum())]].mean())


def score(trials: Sequence[Trial], rng: np.random.Generator) -> Reconstructed:
    """Return what an attack found over trials; a trial whose people visited nothing says nothing and is left out."""
    kept = [one for one in trials if one.visited.any() and one.swapped.any()]
    found = np.array([found_share(one.scores, one.visited, rng) for one in kept])
    swapped = np.array([found_share(one.scores, one.swapped, rng) for one in kept])
    return Reconstructed(
        found=_share(mean_interval(found)),
        area=_share(mean_interval([auc(one.scores, one.visited) for one in kept])),
        excess=mean_interval(found - swapped),
        uniform=float(np.mean([one.visited.mean() for one in kept])),
        prior=float(np.mean([found_share(one.prior, one.visited, rng) for one in kept])),
        swapped=float(swapped.mean()),
        trials=len(kept),
    )


def _share(interval: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return an interval of shares inside 0 and 1, where few trials reach beyond."""
    value, low, high = interval
    return value, max(low, 0.0), min(high, 1.0)
