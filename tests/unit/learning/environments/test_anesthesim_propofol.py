"""The third-party anesthesia simulator: its own rewards under our list of doses, and a study that runs on it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from anesthesim.envs.propofol_control import PropofolControlEnv

import secure_frl
from secure_frl.errors import ConfigError
from secure_frl.learning.environments.anesthesim_propofol import MAX_STEPS, infusion_rate, propofol_control
from secure_frl.learning.settings import setting_named
from secure_frl.study_file import parse_study

EXAMPLE = Path(__file__).parents[4] / "examples" / "anesthesia" / "study.toml"
NAME = "secure_frl.learning.environments.anesthesim_propofol:propofol_control"


def test_levels_are_the_published_rates_and_rewards_are_the_published_ones() -> None:
    ours, theirs = propofol_control(), PropofolControlEnv(difficulty="medium", max_steps=MAX_STEPS)
    ours.reset(seed=5)
    theirs.reset(seed=5)
    levels = np.random.default_rng(1).integers(0, 11, 30)

    for level in levels:
        seen, reward, *ends = ours.step(int(level))
        shown, published, *published_ends, _ = theirs.step(np.array([20.0 * level], dtype=np.float32))
        assert reward == published
        assert ends[:2] == published_ends
        low, high = theirs.observation_space.low, theirs.observation_space.high
        np.testing.assert_allclose(seen, 2 * (shown - low) / (high - low) - 1, atol=1e-5)

    assert infusion_rate(10) == np.float32(200)


def test_patients_side_by_side_differ_and_an_episode_does_not_depend_on_the_others_actions() -> None:
    setting = setting_named(NAME, "features")
    assert (setting.states, setting.features, setting.actions) == (None, 6, 11)
    rewards = []
    for action_of_the_other in (0, 10):
        copies = setting.make(2, 40)
        first = copies.reset(np.random.default_rng(3))
        actions = np.array([5, action_of_the_other])
        rewards.append([copies.step(actions)[:2] for _ in range(20)])
    (seen, _), (other, _) = rewards[0][-1], rewards[1][-1]

    np.testing.assert_array_equal(seen[0], other[0])
    assert not np.array_equal(seen[1], other[1])
    assert first.shape == (2, 6)


def test_without_the_package_the_way_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anesthesim.envs.propofol_control", None)

    with pytest.raises(ConfigError, match=r"secure-frl\[anesthesim\]"):
        propofol_control()


def test_a_study_on_it_runs_and_its_books_hold(tmp_path: Path) -> None:
    raw = {
        "study": {"schema": 1, "name": "propofol"},
        "sites": {"count": 3, "min_survivors": 3},
        "data": {"environment": NAME, "observation": "features", "max_steps": 20},
        "policy": {"kind": "mlp", "hidden": [8], "critic": "none"},
        "training": {"rounds": 2, "episodes_per_site": 4},
        "privacy": {"delta": 1e-3},
        "output": {"evaluation_episodes": 8},
    }

    result = secure_frl.run(parse_study(raw), tmp_path / "run")

    assert result.rounds_completed == 2
    assert -2 * 200 <= result.mean_return <= 200
    assert secure_frl.verify(tmp_path / "run").holds


def test_the_example_names_this_environment() -> None:
    assert secure_frl.load_study(EXAMPLE).data.environment == NAME
