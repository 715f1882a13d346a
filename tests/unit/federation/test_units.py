"""Whole studies whose unit is a site or a step: they run, add up, verify, and are marked where they must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from secure_frl.errors import StudyRefused
from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
from secure_frl.federation.optimisers import initial_state
from secure_frl.federation.simulated_patients import SimulatedPatients
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training import Trainer
from secure_frl.privacy.planning import sum_constants
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import SiteId
from secure_frl.study import Study

pytestmark = pytest.mark.slow
STEP = {
    "privacy.unit": "unsafe-transition",
    "privacy.delta": 1e-4,  # 2 rounds x 3 sites x 24 episodes x 48 steps
    "training.gae_lambda": 0.0,
    "policy.critic": "none",
}


def test_a_site_is_charged_for_each_of_its_rounds(tiny: Callable[..., Study], tmp_path: Path) -> None:
    result = simulation.run(tiny({"privacy.unit": "site"}), tmp_path / "run")
    said = verify(tmp_path / "run")

    assert said.holds, said.findings
    assert said.epsilon_recomputed == result.epsilon_spent
    assert 3.99 < result.epsilon_spent <= 4.0  # both rounds together
    assert result.statement["composition"] == "one data set"


def test_steps_as_units_mark_the_result_and_the_verification(tiny: Callable[..., Study], tmp_path: Path) -> None:
    result = simulation.run(tiny(STEP), tmp_path / "run")
    said = verify(tmp_path / "run")

    assert said.holds, said.findings
    assert result.unsafe == ("privacy.unit = unsafe-transition",)
    assert any("any protection of a patient" in sentence for sentence in said.not_proved)


def test_a_step_that_cannot_be_used_takes_no_other_step_along(tiny: Callable[..., Study]) -> None:
    study = tiny(STEP | {"privacy.noise": "unsafe-none"})
    constants = sum_constants(study)
    window = SimulatedPatients(study, SiteId(0), bytes(32)).probe()
    rewards = window.rewards + 100 * window.steps.astype(np.float32)  # every step is clipped
    spoilt = rewards.copy()
    spoilt[np.argmax(window.lengths), 0] = np.nan  # the first of many steps

    def message(rewards: NDArray[np.float32]) -> NDArray[np.int64]:
        state, everybody = initial_state(optimiser_rule(study, constants)), np.ones(window.count, dtype=np.bool_)
        source = rehearsal_source(0, "steps")
        return Trainer(study, constants).update(state, replace(window, rewards=rewards), everybody, source, 0).integers

    moved = np.linalg.norm(message(rewards) - message(spoilt)) / constants.scale
    assert window.lengths.max() > 4
    assert 0.9 < moved < 1 + np.sqrt(constants.length) / constants.scale


@pytest.mark.parametrize("key", [{"training.gae_lambda": 0.2}, {"policy.critic": "private"}, {"policy.kind": "gru"}])
def test_steps_whose_loss_needs_other_steps_are_refused(tiny: Callable[..., Study], key: dict[str, object]) -> None:
    with pytest.raises(StudyRefused, match="needs no other step"):
        tiny(STEP | key)
