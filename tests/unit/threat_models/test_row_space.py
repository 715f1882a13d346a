"""The row-space family on real rehearsals: it reads a dense network's messages without noise, and not with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secure_frl.study import Study
from threat_models.adversaries.row_space import JOINT, OF_MANY, OF_ONE, RowSpace
from threat_models.adversaries.state_scores import SPARSE
from threat_models.defences import LOCAL_8, MASKING, MASKING_8, PLAIN, Defence, changed, defended
from threat_models.evaluation import Effort
from threat_models.evaluations.row_space import REFERENCE, _cell, lower_limit, matched
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.public import public_of
from threat_models.reconstruction import Reconstructed, found_share
from threat_models.results import Verdict, judge
from threat_models.statistics import mean_interval
from threat_models.threat import View
from threat_models.truth import Truth

pytestmark = pytest.mark.threats
Guess = dict[str, Any]  # Any: scores
CLIP_NORM = 1.7  # about what half of the people stay below
TIES = np.random.default_rng(0)


def _attacked(study: Study, defence: Defence) -> tuple[Recording, Guess]:
    reference = changed(study, REFERENCE, {"training.rounds": 1})
    recording = rehearse(defended(reference, defence, clip_norm=CLIP_NORM))
    return recording, _guess(recording)


def _guess(recording: Recording) -> Guess:
    adversary = RowSpace()
    adversary.prepare(public_of(recording.study), np.random.default_rng(0))
    return dict(adversary.run(view_of(recording, View.COORDINATOR)))


def _visited(recording: Recording, sites: tuple[int, ...]) -> np.ndarray:
    book = public_of(recording.study).codebook()
    steps = recording.truth.steps_of(1, sites)
    return np.asarray((book[:, None, :] == steps[None, :, :]).all(axis=2).any(axis=1))


@pytest.fixture(scope="module")
def masked(tiny: Callable[..., Study]) -> tuple[Recording, Guess]:
    return _attacked(tiny(), MASKING)


def test_a_person_s_own_message_names_every_state_that_it_met(tiny: Callable[..., Study]) -> None:
    recording, guess = _attacked(tiny(), PLAIN)

    assert set(guess) == {f"{method}/upload/1/{site}" for method in OF_ONE for site in range(3)}
    found = [found_share(guess[f"{SPARSE}/upload/1/{site}"], _visited(recording, (site,)), TIES) for site in range(3)]
    assert np.mean(found) >= 0.95


def test_a_masked_sum_is_read_by_solving_for_all_states_at_once(masked: tuple[Recording, Guess]) -> None:
    recording, guess = masked

    assert set(guess) == {f"{method}/sum/1" for method in OF_MANY}
    assert found_share(guess[f"{JOINT}/sum/1"], _visited(recording, (0, 1, 2)), TIES) >= 0.9


@pytest.mark.parametrize("defence", [LOCAL_8, MASKING_8], ids=lambda one: one.name)
def test_noise_hides_what_a_sum_alone_does_not(defence: Defence, tiny: Callable[..., Study]) -> None:
    recording, guess = _attacked(tiny(), defence)

    for name, scores in guess.items():
        sites = (int(name.split("/")[3]),) if "upload" in name else (0, 1, 2)
        assert found_share(scores, _visited(recording, sites), TIES) < 0.35, name


def test_the_guess_is_byte_identical_when_only_the_truth_changes(masked: tuple[Recording, Guess]) -> None:
    recording, guess = masked

    again = _guess(replace(recording, truth=Truth({}, {}, {})))

    assert {name: scores.tobytes() for name, scores in again.items()} == {
        name: scores.tobytes() for name, scores in guess.items()
    }


def test_matching_is_one_to_one_and_in_the_order_of_the_true_steps() -> None:
    true = np.array([[0.0], [0.1], [5.0]], dtype=np.float32)
    guessed = np.array([[5.2], [9.0], [0.05], [0.3]], dtype=np.float32)

    assert matched(true, guessed).ravel() == pytest.approx([0.05, 0.3, 5.2])


def test_a_lower_limit_is_the_end_of_the_interval_at_its_level() -> None:
    values = np.array([0.1, 0.4, 0.2, 0.7, 0.3])

    assert lower_limit(mean_interval(values), 5, 0.995) == pytest.approx(mean_interval(values, 0.99)[1])


def _found(excess: float, width: float) -> Reconstructed:
    around = (excess, excess - width, excess + width)
    return Reconstructed(around, (0.5, 0.45, 0.55), around, 0.01, 0.1, 0.0, 60)


@pytest.mark.parametrize(
    ("defence", "excess", "width", "verdict"),
    [
        (PLAIN, 0.96, 0.02, Verdict.WINS),
        (PLAIN, 0.94, 0.02, Verdict.INVALID),
        (MASKING, 0.65, 0.02, Verdict.FAILS),
        (MASKING_8, 0.05, 0.01, Verdict.HOLDS),
        (MASKING_8, 0.07, 0.04, Verdict.FAILS),
        (LOCAL_8, 0.01, 0.02, Verdict.HOLDS),
        (LOCAL_8, 0.05, 0.02, Verdict.FAILS),
    ],
)
def test_the_best_of_the_family_is_held_to_the_bar(
    defence: Defence, excess: float, width: float, verdict: Verdict
) -> None:
    cell = _cell(defence, {"span": _found(0.0, 0.02), JOINT: _found(excess, width)}, {}, Effort())

    assert judge([cell]) == [verdict]
    assert cell.figures["joint_excess"] == cell.figures["excess"] == max(excess, 0.0)
