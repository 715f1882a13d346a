"""ICU-Sepsis under its Gymnasium id, beside the environment that the package itself uses."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from secure_frl.errors import InvalidParameter, UnexpectedState
from secure_frl.learning.environments import gymnasium_icu_sepsis
from secure_frl.learning.environments.gymnasium_icu_sepsis import ID, register
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions, load_tables


def _actions(steps: int, count: int) -> np.ndarray:
    return np.random.default_rng(99).integers(25, size=(steps, count))


@pytest.mark.filterwarnings("error")
def test_gymnasium_finds_nothing_to_complain_of() -> None:
    check_env(gymnasium.make(ID).unwrapped)


def test_the_id_that_names_its_module_needs_no_import_and_our_own_form_no_gymnasium() -> None:
    """In a process of its own: here the id is registered already."""
    program = f"""
import sys
import secure_frl.learning.rollout, secure_frl.learning.environments.icu_sepsis
assert "gymnasium" not in sys.modules
import gymnasium
assert "{ID}" not in gymnasium.registry
assert gymnasium.make("{gymnasium_icu_sepsis.__name__}:{ID}").spec.max_episode_steps == 48
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_registering_twice_changes_nothing() -> None:
    before = gymnasium.registry[ID]
    register()
    assert gymnasium.registry[ID] is before


def test_one_patient_is_the_same_patient_as_in_our_own_environment() -> None:
    ours, theirs = IcuSepsis(1, max_steps=6), gymnasium.make(ID, max_episode_steps=6)
    endings = set()
    for seed in range(40):
        state = ours.reset(np.random.default_rng(seed))
        seen, info = theirs.reset(seed=seed)
        assert seen == state[0]
        for taken, action in enumerate(_actions(6, 1), start=1):
            assert np.array_equal(info["allowed_actions"], admissible_actions()[seen])
            states, rewards, ended, _ = ours.step(action)
            seen, reward, terminated, truncated, info = theirs.step(action[0])
            assert (seen, reward, terminated) == (states[0], rewards[0], ended[0])
            # At its limit Gymnasium calls an episode truncated also when it ended there.
            assert truncated == (taken == 6)
            if terminated or truncated:
                endings.add((reward, bool(terminated)))
                break
    assert endings == {(1.0, True), (0.0, True), (0.0, False)}  # survival, death and a cut were all seen


def test_many_patients_are_the_same_as_in_our_own_environment_until_each_is_over() -> None:
    count, limit = 300, 10
    ours, theirs = IcuSepsis(count, limit), gymnasium.make_vec(ID, num_envs=count, max_episode_steps=limit)
    states = ours.reset(np.random.default_rng(5))
    seen, info = theirs.reset(seed=5)
    running = np.ones(count, dtype=np.bool_)
    assert np.array_equal(seen, states)
    for actions in _actions(limit, count):
        assert np.array_equal(info["allowed_actions"], admissible_actions()[seen])
        assert info["_allowed_actions"].all()
        states, rewards, ended, cut = ours.step(actions)
        seen, reward, terminated, truncated, info = theirs.step(actions)
        for expected, came in ((states, seen), (rewards, reward), (ended, terminated), (cut, truncated)):
            assert np.array_equal(expected[running], came[running])
        running &= ~(ended | cut)
    assert not running.any()


def test_the_step_after_an_end_admits_the_next_patient() -> None:
    count = 400
    many = gymnasium.make_vec(ID, num_envs=count, max_episode_steps=3)
    assert many.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    many.reset(seed=1)
    over, taken, admitted = np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.int64), []
    for actions in _actions(12, count):
        seen, reward, terminated, truncated, _ = many.step(actions)
        taken = np.where(over, 0, taken + 1)
        admitted.append(seen[over])
        assert not reward[over].any()
        assert not (terminated | truncated)[over].any()
        assert np.array_equal(truncated, ~terminated & (taken == 3))
        assert np.array_equal(terminated, seen >= 713)
        over = terminated | truncated
    first = np.concatenate(admitted)
    assert first.size > 1_000
    assert set(first) <= set(np.flatnonzero(load_tables().initial))


def test_a_patient_does_not_depend_on_how_another_one_is_treated() -> None:
    """Over about ten episodes: copy 0 gets other actions in the second run, all others the same."""
    runs = []
    for other in (0, 24):
        many = gymnasium.make_vec(ID, num_envs=50)
        many.reset(seed=2)
        actions = _actions(100, 50)
        actions[:, 0] = other
        runs.append(np.array([many.step(row)[0] for row in actions]))

    assert not np.array_equal(runs[0][:, 0], runs[1][:, 0])
    assert np.array_equal(runs[0][:, 1:], runs[1][:, 1:])


def test_calls_out_of_place_are_refused() -> None:
    one, many = gymnasium_icu_sepsis.IcuSepsisEnv(), gymnasium_icu_sepsis.IcuSepsisVectorEnv(3)
    with pytest.raises(UnexpectedState, match="reset"):
        one.step(np.int64(0))
    with pytest.raises(UnexpectedState, match="reset"):
        many.step(np.zeros(3, dtype=np.int64))
    one.reset(seed=0)
    many.reset(seed=0)
    with pytest.raises(InvalidParameter, match=r"0\.\.24"):
        one.step(np.int64(25))
    for actions in (np.array([0, 25, 0]), np.array([0, -1, 0]), np.zeros(2, dtype=np.int64), np.zeros(3)):
        with pytest.raises(InvalidParameter, match="3 integers"):
            many.step(actions)
    for copies, limit in ((0, 48), (3, 0)):
        with pytest.raises(InvalidParameter, match="at least 1"):
            gymnasium_icu_sepsis.IcuSepsisVectorEnv(copies, limit)
    ended = False
    while not ended:
        ended = one.step(np.int64(0))[2]
    with pytest.raises(UnexpectedState, match="reset"):
        one.step(np.int64(0))
