"""Inside a round nothing that depends on a patient changes what others see: sizes, replies, codes stay the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secure_frl.errors import DataRefused
from secure_frl.federation import simulation
from secure_frl.federation.run_folder import RunOptions
from secure_frl.federation.simulated_patients import SimulatedPatients
from secure_frl.learning.trajectories import Trajectories
from secure_frl.study import Study
from secure_frl.wire.capture import read_capture
from secure_frl.wire.envelope import read_header

pytestmark = pytest.mark.slow
Spoil = Callable[[Trajectories], Trajectories]


def _with_nan(window: Trajectories) -> Trajectories:
    rewards = window.rewards.copy()
    rewards[0, 0] = np.nan
    return replace(window, rewards=rewards)


def _with_infinity_and_a_hole(window: Trajectories) -> Trajectories:
    rewards, steps = window.rewards.copy(), window.steps.copy()
    rewards[1, 0] = np.inf
    steps[2, 0] = False
    return replace(window, rewards=rewards, steps=steps)


def _with_an_inadmissible_action(window: Trajectories) -> Trajectories:
    actions = window.actions.copy()
    actions[0, 0] = 10_000
    return replace(window, actions=actions)


def _with_an_unknown_state(window: Trajectories) -> Trajectories:
    observations = window.observations.copy()
    observations[3, 0] = -7
    return replace(window, observations=observations)


def _with_one_person_only(window: Trajectories) -> Trajectories:
    return replace(window, persons=np.full_like(window.persons, 7))


def _emptied(window: Trajectories) -> Trajectories:
    return window.select(np.zeros(0, dtype=np.int64))


SPOILED: dict[str, Spoil] = {
    "nan": _with_nan,
    "infinity and a hole": _with_infinity_and_a_hole,
    "inadmissible action": _with_an_inadmissible_action,
    "unknown state": _with_an_unknown_state,
    "one person in every window": _with_one_person_only,
    "no patients": _emptied,
}


def _shape_of_a_run(study: Study, folder: Path, spoil: Spoil | None) -> list[tuple[str, int, int, int, int]]:
    """Run with one site's windows spoiled; return what an observer of every frame sees of each."""
    collect = SimulatedPatients.collect

    def spoiled(self: SimulatedPatients, probabilities: object, context: object) -> Trajectories:
        window = collect(self, probabilities, context)  # type: ignore[arg-type]
        return spoil(window) if spoil is not None and self._site == 0 else window

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedPatients, "collect", spoiled)
        result = simulation.run(study, folder / "run", RunOptions(capture=folder / "capture"))
    assert result.rounds_completed == 2
    seen = []
    for item in read_capture(folder / "capture"):
        header = read_header(item.frame)
        seen.append((item.direction, item.site, header.type, header.round, len(item.frame)))
    return seen


@pytest.fixture(scope="module")
def clean_shape(
    tiny: Callable[..., Study], tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, int, int, int, int]]:
    return _shape_of_a_run(tiny(), tmp_path_factory.mktemp("clean"), None)


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED.keys())
def test_unusable_units_change_no_size_and_no_reply(
    spoil: Spoil, clean_shape: list[tuple[str, int, int, int, int]], tiny: Callable[..., Study], tmp_path: Path
) -> None:
    assert _shape_of_a_run(tiny(), tmp_path, spoil) == clean_shape


def test_the_same_data_is_refused_aloud_before_the_site_joins(
    tiny: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = SimulatedPatients.probe
    monkeypatch.setattr(SimulatedPatients, "probe", lambda self: _with_nan(probe(self)))

    with pytest.raises(DataRefused, match="NaN or infinity"):
        simulation.run(tiny(), tmp_path / "run")


def test_what_was_unusable_is_counted_in_the_sites_own_log_only(
    tiny: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = SimulatedPatients.collect
    monkeypatch.setattr(
        SimulatedPatients,
        "collect",
        lambda self, probabilities, context: _with_nan(collect(self, probabilities, context)),
    )

    simulation.run(tiny(), tmp_path / "run")

    assert "1 units count as zero" in (tmp_path / "run/state/sites/site-01/site.log").read_text()
    assert "units" not in (tmp_path / "run/state/coordinator/coordinator.log").read_text()
