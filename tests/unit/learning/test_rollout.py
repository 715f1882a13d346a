"""Acting in an environment, with one environment that ends and one that is cut."""

from __future__ import annotations

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions
from secure_frl.learning.environments.icu_sepsis_features import IcuSepsisFeatures
from secure_frl.learning.rollout import roll_out, roll_out_table
from secure_frl.learning.trajectories import Trajectories, usable_units

UNIFORM = admissible_actions() / admissible_actions().sum(axis=1, keepdims=True)


def _roll_out(count: int, seed: int, max_steps: int = 48) -> Trajectories:
    persons = np.arange(count, dtype=np.uint64)
    return roll_out_table(UNIFORM, IcuSepsis(count, max_steps), np.random.default_rng(seed), persons)


def test_the_same_generator_gives_the_same_episodes() -> None:
    first, second, other = _roll_out(50, 1), _roll_out(50, 1), _roll_out(50, 2)

    assert np.array_equal(first.observations, second.observations)
    assert np.array_equal(first.actions, second.actions)
    assert not np.array_equal(first.observations, other.observations)


def test_every_rolled_out_episode_is_usable() -> None:
    episodes = _roll_out(500, 3)

    marks = usable_units(episodes, action_count=25, max_steps=48, state_count=716, allowed_table=admissible_actions())

    assert marks.all()


def test_an_episode_ends_in_a_terminal_state_or_is_cut() -> None:
    episodes = _roll_out(500, 4, max_steps=8)

    assert np.array_equal(episodes.terminated, episodes.final_observations >= 713)
    assert (episodes.lengths[~episodes.terminated] == 8).all()
    assert 0 < episodes.terminated.sum() < 500
    assert np.array_equal(episodes.rewards.sum(axis=1) == 1, episodes.final_observations == 714)


def test_an_episode_does_not_depend_on_how_long_others_last() -> None:
    """Two policies that differ in one state: every episode that never meets that state is the same, draw for draw."""
    changed = UNIFORM.copy()
    busy = int(np.flatnonzero(admissible_actions()[:713].sum(axis=1) > 1)[0])
    changed[busy] = 0.0
    changed[busy, int(admissible_actions()[busy].argmax())] = 1.0
    persons = np.arange(2_000, dtype=np.uint64)

    one = roll_out_table(UNIFORM, IcuSepsis(2_000), np.random.default_rng(5), persons)
    two = roll_out_table(changed, IcuSepsis(2_000), np.random.default_rng(5), persons)

    untouched = ~((one.observations == busy) & one.steps).any(axis=1)
    assert 0 < untouched.sum() < 2_000
    assert np.array_equal(one.observations[untouched], two.observations[untouched])
    assert np.array_equal(one.actions[untouched], two.actions[untouched])
    assert not np.array_equal(one.lengths, two.lengths)


def test_logged_behaviour_is_the_policy_that_acted() -> None:
    episodes = _roll_out(200, 6)
    assert episodes.log_behaviour is not None

    steps = episodes.steps
    expected = np.log(UNIFORM[episodes.observations[steps], episodes.actions[steps]])

    assert np.allclose(episodes.log_behaviour[steps], expected, atol=1e-6)


@pytest.mark.statistical
def test_actions_follow_the_policy() -> None:
    """Seed 7, one skewed policy in a state with a choice; 5.5 deviations of a binomial: false alarm below 4e-8."""
    state = int(np.flatnonzero(admissible_actions()[:713].sum(axis=1) == 4)[0])
    skewed = UNIFORM.copy()
    skewed[:713] = np.where(admissible_actions()[:713], UNIFORM[:713], 0.0)
    chosen = np.flatnonzero(admissible_actions()[state])
    skewed[state, chosen] = [0.7, 0.1, 0.1, 0.1]
    persons = np.zeros(20_000, dtype=np.uint64)

    episodes = roll_out_table(skewed, IcuSepsis(20_000), np.random.default_rng(7), persons)

    here = episodes.actions[(episodes.observations == state) & episodes.steps]
    assert here.size > 100
    assert abs((here == chosen[0]).mean() - 0.7) < 5.5 * np.sqrt(0.21 / here.size)
    # Control: the uniform policy would show .25.
    assert abs((here == chosen[0]).mean() - 0.25) > 5.5 * np.sqrt(0.21 / here.size)


