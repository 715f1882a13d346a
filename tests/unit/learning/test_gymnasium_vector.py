"""Gymnasium's vector environments rolled out through the adapter, beside the same ones stepped by hand."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from secure_frl.errors import InvalidParameter, UnexpectedState
from secure_frl.learning.acting import TableActing, UniformActing
from secure_frl.learning.environments.gymnasium_icu_sepsis import ID
from secure_frl.learning.environments.gymnasium_vector import GymnasiumVector
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions
from secure_frl.learning.objectives.reinforce import CRITIC, Reinforce
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.trajectories import Trajectories, usable_units

MODES = list(AutoresetMode)
UNIFORM = admissible_actions() / admissible_actions().sum(axis=1, keepdims=True)


class Corridor(gymnasium.Env):
    """State t after t steps, reward 1 a step; ends in state `length`, if it has one. Refuses to go on after that."""

    def __init__(self, length: int | None, observed: gymnasium.Space = Discrete(50), first_action: int = 0) -> None:  # noqa: B008
        self.observation_space, self.action_space = observed, Discrete(2, start=first_action)
        self._length, self._at = length, 0

    def _seen(self) -> Any:
        if isinstance(self.observation_space, Discrete):
            return self._at + int(self.observation_space.start)
        return np.full(self.observation_space.shape, self._at, dtype=self.observation_space.dtype)

    def _info(self) -> dict[str, Any]:
        return {"allowed_actions": np.array([True, self._at % 2 == 0])}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._at = 0
        return self._seen(), self._info()

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in self.action_space
        assert self._at != self._length
        self._at += 1
        return self._seen(), 1.0, self._at == self._length, False, self._info()


class Leaning:
    """Pushes the cart to where its pole leans, more often than not; a policy of features."""

    action_count = 2
    needs_masks = False

    def begin(self, count: int) -> None:
        pass

    def act(
        self, episodes: np.ndarray, states: np.ndarray, uniform: np.ndarray, allowed: None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        right = 1 / (1 + np.exp(-20 * states[:, 2].astype(np.float64)))
        chosen = (uniform < right).astype(np.int64)
        return chosen, np.log(np.where(chosen == 1, right, 1 - right))


def _persons(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint64)


def _corridors(
    mode: AutoresetMode, lengths: list[int | None], limit: int | None = None, **of_each: Any
) -> SyncVectorEnv:
    def made(length: int | None) -> Any:
        return lambda: Corridor(length, **of_each) if limit is None else TimeLimit(Corridor(length, **of_each), limit)

    return SyncVectorEnv([made(length) for length in lengths], autoreset_mode=mode)


def _walk(environment: GymnasiumVector) -> Trajectories:
    halves = TableActing(np.full((50, 2), 0.5))
    return roll_out(halves, environment, np.random.default_rng(3), _persons(environment.count))


@pytest.mark.parametrize("mode", MODES)
def test_an_environment_that_only_terminates_has_its_known_return(mode: AutoresetMode) -> None:
    lengths = [2, 7, 1, 5, 7]
    episodes = _walk(GymnasiumVector(_corridors(mode, lengths), max_steps=7))

    assert episodes.lengths.tolist() == lengths
    assert episodes.rewards.sum(axis=1).tolist() == lengths
    assert episodes.terminated.all()  # also where the end comes at the limit
    assert episodes.final_observations.tolist() == lengths
    assert all(episodes.observations[i, : lengths[i]].tolist() == list(range(lengths[i])) for i in range(5))
    # V = 10 everywhere would be right if nothing ended: 1 a step, discounted by .9. Nothing is added after an end.
    targets = Reinforce(0.9, 1.0, "private").targets(None, {CRITIC: np.full(50, 10.0)}, episodes)
    assert np.allclose(targets["residuals"][:, 0], (1 - 0.9 ** np.array(lengths)) / 0.1 - 10.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("inside", "outside"), [(6, 6), (6, 9), (None, 6)])
def test_an_environment_that_only_truncates_has_its_known_return(
    mode: AutoresetMode, inside: int | None, outside: int
) -> None:
    episodes = _walk(GymnasiumVector(_corridors(mode, [None, None], inside), max_steps=outside))

    assert episodes.lengths.tolist() == [6, 6]
    assert not episodes.terminated.any()
    assert episodes.final_observations.tolist() == [6, 6]
    # V = 10 = 1 / (1 - .9) is the value of never ending: the residual is 0 only if V follows the sixth reward.
    targets = Reinforce(0.9, 1.0, "private").targets(None, {CRITIC: np.full(50, 10.0)}, episodes)
    assert np.allclose(targets["residuals"], 0.0)


@pytest.mark.parametrize("mode", MODES)
def test_a_copy_that_is_over_stays_as_it_is_while_others_go_on(mode: AutoresetMode) -> None:
    environment = GymnasiumVector(_corridors(mode, [2, 5]), max_steps=9)
    environment.reset(np.random.default_rng(0))
    seen = [environment.step(np.zeros(2, dtype=np.int64)) for _ in range(9)]

    assert [step[0].tolist() for step in seen] == [[1, 1], [2, 2], [2, 3], [2, 4]] + [[2, 5]] * 5
    assert [step[1].tolist() for step in seen] == [[1, 1]] * 2 + [[0, 1]] * 3 + [[0, 0]] * 4
    assert [tuple(step[2]) for step in seen] == [(t == 2, t == 5) for t in range(1, 10)]
    assert not any(step[3].any() for step in seen)


@pytest.mark.parametrize("mode", MODES)
def test_cartpole_gives_the_same_trajectories_as_its_copies_one_by_one(mode: AutoresetMode) -> None:
    count, limit = 12, 40
    many = gymnasium.make_vec(
        "CartPole-v1", count, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, max_episode_steps=limit
    )
    episodes = roll_out(Leaning(), GymnasiumVector(many), np.random.default_rng(8), _persons(count))

    generator = np.random.default_rng(8)
    seed = int(generator.integers(2**62))
    uniform = generator.random((limit, count))
    for i in range(count):
        alone, policy = gymnasium.make("CartPole-v1", max_episode_steps=limit), Leaning()
        seen, over, t = alone.reset(seed=seed + i)[0], False, 0
        while not over:
            (action,), _ = policy.act(np.array([0]), seen[None], uniform[t, i : i + 1])
            assert np.array_equal(episodes.observations[i, t], seen)
            assert episodes.actions[i, t] == action
            seen, reward, terminated, truncated, _ = alone.step(action)
            assert episodes.rewards[i, t] == reward
            over, t = terminated or truncated, t + 1
        assert episodes.lengths[i] == t
        assert episodes.terminated[i] == terminated
        assert np.array_equal(episodes.final_observations[i], seen)
    assert 0 < episodes.terminated.sum() < count  # both kinds of end were seen


def test_our_own_id_gives_the_same_trajectories_as_our_environment() -> None:
    count = 500
    many = GymnasiumVector(gymnasium.make_vec(ID, count, max_episode_steps=12))
    acting = TableActing(UNIFORM)
    episodes = roll_out(acting, many, np.random.default_rng(4), _persons(count))

    generator = np.random.default_rng(4)
    ours = IcuSepsis(count, 12)
    states = ours.reset(np.random.default_rng(int(generator.integers(2**62))))
    running = np.ones(count, dtype=np.bool_)
    for t in range(12):
        live = np.flatnonzero(running)
        actions = np.zeros(count, dtype=np.int64)
        actions[live], _ = acting.act(live, states[live], generator.random(count)[live])
        assert np.array_equal(episodes.steps[:, t], running)
        assert np.array_equal(episodes.observations[live, t], states[live])
        states, rewards, ended, cut = ours.step(actions)
        assert np.array_equal(episodes.rewards[:, t], rewards)
        running &= ~(ended | cut)
    assert np.array_equal(episodes.final_observations, states)
    assert np.array_equal(episodes.terminated, states >= 713)
    assert 0 < episodes.terminated.sum() < count


def test_two_roll_outs_of_one_generator_differ_and_repeat() -> None:
    many = GymnasiumVector(gymnasium.make_vec(ID, 50))
    first, second = (many.reset(generator) for generator in [np.random.default_rng(1)] * 2)

    assert not np.array_equal(first, second)
    assert np.array_equal(first, many.reset(np.random.default_rng(1)))


def test_spaces_that_start_elsewhere_and_boxes_of_any_shape_are_converted() -> None:
    mode = AutoresetMode.SAME_STEP
    shifted = GymnasiumVector(_corridors(mode, [3], observed=Discrete(9, start=4), first_action=5), max_steps=9)
    picture = Box(0, 255, shape=(2, 3), dtype=np.uint8)
    pictures = GymnasiumVector(_corridors(mode, [3], observed=picture), max_steps=9)

    assert _walk(shifted).observations[0, :3].tolist() == [0, 1, 2]
    assert shifted.reset(np.random.default_rng(0)).dtype == np.int64
    assert pictures.reset(np.random.default_rng(0)).dtype == np.float32
    for _ in range(3):
        seen, _, ended, _ = pictures.step(np.zeros(1, dtype=np.int64))
    assert ended.all()
    assert np.array_equal(seen, np.full((1, 6), 3.0))


def test_masks_are_those_of_the_observations_that_came_last() -> None:
    environment = GymnasiumVector(_corridors(AutoresetMode.NEXT_STEP, [5, 5]), max_steps=9)
    first = environment.reset(np.random.default_rng(0))
    assert np.array_equal(environment.allowed(first), [[True, True]] * 2)
    second = environment.step(np.zeros(2, dtype=np.int64))[0]
    assert np.array_equal(environment.allowed(second), [[True, False]] * 2)
    with pytest.raises(InvalidParameter, match="came last"):
        environment.allowed(first)

    unmasked = GymnasiumVector(gymnasium.make_vec("CartPole-v1", 2))
    assert unmasked.allowed(unmasked.reset(np.random.default_rng(0))) is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("inside", [6, None])
def test_masks_of_each_step_and_of_where_an_episode_ends_arrive_in_its_trajectory(
    mode: AutoresetMode, inside: int | None
) -> None:
    environment = GymnasiumVector(_corridors(mode, [3, None, 5], inside), max_steps=6)
    episodes = roll_out(UniformActing(2), environment, np.random.default_rng(1), _persons(3))

    assert episodes.lengths.tolist() == [3, 6, 5]
    assert episodes.allowed is not None
    assert episodes.final_allowed is not None
    for i, length in enumerate([3, 6, 5]):
        assert episodes.allowed[i, :length].tolist() == [[True, t % 2 == 0] for t in range(length)]
        assert not episodes.allowed[i, length:].any()
        assert episodes.final_allowed[i].tolist() == [True, length % 2 == 0]
    assert usable_units(episodes, action_count=2, max_steps=6, state_count=50).all()


def test_what_cannot_be_an_environment_is_refused() -> None:
    corridors = _corridors(AutoresetMode.NEXT_STEP, [3])
    with pytest.raises(UnexpectedState, match="reset"):
        GymnasiumVector(corridors, 9).step(np.zeros(1, dtype=np.int64))
    for limit in (None, 0):
        with pytest.raises(InvalidParameter, match="max_steps must be at least 1"):
            GymnasiumVector(corridors, limit)
    with pytest.raises(InvalidParameter, match="actions must be Discrete"):
        GymnasiumVector(gymnasium.make_vec("Pendulum-v1", 2), 9)
    with pytest.raises(InvalidParameter, match="observations Discrete or Box"):
        GymnasiumVector(_corridors(AutoresetMode.NEXT_STEP, [3], observed=MultiBinary(3)), 9)
    corridors.metadata = {}
    with pytest.raises(InvalidParameter, match="AutoresetMode"):
        GymnasiumVector(corridors, 9)
