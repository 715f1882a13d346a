"""What really happened at the sites. Only scorers open it; no adversary's file may import it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.learning.trajectories import Trajectories


@dataclass(frozen=True, slots=True)
class Truth:
    """Everything that a scorer may hold against a guess."""

    trajectories: dict[tuple[int, int], Trajectories] = field(default_factory=dict, repr=False)  # by (round, site)
    coins: dict[tuple[int, int], NDArray[np.bool_]] = field(default_factory=dict, repr=False)  # who was put in
    updates: dict[tuple[int, int], NDArray[np.int64]] = field(default_factory=dict, repr=False)  # integers [P]

    def states_of(self, round_number: int, sites: tuple[int, ...], live_states: int) -> NDArray[np.bool_]:
        """Return which numbered states the people of some sites met in a round, bool [live states]."""
        visited = np.zeros(live_states, dtype=np.bool_)
        for site in sites:
            people = self.trajectories[round_number, site]
            states: NDArray[Any] = people.observations[people.steps]  # Any: int64, of a study whose states have numbers
            visited[np.unique(states[states < live_states])] = True
        return visited

    def steps_of(self, round_number: int, sites: tuple[int, ...]) -> NDArray[Any]:
        """Return every observation that the people of some sites met in a round, [steps, D] or [steps]."""
        people = [self.trajectories[round_number, site] for site in sites]
        return np.concatenate([one.observations[one.steps] for one in people])
