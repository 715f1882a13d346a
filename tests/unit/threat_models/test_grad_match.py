"""Gradient matching on real rehearsals: a few steps come out of an unprotected message, and not out of a noised one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from secure_frl.cli.main import app
from secure_frl.study import Study
from threat_models.adversaries.grad_match import GradMatch
from threat_models.defences import LOCAL_8, PLAIN, Defence, changed, defended
from threat_models.evaluations.grad_match import REFERENCE, STEPS, identified
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.public import public_of
from threat_models.threat import View
from threat_models.truth import Truth

pytestmark = pytest.mark.threats
TINY = Path(__file__).parents[2] / "studies" / "tiny.toml"


def _recording(study: Study, defence: Defence) -> Recording:
    return rehearse(defended(changed(study, REFERENCE, {"training.rounds": 1}), defence, clip_norm=0.7))


def _fitted(recording: Recording, iterations: int) -> tuple[int, np.ndarray]:
    """Return the site whose message was attacked, and the fit."""
    adversary = GradMatch(STEPS, 1, iterations)
    adversary.prepare(public_of(recording.study), np.random.default_rng(0))
    guess = adversary.run(view_of(recording, View.COORDINATOR))
    ((name, fitted),) = guess.items()
    return int(name.removeprefix("upload/1/")), np.asarray(fitted)


def _hits(recording: Recording, site: int, fitted: np.ndarray) -> int:
    states = public_of(recording.study).codebook().astype(np.float64)
    return int(identified(fitted, recording.truth.steps_of(1, (site,)).astype(np.float64), states)[0].sum())


@pytest.fixture(scope="module")
def plain(tiny: Callable[..., Study]) -> Recording:
    return _recording(tiny(), PLAIN)


def test_states_come_out_of_an_unprotected_message_without_any_table(plain: Recording) -> None:
    site, fitted = _fitted(plain, 250)

    assert fitted.shape == (STEPS, 47)
    assert _hits(plain, site, fitted) >= 2


def test_none_comes_out_of_a_noised_one(tiny: Callable[..., Study]) -> None:
    recording = _recording(tiny(), LOCAL_8)

    assert _hits(recording, *_fitted(recording, 60)) == 0


def test_the_guess_is_byte_identical_when_only_the_truth_changes(plain: Recording) -> None:
    perturbed = replace(plain, truth=Truth({}, {}, {}))

    (site, fitted), (other, again) = _fitted(plain, 5), _fitted(perturbed, 5)

    assert (other, again.tobytes()) == (site, fitted.tobytes())


def test_a_step_is_identified_when_its_own_fit_is_nearest_to_its_state() -> None:
    states = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    true = states[[0, 1]]

    found, errors = identified(np.array([[0.9, 0.0], [0.1, 0.8]]), true, states)

    assert found.tolist() == [False, True]  # the second fit is nearest to the third state
    assert errors == pytest.approx([0.325, 0.005])


def test_a_true_step_without_a_fit_is_not_found() -> None:
    states = np.array([[0.0, 0.0], [1.0, 0.0]])

    assert identified(states[:1], states, states)[0].tolist() == [True, False]


def test_a_quick_run_of_what_the_quick_suite_leaves_out_is_refused_and_says_what_to_do() -> None:
    result = CliRunner().invoke(app, ["attack", str(TINY), "--quick", "--attack", "grad_match", "--json"])

    said = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 2
    assert said["error"] == "InvalidParameter"
    assert "leave out --quick" in said["message"]
