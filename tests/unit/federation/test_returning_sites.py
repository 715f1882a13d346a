"""A site that missed rounds comes back to the whole state of training, moments too, and goes on as everybody does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interposed_sites import interposed, silent

from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
from secure_frl.federation.training_state import TrainingState
from secure_frl.study import Study

pytestmark = pytest.mark.slow

EPOCHS = {
    "training.objective": "ppo",
    "training.epochs": 2,
    "training.local": {"step_size": 40.0},
    "privacy.noise": "local",
}
GLOBAL_STEPS: dict[str, dict[str, Any]] = {
    "fedavgm": {"momentum": 0.9, "step_size": 1.0},
    "fedadam": {"optimiser": "adam", "momentum": 0.5, "step_size": 0.1, "noise_corrected": True},
}


@pytest.mark.parametrize("aggregation", GLOBAL_STEPS)
def test_a_site_that_missed_two_rounds_computes_the_next_state_as_everybody_does(
    aggregation: str, tiny: Callable[..., Study], tmp_path: Path
) -> None:
    """Site 4 of 4 hears nothing in rounds 2 and 3: its deadline passes, and the others go on without it."""
    study = tiny(
        {
            **EPOCHS,
            "sites": {"count": 4, "min_survivors": 3, "max_colluders": 1},
            "training.rounds": 4,
            "training.aggregation": aggregation,
            "training.global": {**GLOBAL_STEPS[aggregation], "schedule": "constant"},
            "output.keep_policies": "all",
        }
    )
    opened: dict[Any, Any] = {}  # Any: sites of this process, looked into below

    def open_sites(*arguments: Any) -> dict[Any, Any]:
        opened.update(interposed(silent({3}, {2, 3}))(*arguments))
        return opened

    result = simulation.run(study, tmp_path / "run", open_sites=open_sites)

    models = [(tmp_path / f"run/policies/round-{number:04d}.model").read_bytes() for number in range(1, 5)]
    states = [TrainingState.from_bytes(model) for model in models]
    log = (tmp_path / "run/state/sites/site-04/site.log").read_text()
    assert result.survivors_min == 3
    assert log.count("took the policy of step 3") == 1  # with R0 of round 4; it computed the next by itself
    assert [opened[site]._site._held.state.to_bytes() for site in range(4)] == [models[-1]] * 4
    assert all(state.momentum.any() for state in states)
    assert all((state.second_moment is not None) == (aggregation == "fedadam") for state in states)
    assert verify(tmp_path / "run").holds
