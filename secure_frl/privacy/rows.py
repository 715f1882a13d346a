"""Which rows a loss is computed on, so that each row lies inside one unit of protection.

A trajectory is a row, except for unsafe-transition, where each step becomes one. That is right only for losses whose
step depends on that step and public state; a study with another objective is refused when it is planned.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.unit import SITE, UNSAFE_TRANSITION, units_of


def as_units(
    trajectories: Trajectories, usable: NDArray[np.bool_], unit: str
) -> tuple[Trajectories, NDArray[np.bool_], NDArray[np.int64]]:
    """Return rows to compute losses on, which of them may be used, and int64 [rows]: the unit of each.

    usable: bool [B]. trajectory and patient: the rows are the trajectories. unsafe-transition: one row a step.
    site: what is not usable is left out by itself, for it lies inside the unit; among people it would take its
    whole unit along.
    """
    if unit == UNSAFE_TRANSITION:
        episodes = np.repeat(np.arange(trajectories.count), trajectories.lengths)
        trajectories, usable = single_steps(trajectories), usable[episodes]
    elif unit == SITE:
        trajectories, usable = trajectories.select(np.flatnonzero(usable)), usable[usable]
    return trajectories, usable, units_of(trajectories.persons, unit)


def single_steps(trajectories: Trajectories) -> Trajectories:
    """Return each step (state, action, reward, next state) as an episode of one step, in the order of the episodes.

    A step that is not its episode's last one goes on: it is not terminated, and its final observation is the next
    step's. A loss then sees one step; it is the step's own loss only for objectives that look no further ahead.
    """
    episodes, times = np.nonzero(trajectories.steps)
    is_last = np.r_[episodes[1:] != episodes[:-1], True][: episodes.size]
    following = np.minimum(times + 1, trajectories.steps.shape[1] - 1)
    final, final_allowed = trajectories.seen_at(episodes, following, is_last)
    allowed, logged = trajectories.allowed, trajectories.log_behaviour
    return Trajectories(
        observations=trajectories.observations[episodes, times][:, None],
        actions=trajectories.actions[episodes, times][:, None],
        allowed=None if allowed is None else allowed[episodes, times][:, None],
        rewards=trajectories.rewards[episodes, times][:, None],
        log_behaviour=None if logged is None else logged[episodes, times][:, None],
        steps=np.ones((episodes.size, 1), dtype=np.bool_),
        terminated=trajectories.terminated[episodes] & is_last,
        final_observations=final,
        persons=trajectories.persons[episodes],
        final_allowed=final_allowed,
    )
