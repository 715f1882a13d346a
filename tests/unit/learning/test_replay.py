"""A hospital's memory of its own steps: what a row looks ahead to, and what it forgets."""

from __future__ import annotations

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter, UnexpectedState
from secure_frl.learning.replay import Replay, look_ahead
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.rows import single_steps


def two_episodes() -> Trajectories:
    """Return one of four steps that terminated and one of three that was cut; rewards 1, 2, 3 ..., state = time."""
    steps = np.arange(4) < np.array([4, 3])[:, None]
    return Trajectories(
        observations=np.where(steps, np.arange(4) + 10 * np.arange(2)[:, None], 0),
        actions=np.zeros((2, 4), dtype=np.int64),
        allowed=None,
        rewards=np.where(steps, np.arange(1, 5), 0).astype(np.float32) * np.ones((2, 1), np.float32),
        log_behaviour=None,
        steps=steps,
        terminated=np.array([True, False]),
        final_observations=np.array([99, 98]),
        persons=np.array([7, 8], dtype=np.uint64),
    )


def test_one_step_ahead_is_each_step_by_itself() -> None:
    ours, singly = look_ahead(two_episodes(), 0.5, 1), single_steps(two_episodes())

    for name in Trajectories.__slots__:
        np.testing.assert_array_equal(getattr(ours, name), getattr(singly, name), err_msg=name)


def test_two_steps_ahead_rewards_are_discounted_and_a_cut_episodes_last_step_is_left_out() -> None:
    rows = look_ahead(two_episodes(), 0.5, 2)

    assert rows.observations[:, 0].tolist() == [0, 1, 2, 3, 10, 11]  # 12 would bootstrap after one step only
    assert rows.rewards[:, 0].tolist() == [1 + 1, 2 + 1.5, 3 + 2, 4, 1 + 1, 2 + 1.5]
    assert rows.final_observations[[0, 1, 4, 5]].tolist() == [2, 3, 12, 98]
    assert rows.terminated.tolist() == [False, False, True, True, False, False]


def test_the_oldest_steps_are_forgotten_and_every_other_is_drawn() -> None:
    replay = Replay(9, 0.9, 1)
    replay.add(two_episodes())
    replay.add(two_episodes())

    drawn = replay.draw(np.random.default_rng(0), 500)

    assert replay.size == 9
    assert sorted(set(drawn.observations[:, 0].tolist())) == [0, 1, 2, 3, 10, 11, 12]
    assert (drawn.observations[:, 0] >= 10).sum() > (
        drawn.observations[:, 0] < 10
    ).sum()  # 5 of 9: the first's are gone
    assert Replay(9, 0.9, 3).discount == pytest.approx(0.729)


def test_an_empty_memory_and_sizes_below_one_are_refused() -> None:
    with pytest.raises(UnexpectedState, match="Add trajectories first"):
        Replay(3, 0.9, 1).draw(np.random.default_rng(0), 1)
    with pytest.raises(InvalidParameter, match="at least 1"):
        Replay(3, 0.9, 0)
