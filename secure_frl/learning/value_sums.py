"""What one unit's records say of values: sums by state and by pair of state and action. NumPy float64, no torch.

Fitted value iteration from sums: with a table of values V that everybody knows, the sum over a pair's steps of
r + discount V(s') - V(s), divided by how often the pair was taken, is the pair's advantage under V. Each unit's part is
a sum over its own steps and public numbers, so nothing of another unit enters it.

Source: Ernst, Geurts and Wehenkel 2005 (fitted Q iteration), for a table, where each fit is a mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_frl.learning.trajectories import Trajectories


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Entries:
    """The non-zero coordinates of units' messages, each at most once, ordered by unit and then by place."""

    unit: NDArray[np.int64]  # [n], 0..units-1
    place: NDArray[np.int64]  # [n], in the message
    value: NDArray[np.float64]  # [n]


@dataclass(frozen=True, slots=True, eq=False)
class PairTable:
    """Admissible pairs of live states and actions, in the order of the public table. Every array is read-only."""

    pair_of: NDArray[np.int64]  # [live states, actions], -1 where not admissible
    state_of: NDArray[np.int64]  # [pairs], ascending

    @staticmethod
    def of(admissible: NDArray[np.bool_]) -> PairTable:
        """Return the table. admissible: bool [live states, actions]."""
        state_of = np.nonzero(admissible)[0].astype(np.int64)
        pair_of = np.full(admissible.shape, -1, dtype=np.int64)
        pair_of[admissible] = np.arange(state_of.size)
        for array in (state_of, pair_of):
            array.setflags(write=False)
        return PairTable(pair_of, state_of)

    @property
    def pairs(self) -> int:
        """Return how many pairs are admissible."""
        return int(self.state_of.size)

    @property
    def states(self) -> int:
        """Return how many states are live."""
        return int(self.pair_of.shape[0])


def pair_counts(trajectories: Trajectories, units: NDArray[np.int64], table: PairTable) -> Entries:
    """Return how often each unit took each pair; the place of a pair is its number.

    units: int64 [B], of each trajectory. Steps in a state that is not live count nothing.
    """
    unit, _, pair = _taken(trajectories, units, table)
    return _added(unit, pair, np.ones(pair.size), table.pairs)


def return_sums(
    trajectories: Trajectories, units: NDArray[np.int64], table: PairTable, first_value: float, discount: float
) -> Entries:
    """Return each unit's sum, by state, of what was earned from there on less the public first value.

    A trajectory that was cut earned the first value after its last step. The place of a state is its number.
    """
    unit, (episode, time), pair = _taken(trajectories, units, table)
    rewards = np.where(trajectories.steps, trajectories.rewards, 0.0).astype(np.float64)
    earned = np.zeros(rewards.shape)
    after = np.where(trajectories.terminated, 0.0, first_value)
    for step in range(rewards.shape[1])[::-1]:
        after = np.where(trajectories.steps[:, step], rewards[:, step] + discount * after, after)
        earned[:, step] = after
    return _added(unit, table.state_of[pair], earned[episode, time] - first_value, table.states)


def error_sums(
    trajectories: Trajectories,
    units: NDArray[np.int64],
    table: PairTable,
    values: NDArray[np.float64],
    discount: float,
) -> Entries:
    """Return each unit's sum, by pair, of r + discount V(s') - V(s); the place of a pair is its number.

    values: float64 [states], 0 where an episode is over. A cut trajectory goes on from its last observation.
    """
    unit, (episode, time), pair = _taken(trajectories, units, table)
    states = np.asarray(trajectories.observations)
    following = np.concatenate([states[:, 1:], states[:, :1]], axis=1)
    last = trajectories.lengths - 1
    rows = np.flatnonzero(last >= 0)
    following[rows, last[rows]] = trajectories.final_observations[rows]
    ends = np.zeros(states.shape, dtype=np.bool_)
    ends[rows, last[rows]] = trajectories.terminated[rows]
    state, landed = states[episode, time], following[episode, time]
    ahead = np.where(ends[episode, time], 0.0, values[np.clip(landed, 0, values.size - 1)])
    errors = trajectories.rewards[episode, time].astype(np.float64) + discount * ahead - values[state]
    return _added(unit, pair, errors, table.pairs)


def unit_norms(entries: Entries, units: int) -> NDArray[np.float64]:
    """Return the L2 norm of each unit's entries, float64 [units]."""
    return np.sqrt(np.bincount(entries.unit, entries.value * entries.value, units))


def _taken(
    trajectories: Trajectories, units: NDArray[np.int64], table: PairTable
) -> tuple[NDArray[np.int64], tuple[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]:
    """Return the unit, the place (episode, time) and the pair of each step that takes an admissible pair."""
    episode, time = np.nonzero(trajectories.steps)
    states, actions = trajectories.observations[episode, time], trajectories.actions[episode, time]
    inside = (states >= 0) & (states < table.states) & (actions >= 0) & (actions < table.pair_of.shape[1])
    pair = np.where(inside, table.pair_of[np.where(inside, states, 0), np.where(inside, actions, 0)], -1)
    kept = pair >= 0
    return units[episode[kept]], (episode[kept], time[kept]), pair[kept]


def _added(unit: NDArray[np.int64], place: NDArray[np.int64], value: NDArray[np.float64], places: int) -> Entries:
    """Add up what falls on the same place of the same unit, in the order of its steps: whoever is beside it."""
    keys, inverse = np.unique(unit * places + place, return_inverse=True)
    summed = np.bincount(inverse.reshape(-1), value, keys.size).astype(np.float64)
    return Entries(keys // places, keys % places, summed)
