"""The mean of the last policies as what is released: its numbers, its figures, and where people look for it."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interposed_sites import Killed

from secure_frl.errors import UnexpectedState
from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
from secure_frl.federation.policy_files import load_policy
from secure_frl.federation.tail_average import released_state, tail_of
from secure_frl.federation.training_state import TrainingState
from secure_frl.learning.evaluation import exact_return
from secure_frl.study import Study

pytestmark = pytest.mark.slow
Tiny = Callable[..., Study]
TAIL = {"output.keep_policies": "all", "output.tail_average": 2, "training.rounds": 3}


@pytest.mark.parametrize("protection", ["masking", "ckks+masking"])
def test_a_run_releases_the_mean_of_its_last_policies(tiny: Tiny, tmp_path: Path, protection: str) -> None:
    """Held against the kept policies as they are read for use, and against the exact value of what is released."""
    run = tmp_path / "run"

    result = simulation.run(tiny({**TAIL, "protection.method": protection}), run)

    released = load_policy(run)
    kept = [load_policy(run / f"policies/round-{number:04d}.safetensors") for number in (1, 2, 3)]
    logits = [policy.arrays["logits.weight"] for policy in kept]
    np.testing.assert_array_equal(released.arrays["logits.weight"], (logits[1] + logits[2]) / 2)
    assert not np.allclose(logits[1], logits[2])
    assert released.probabilities is not None
    assert result.mean_return == exact_return(released.probabilities)
    assert result.mean_return != exact_return(kept[2].probabilities)  # type: ignore[arg-type]  # a table has them
    assert released.round == 3
    assert verify(run).holds


# where the program ends: before the journal's last row has its file, or with the last policy named as the released one
PLACES: dict[str, tuple[str, str, Callable[..., bool]]] = {
    "a round's policy is not kept yet": ("released", "_write", lambda *arguments: arguments[2] == 2),
    "the mean is not written yet": ("finish", "write_released", lambda *_: True),
}


@pytest.mark.parametrize(
    ("place", "protection"), [*((place, "masking") for place in PLACES), ("a round's policy is not kept yet", "ckks")]
)
def test_a_program_that_ends_between_releases_and_their_mean_resumes_to_the_same_mean(
    place: str, protection: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name, when = PLACES[place]
    run, owner = tmp_path / "run", importlib.import_module(f"secure_frl.federation.{module}")
    real = getattr(owner, name)

    def ended(*arguments: Any) -> None:
        if when(*arguments):
            raise Killed
        real(*arguments)

    monkeypatch.setattr(owner, name, ended)
    with pytest.raises(Killed):
        simulation.run(tiny({**TAIL, "output.tail_average": 3, "protection.method": protection}), run)
    monkeypatch.setattr(owner, name, real)

    simulation.resume(run)

    kept = [TrainingState.from_bytes((run / f"policies/round-{number:04d}.model").read_bytes()) for number in (1, 2, 3)]
    mean = (kept[0].parameters + kept[1].parameters + kept[2].parameters) / 3
    logits = load_policy(run).arrays["logits.weight"]
    np.testing.assert_array_equal(logits[logits != 0], mean[mean != 0])
    assert json.loads((run / "policies/policy.json").read_text())["mean_of_rounds"] == "[1, 2, 3]"
    assert verify(run).findings == ()


def test_of_fewer_policies_all_count_and_lost_rounds_leave_none(tiny: Tiny) -> None:
    study = tiny({**TAIL, "output.tail_average": 3})

    assert tail_of([1, 2, 4, 7], study) == [2, 4, 7]
    assert tail_of([5], study) == [5]
    assert tail_of([1, 2, 4], tiny()) == [4]


@pytest.fixture(scope="module")
def kept(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the last policy of the tiny study, as if it were of rounds 1 and 2."""
    folder = tmp_path_factory.mktemp("policies")
    for number in (1, 2):
        shutil.copy(finished_run / "policies/round-0002.model", folder / f"round-{number:04d}.model")
    return folder


@pytest.mark.parametrize("damage", ["gone", "cut", "another size"])
def test_a_kept_policy_that_is_gone_or_damaged_is_named(tiny: Tiny, kept: Path, tmp_path: Path, damage: str) -> None:
    policies = Path(shutil.copytree(kept, tmp_path / "copy"))
    path, study = policies / "round-0001.model", tiny({**TAIL, "training.rounds": 2})
    content = path.read_bytes()
    last = TrainingState.from_bytes(content)
    assert np.allclose(released_state(policies, [1, 2], last, study).parameters, last.parameters)
    shorter = replace(last, parameters=last.parameters[1:], momentum=last.momentum[1:]).to_bytes()
    path.write_bytes(content[:-1] if damage == "cut" else shorter)
    if damage == "gone":
        path.unlink()

    with pytest.raises(UnexpectedState, match=r"round-0001\.model"):
        released_state(policies, [1, 2], last, study)
