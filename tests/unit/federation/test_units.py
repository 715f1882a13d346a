"""Whole studies whose unit is a site or a step: they run, add up, verify, and are marked where they must be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from secure_frl.errors import StudyRefused
from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
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


@pytest.mark.parametrize("key", [{"training.gae_lambda": 0.2}, {"policy.critic": "private"}, {"policy.kind": "gru"}])
def test_steps_whose_loss_needs_other_steps_are_refused(tiny: Callable[..., Study], key: dict[str, object]) -> None:
    with pytest.raises(StudyRefused, match="needs no other step"):
        tiny(STEP | key)
