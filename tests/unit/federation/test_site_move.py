"""A site's whole move as the unit: its bound, its mean over sites, and runs that learn by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secure_frl
from secure_frl.errors import StudyRefused
from secure_frl.federation import site_move
from secure_frl.federation.optimisers import initial_state, step
from secure_frl.federation.simulated_patients import made_up
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training import Trainer
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.planning import sum_constants
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import SiteId, Sum
from secure_frl.study import Study
from secure_frl.study_file import parse_study

RAW: dict[str, Any] = {
    "study": {"schema": 1, "name": "moves"},
    "sites": {"count": 3, "min_survivors": 3},
    "data": {"environment": "CartPole-v1", "observation": "features", "max_steps": 40},
    "policy": {"kind": "mlp", "hidden": [8], "critic": "network", "critic_start": 0.0},
    "training": {
        "objective": "ppo",
        "aggregation": "fedavg",
        "epochs": 3,
        "rounds": 2,
        "episodes_per_site": 5,
        "global": {"step_size": 1.0, "momentum": 0.0, "schedule": "constant"},
        "local": {"optimiser": "adam", "step_size": 0.01, "minibatch": 16},
    },
    "privacy": {"unit": "site", "noise": "unsafe-none", "clip_norm": 50.0, "delta": 1e-3},
    "output": {"evaluation_episodes": 20},
}
DQN = {"training.objective": "dqn", "policy.critic": "none", "training.epochs": 1, "training.local_steps": 5}


def study(**changes: Any) -> Study:
    return parse_study(RAW, {key.replace("__", "."): value for key, value in changes.items()})


def message(of: Study, window: Trajectories, site: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return a site's message before its noise, in units of the clips."""
    constants = sum_constants(of)
    quiet = replace(constants, noise="unsafe-none")
    trainer, state = Trainer(of, quiet, SiteId(site)), initial_state(optimiser_rule(of, quiet))
    everybody = np.ones(window.count, dtype=np.bool_)
    found = trainer.update(state, window, everybody, rehearsal_source(1, "dither"), 0)
    return found.integers / found.scale


@pytest.mark.parametrize("factor", [1.0, 1e6])
def test_a_move_is_at_most_one_clip_long_whatever_the_data_made_of_it(factor: float) -> None:
    private = study(privacy__noise="distributed", privacy__clip_norm=0.01, training__local__step_size=0.5)
    window = made_up(private, 5)

    found = message(private, replace(window, rewards=(window.rewards * factor).astype(np.float32)))

    assert np.linalg.norm(found) <= 1.001  # and the dither's, half a step of the grid a value
    assert np.linalg.norm(found) >= 0.9


def test_parameters_after_a_round_are_the_mean_of_the_sites_own() -> None:
    of = study()
    constants, rule = sum_constants(of), optimiser_rule(of, sum_constants(of))
    state, window = initial_state(rule), made_up(of, 5)
    moves = [-50.0 * message(of, window, site) for site in range(3)]
    total = sum(np.rint(-move / 50.0 * constants.scale).astype(np.int64) for move in moves)

    following = step(state, Sum(np.asarray(total), constants.scale, (SiteId(0), SiteId(1), SiteId(2))), rule)

    assert not np.allclose(moves[0], moves[1], atol=1e-4)  # an order of minibatches each
    np.testing.assert_allclose(following.parameters, state.parameters + np.mean(moves, axis=0), atol=1e-9)


def test_steps_written_out_and_steps_by_autograd_go_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    of, window = study(), made_up(study(), 5)
    fast = message(of, window)
    monkeypatch.setattr(site_move, "is_offered", lambda *networks: False)

    np.testing.assert_allclose(fast, message(of, window), atol=2e-5)


def test_a_site_that_saw_nothing_usable_sends_a_message_like_any_other() -> None:
    of = study()
    window = made_up(of, 5)
    broken = replace(window, rewards=np.full_like(window.rewards, np.nan))

    assert not message(of, broken).any()


@pytest.mark.parametrize(
    "changes",
    [{}, DQN, DQN | {"policy.kind": "random_features"}],
    ids=["ppo", "dqn", "dqn over a fixed map"],
)
def test_a_study_runs_and_its_books_hold(tmp_path: Path, changes: dict[str, Any]) -> None:
    result = secure_frl.run(parse_study(RAW, changes), tmp_path / "run")

    assert result.rounds_completed == 2
    assert result.unit == "site"
    assert 8 <= result.mean_return <= 500
    assert secure_frl.verify(tmp_path / "run").holds


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"privacy.unit": "patient", "training.epochs": 1}, "a site's whole move is what is protected"),
        ({"training.global.step_size": 5000.0}, "step_size up to 10"),
        ({"training.aggregation": "fedprox"}, "local.proximal above 0"),
        ({"training.aggregation": "fedavgm"}, "momentum above 0"),
        ({"training.aggregation": "fedprox", "training.local.proximal": 200.0}, "below 1, or steps overshoot"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyRefused, match=says):
        parse_study(RAW, changes)