def test_an_action_without_probability_is_never_chosen() -> None:
    """What rounding leaves over, here exaggerated to .2, goes to the last action that has probability."""
    short = np.zeros((716, 25))
    short[:, 0] = 0.4
    short[:, 1] = 0.4
    persons = np.zeros(2_000, dtype=np.uint64)

    episodes = roll_out_table(short, IcuSepsis(2_000), np.random.default_rng(8), persons)

    assert set(np.unique(episodes.actions)) == {0, 1}


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="one person a copy"):
        roll_out_table(UNIFORM, IcuSepsis(5), np.random.default_rng(0), np.zeros(4, dtype=np.uint64))
    with pytest.raises(InvalidParameter, match="25"):
        roll_out_table(UNIFORM[:, :5], IcuSepsis(5), np.random.default_rng(0), np.zeros(5, dtype=np.uint64))


def test_an_empty_site_rolls_out_nothing() -> None:
    assert _roll_out(0, 1).steps.shape == (0, 48)


class Seen:
    """Acts by chance on what it is shown, and keeps the masks."""

    action_count = 25

    def __init__(self, needs_masks: bool) -> None:
        self.needs_masks = needs_masks
        self.masks: list[np.ndarray | None] = []

    def begin(self, count: int) -> None:
        self.masks = []

    def act(
        self, episodes: np.ndarray, seen: np.ndarray, uniform: np.ndarray, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.masks.append(allowed)
        chosen = np.zeros(uniform.size, np.int64) if allowed is None else allowed.argmax(axis=1)
        return chosen, np.zeros(uniform.size)


def test_masks_of_the_environment_arrive_at_the_policy_and_in_the_trajectories() -> None:
    persons = np.arange(50, dtype=np.uint64)
    episodes = roll_out(Seen(True), IcuSepsis(50, 9), np.random.default_rng(1), persons)

    assert episodes.allowed is not None
    assert episodes.final_allowed is not None
    expected = admissible_actions()[episodes.observations]
    assert np.array_equal(episodes.allowed[episodes.steps], expected[episodes.steps])
    assert not episodes.allowed[~episodes.steps].any()  # padding holds zeros
    assert np.array_equal(episodes.final_allowed, admissible_actions()[episodes.final_observations])
    assert 0 < episodes.terminated.sum() < 50
    assert usable_units(episodes, action_count=25, max_steps=9, state_count=716).all()


def test_an_action_outside_its_own_mask_makes_an_episode_unusable() -> None:
    persons = np.arange(50, dtype=np.uint64)
    episodes = roll_out(Seen(True), IcuSepsisFeatures(50, 9), np.random.default_rng(1), persons)
    assert episodes.allowed is not None
    fine = {"action_count": 25, "max_steps": 9}
    assert usable_units(episodes, feature_count=47, **fine).all()

    episodes.allowed[7, 0] = ~episodes.allowed[7, 0]

    assert np.flatnonzero(~usable_units(episodes, feature_count=47, **fine)).tolist() == [7]


def test_observations_of_another_kind_or_width_are_never_usable() -> None:
    persons = np.arange(5, dtype=np.uint64)
    by_state = roll_out(Seen(False), IcuSepsis(5, 9), np.random.default_rng(1), persons)
    by_features = roll_out(Seen(False), IcuSepsisFeatures(5, 9), np.random.default_rng(1), persons)
    fine = {"action_count": 25, "max_steps": 9}

    assert by_features.allowed is None  # nobody asked for masks
    assert usable_units(by_features, feature_count=47, **fine).all()
    assert not usable_units(by_features, feature_count=46, **fine).any()
    assert not usable_units(by_features, state_count=716, **fine).any()
    assert not usable_units(by_state, feature_count=47, **fine).any()
