"""A hospital's memory of its own steps, for learning from them more than once. It stays at the hospital.

Under a guarantee a person a record counts whenever it may be drawn; so this is for sites whose whole move is the unit
(`local_training`), which may group their steps as they like.

Source: Lin 1992, Self-Improving Reactive Agents Based on Reinforcement Learning, Planning and Teaching (replay); Mnih
et al. 2015 (uniform draws); Hessel et al. 2018, Rainbow, section "Multi-step learning".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter, UnexpectedState
from secure_frl.learning.trajectories import Trajectories


class Replay:
    """The last `capacity` steps, each with the rewards of the `ahead` steps from it and what was seen after them.

    A row that bootstraps looks exactly `ahead` steps ahead, so its value there counts `discount`; the last steps of a
    cut trajectory, which cannot, are left out.
    """

    def __init__(self, capacity: int, discount: float, ahead: int) -> None:
        """Raise InvalidParameter unless capacity and ahead are at least 1."""
        if capacity < 1 or ahead < 1:
            raise InvalidParameter(
                f"capacity and ahead must be at least 1, not {capacity} and {ahead}. Correct [training]."
            )
        self._capacity, self._step_discount, self._ahead = capacity, discount, ahead
        self._rows: Trajectories | None = None

    @property
    def discount(self) -> float:
        """Return what the value after `ahead` steps counts."""
        return self._step_discount**self._ahead

    @property
    def size(self) -> int:
        """Return how many steps are remembered."""
        return 0 if self._rows is None else self._rows.count

    def add(self, seen: Trajectories) -> None:
        """Remember the steps of trajectories, and forget the oldest above the capacity."""
        found = look_ahead(seen, self._step_discount, self._ahead)
        rows = found if self._rows is None else joined(self._rows, found)
        first = max(0, rows.count - self._capacity)
        self._rows = rows.select(np.arange(first, rows.count)) if first else rows

    def draw(self, generator: np.random.Generator, count: int) -> Trajectories:
        """Return `count` steps, uniformly with replacement. Raises UnexpectedState while there is none."""
        if self._rows is None or not self._rows.count:
            raise UnexpectedState("a replay must hold a step before one is drawn. Add trajectories first.")
        return self._rows.select(generator.integers(self._rows.count, size=count))


def look_ahead(seen: Trajectories, discount: float, ahead: int) -> Trajectories:
    """Return each step as a trajectory of one: its reward is that of `ahead` steps, discounted, its final observation
    what was seen after them. A step nearer to its trajectory's end is kept where that terminated, else left out.
    """
    lengths = seen.lengths
    episodes, times = np.nonzero(seen.steps)
    behind = times + ahead
    reaches_end = behind >= lengths[episodes]
    terminated = reaches_end & seen.terminated[episodes]
    kept = terminated | (behind <= lengths[episodes])
    episodes, times, behind, terminated = episodes[kept], times[kept], behind[kept], terminated[kept]
    rewards = np.zeros(episodes.size)
    for step in range(ahead):
        at = np.minimum(times + step, seen.steps.shape[1] - 1)
        there = (times + step < lengths[episodes]) & seen.steps[episodes, at]
        rewards += np.where(there, discount**step * seen.rewards[episodes, at], 0.0)
    is_final = behind >= lengths[episodes]
    final, final_allowed = seen.seen_at(episodes, np.minimum(behind, seen.steps.shape[1] - 1), is_final)
    return Trajectories(
        observations=seen.observations[episodes, times][:, None],
        actions=seen.actions[episodes, times][:, None],
        allowed=None if seen.allowed is None else seen.allowed[episodes, times][:, None],
        rewards=rewards.astype(np.float32)[:, None],
        log_behaviour=None if seen.log_behaviour is None else seen.log_behaviour[episodes, times][:, None],
        steps=np.ones((episodes.size, 1), dtype=np.bool_),
        terminated=terminated,
        final_observations=final,
        persons=seen.persons[episodes],
        final_allowed=final_allowed,
    )


def joined(first: Trajectories, second: Trajectories) -> Trajectories:
    """Return the rows of both; of one source, so that both have the same fields and lengths."""

    def both(name: str) -> NDArray[np.generic] | None:
        one, other = getattr(first, name), getattr(second, name)
        return None if one is None or other is None else np.concatenate([one, other])

    return Trajectories(**{name: both(name) for name in Trajectories.__slots__})  # type: ignore[arg-type]  # by name
