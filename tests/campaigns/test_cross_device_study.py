"""A whole study of 101 sites on a sparse graph, with losses: its own file since every site has its own books."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
from secure_frl.study import Study

DEVICES = {
    "sites.count": 101,
    "sites.min_survivors": 95,
    "sites.max_colluders": 3,
    "sites.simulate_drop": {"before_masked": 3, "after_masked": 2},
    "privacy.delta": 1e-4,
    "protection.profile": "cross_device",
    "protection.corrupt_fraction": 0.03,
    "protection.dropout_fraction": 0.06,
    "protection.privacy_exponent": 20,
}


@pytest.mark.campaign
@pytest.mark.slow
def test_a_cross_device_study_ends_and_verifies(tiny: Callable[..., Study], tmp_path: Path) -> None:
    study = tiny(DEVICES)
    assert (study.neighbours, study.threshold) == (10, 4)

    result = simulation.run(study, tmp_path / "run")

    assert result.rounds_completed == 2
    assert result.survivors_min == 98
    assert result.epsilon_spent <= 4.0
    assert "MALICIOUS coordinator: not excluded" in result.trust
    assert verify(tmp_path / "run").findings == ()
