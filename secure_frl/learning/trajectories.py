"""Episodes as padded arrays, with the two places where they are checked.

Shapes and types are checked by the constructor, aloud: they depend on code, not on people. Values are checked aloud
only before a site joins. Inside a round nothing that depends on data may be refused aloud, since one person would
then decide whether a site answers: such a trajectory is marked, and contributes zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import DataRefused, InvalidParameter

Change = Callable[[NDArray[Any]], NDArray[Any]]  # Any: the dtype of each field stays what it was


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Trajectories:
    """B episodes, padded to T steps. Never leaves the site.

    Raises InvalidParameter for a shape or dtype that does not fit; values are not looked at.
    """

    observations: NDArray[Any]  # [B,T,D] float32, or [B,T] int64 for tabular states (embedded, never one-hot)
    actions: NDArray[np.int64]  # [B,T]
    allowed: NDArray[np.bool_] | None  # [B,T,A]; None: a public table of the policy, or all actions
    rewards: NDArray[np.float32]  # [B,T]
    log_behaviour: NDArray[np.float32] | None  # [B,T] log-probability of the logged action
    steps: NDArray[np.bool_]  # [B,T], True where a step exists
    terminated: NDArray[np.bool_]  # [B]; False: cut at max_steps, bootstrap from final_observations
    final_observations: NDArray[Any]  # [B,D] or [B]
    persons: NDArray[np.uint64]  # [B]; keyed hash made at the site, never sent
    final_allowed: NDArray[np.bool_] | None = None  # [B,A] at final_observations; None: not known, or as `allowed` says

    def __post_init__(self) -> None:
        steps, observations, allowed = (_shape(v) for v in (self.steps, self.observations, self.allowed))
        if len(steps) != 2 or len(observations) not in (2, 3) or (self.allowed is not None and len(allowed) != 3):
            raise InvalidParameter(
                "steps must be [episodes, steps], observations [episodes, steps] or [episodes, steps, features], and "
                f"allowed [episodes, steps, actions], not {steps}, {observations} and {allowed}. Pad the episodes."
            )
        episodes, length = steps
        tail = observations[2:]
        observation_type = np.float32 if tail else np.int64
        _require("steps", self.steps, (episodes, length), np.bool_)
        _require("observations", self.observations, (episodes, length, *tail), observation_type)
        _require("final_observations", self.final_observations, (episodes, *tail), observation_type)
        _require("actions", self.actions, (episodes, length), np.int64)
        _require("rewards", self.rewards, (episodes, length), np.float32)
        _require("terminated", self.terminated, (episodes,), np.bool_)
        _require("persons", self.persons, (episodes,), np.uint64)
        if self.log_behaviour is not None:
            _require("log_behaviour", self.log_behaviour, (episodes, length), np.float32)
        if self.allowed is not None:
            _require("allowed", self.allowed, (episodes, length, allowed[2]), np.bool_)
        if self.final_allowed is not None:
            _require("final_allowed", self.final_allowed, (episodes, *_shape(self.final_allowed)[1:2]), np.bool_)

    @property
    def count(self) -> int:
        """Return B, the number of episodes."""
        return int(self.steps.shape[0])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the number of steps of each episode, int64 [B]."""
        return np.asarray(self.steps.sum(axis=1), dtype=np.int64)

    def select(self, episodes: NDArray[np.int64]) -> Trajectories:
        """Return the named episodes in the given order, padded only to the longest of them (at least one step).

        episodes: int64 positions in 0..B-1. Trimming changes no loss: padding contributes nothing.
        """
        steps = self.steps[episodes]
        used = np.flatnonzero(steps.any(axis=0))
        length = int(used[-1]) + 1 if used.size else min(1, steps.shape[1])
        return self.changed(lambda values: values[episodes, :length], lambda values: values[episodes])

    def changed(self, of_steps: Change, of_episodes: Change) -> Trajectories:
        """Return what two functions make of the arrays: of those a step, [B,T,...], and of those an episode, [B,...].

        What is None stays None.
        """
        return Trajectories(
            observations=of_steps(self.observations),
            actions=of_steps(self.actions),
            allowed=None if self.allowed is None else of_steps(self.allowed),
            rewards=of_steps(self.rewards),
            log_behaviour=None if self.log_behaviour is None else of_steps(self.log_behaviour),
            steps=of_steps(self.steps),
            terminated=of_episodes(self.terminated),
            final_observations=of_episodes(self.final_observations),
            persons=of_episodes(self.persons),
            final_allowed=None if self.final_allowed is None else of_episodes(self.final_allowed),
        )

    def seen_at(
        self, episodes: NDArray[np.int64], times: NDArray[np.int64], is_final: NDArray[np.bool_]
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return observations [n] or [n,D] and what they allow, bool [n,A], at steps, or behind the last one: is_final.

        episodes, times: int64 [n]; times of what is final may be any. None: not known of the final ones, or as
        `allowed` says.
        """
        wide = is_final.reshape((-1,) + (1,) * (self.final_observations.ndim - 1))
        seen = np.where(wide, self.final_observations[episodes], self.observations[episodes, times])
        if self.allowed is None or self.final_allowed is None:
            return seen, None
        return seen, np.where(is_final[:, None], self.final_allowed[episodes], self.allowed[episodes, times])


def _shape(value: Any) -> tuple[int, ...]:
    """Return an array's shape, () for anything else. Any: the type is what is being checked."""
    return value.shape if isinstance(value, np.ndarray) else ()


def _require(name: str, value: Any, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    """Refuse an array of another shape or dtype. Any: whatever the caller passed is what is being checked."""
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != np.dtype(dtype):
        came = f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        raise InvalidParameter(
            f"{name} must be {np.dtype(dtype)}{list(shape)}, not {came}. Convert it before making Trajectories."
        )


def _finite(trajectories: Trajectories) -> NDArray[np.bool_]:
    """Mark the episodes without NaN or infinity in a step that exists, or in the last observation; bool [B]."""
    steps = trajectories.steps
    fine = np.where(steps, np.isfinite(trajectories.rewards), True).all(axis=1)
    if trajectories.log_behaviour is not None:
        # Minus infinity is refused as well: an action that the behaviour policy never takes was not logged.
        fine &= np.where(steps, np.isfinite(trajectories.log_behaviour), True).all(axis=1)
    if trajectories.observations.ndim == 3:
        observed = np.isfinite(trajectories.observations).all(axis=2)
        fine &= np.where(steps, observed, True).all(axis=1)
        fine &= np.isfinite(trajectories.final_observations).all(axis=1)
    return np.asarray(fine, dtype=np.bool_)


def check_before_joining(trajectories: Trajectories, declared_units: int, max_rounds_per_person: int) -> None:
    """Refuse data that may not join a study; called before a site joins, never inside a round.

    declared_units: persons that the site declared, a charter constant.
    max_rounds_per_person: R; each episode is one participation, so a person may have at most R of them.
    Raises DataRefused, whose message is for this site's own eyes: it counts, and names no person or value.
    """
    poisoned = int((~_finite(trajectories)).sum())
    if poisoned:
        raise DataRefused(
            f"every value must be finite, but {poisoned} trajectories hold NaN or infinity. "
            "Repair or leave out these rows of the steps table."
        )
    persons, episodes = np.unique(trajectories.persons, return_counts=True)
    over = int((episodes > max_rounds_per_person).sum())
    if over:
        raise DataRefused(
            f"a person may appear at most {max_rounds_per_person} times, but {over} persons appear more often. "
            "Join their stays into one trajectory, or raise privacy.max_rounds_per_person and pay for it."
        )
    if persons.size > declared_units:
        raise DataRefused(
            f"at most {declared_units} persons were declared, but {persons.size} came. "
            "Declare more units before the charter is signed, or leave persons out."
        )


def check_records(usable: NDArray[np.bool_], units: NDArray[np.int64], declared_units: int) -> None:
    """Refuse records that may not join a study on logged data; called before a site joins, never inside a round.

    usable: bool [B], from `usable_units`. units: int64 [B], the number 0..U-1 of the unit of each trajectory.
    declared_units: units that the site declared, a charter constant. More of them are refused and not left out: which
    ones would then depend on the others.
    Raises DataRefused, whose message is for this site's own eyes: it counts, and names no person or value.
    """
    unusable = int((~usable).sum())
    if unusable:
        raise DataRefused(
            f"every stay must be one that the study can use, but {unusable} hold a state or action that it does not "
            "know, another number of features, or an action that was not allowed. Correct these stays, or leave them "
            "out of the steps table."
        )
    found = int(units.max()) + 1 if units.size else 0
    if found > declared_units:
        raise DataRefused(
            f"at most {declared_units} units were declared, but {found} came. "
            "Declare more units before the charter is signed, or leave persons out."
        )


def usable_units(
    trajectories: Trajectories,
    *,
    action_count: int,
    max_steps: int,
    state_count: int | None = None,
    feature_count: int | None = None,
    allowed_table: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Mark the episodes that may contribute; the others must contribute the zero vector. bool [B]. Never raises.

    An episode is unusable when a value in it is not finite, it has no step, more than `max_steps` or a gap, a state
    lies outside 0..state_count-1, or an action is unknown or not allowed (by its own mask, else by `allowed_table`,
    bool [state_count, action_count]). No episode is usable when observations are not of the kind that is named, or
    not feature_count wide.
    """
    steps, shape = trajectories.steps, trajectories.observations.shape
    if (state_count is not None and len(shape) == 3) or (feature_count is not None and shape[2:] != (feature_count,)):
        return np.zeros(trajectories.count, dtype=np.bool_)
    usable = _finite(trajectories)
    lengths = trajectories.lengths
    usable &= (lengths >= 1) & (lengths <= max_steps)
    usable &= ~(steps[:, 1:] & ~steps[:, :-1]).any(axis=1)
    actions = trajectories.actions
    known = (actions >= 0) & (actions < action_count)
    usable &= (known | ~steps).all(axis=1)
    safe_actions = np.where(known, actions, 0)
    states = trajectories.observations
    if state_count is not None and states.ndim == 2:
        inside = (states >= 0) & (states < state_count)
        final = trajectories.final_observations
        usable &= (inside | ~steps).all(axis=1) & (final >= 0) & (final < state_count)
        if trajectories.allowed is None and allowed_table is not None:
            usable &= (allowed_table[np.where(inside, states, 0), safe_actions] | ~steps).all(axis=1)
    if trajectories.allowed is not None:
        if trajectories.allowed.shape[2] != action_count:
            return np.zeros(trajectories.count, dtype=np.bool_)
        own = np.take_along_axis(trajectories.allowed, safe_actions[:, :, None], axis=2)[:, :, 0]
        usable &= (own | ~steps).all(axis=1)
    return np.asarray(usable, dtype=np.bool_)
