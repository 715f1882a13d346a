"""Imprints over real rehearsals of three sites: what a planted and a steered policy read, and what stops them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from secure_frl.study import Study
from threat_models import malicious_coordinator
from threat_models.adversaries.imprint import Imprint
from threat_models.adversaries.imprint_steering import SteeredImprint
from threat_models.defences import MASKING, MASKING_8, PLAIN, Defence
from threat_models.evaluation import Effort
from threat_models.evaluations import imprint_steering
from threat_models.evaluations.imprint import SPREAD, OwnFeatures, attacked, nulls, recovered, score
from threat_models.keepers import keeper
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.malicious_coordinator import (
    MISSED,
    SUCCESSOR,
    PlantingEverywhereKeeper,
    SteeringKeeper,
    TrustingSite,
    longest_step,
)
from threat_models.public import public_of
from threat_models.results import Verdict, judge
from threat_models.threat import Guess, Summed, View
from threat_models.truth import Truth

pytestmark = pytest.mark.threats
Tiny = Callable[..., Study]
SITES = 3


def _planted(
    tiny: Tiny, defence: Defence, claims: Mapping[int, int], *, is_trusting: bool = True, rounds: int = 1
) -> tuple[Recording, Imprint]:
    study = attacked(tiny(), defence, {"policy.hidden": [64], "training.rounds": rounds})
    adversary = Imprint(SPREAD)
    adversary.prepare(public_of(study), np.random.default_rng(0))
    recording = rehearse(
        study,
        around=partial(OwnFeatures, seed=0),
        sites=dict.fromkeys(range(SITES), TrustingSite) if is_trusting else {},
        make_keeper=keeper(PlantingEverywhereKeeper, planted=adversary.policy, claims=claims),
        may_stop=not is_trusting,
    )
    return recording, adversary


def _steered(
    tiny: Tiny, defence: Defence, rounds: int, *, may_stop: bool = False
) -> tuple[Recording, SteeredImprint, dict[int, Summed]]:
    keys = {"policy.hidden": [32], "training.rounds": rounds, "training.global.step_size": 5.0}
    study = attacked(tiny(), defence, keys)
    adversary, knows = SteeredImprint(SPREAD), dict[int, Summed]()
    adversary.prepare(public_of(study), np.random.default_rng(0))
    recording = rehearse(
        study,
        around=partial(OwnFeatures, seed=0),
        make_keeper=keeper(SteeringKeeper, target=adversary.policy, knows=knows),
        may_stop=may_stop,
    )
    return recording, adversary, knows


def _share(guess: Guess, recording: Recording, *, is_single: bool = False) -> float:
    found, total, _ = score(guess, recording, is_single)
    return found / total


def _guess(recording: Recording, adversary: Imprint, **changes: Any) -> Guess:
    return adversary.run(replace(view_of(recording, View.COORDINATOR), **changes))


@pytest.fixture(scope="module")
def masked(tiny: Tiny) -> tuple[Recording, Imprint]:
    return _planted(tiny, MASKING, {1: SUCCESSOR}, rounds=2)


def test_a_planted_policy_reads_most_steps_off_a_masked_sum_and_nothing_of_others(
    masked: tuple[Recording, Imprint],
) -> None:
    recording, adversary = masked

    guess = _guess(recording, adversary)

    assert set(guess) >= {"sum/1", "sum/2"}
    assert _share(guess, recording) > 0.6  # 30 steps fall into 2 x 64 bins
    by_chance = nulls(guess, recording, public_of(recording.study), adversary.policy, is_single=False)
    assert by_chance == {"uniform": 0.0, "prior": 0.0, "swapped": 0.0}


def test_uploads_show_it_under_no_protection_and_nothing_under_masks(
    tiny: Tiny, masked: tuple[Recording, Imprint]
) -> None:
    plain, adversary = _planted(tiny, PLAIN, {1: SUCCESSOR})

    assert _share(_guess(plain, adversary), plain, is_single=True) > 0.7
    assert _share(_guess(masked[0], masked[1]), masked[0], is_single=True) == 0


def test_noise_leaves_no_step(tiny: Tiny) -> None:
    recording, adversary = _planted(tiny, MASKING_8, {1: SUCCESSOR})

    assert _share(_guess(recording, adversary), recording) == 0


def test_honest_sites_refuse_a_next_policy_that_follows_from_no_sum_before_anybody_is_treated(tiny: Tiny) -> None:
    recording, adversary = _planted(tiny, MASKING, {1: SUCCESSOR}, is_trusting=False)

    assert recording.refusals == ("ModelDoesNotFollow",) * SITES
    assert recording.stopped
    assert not recording.truth.trajectories
    assert "sum/1" not in _guess(recording, adversary)


def test_honest_sites_take_a_policy_that_is_said_to_be_of_steps_they_missed_as_the_report_says(tiny: Tiny) -> None:
    claims = {1: SUCCESSOR, 2: SUCCESSOR, 3: MISSED}

    recording, adversary = _planted(tiny, MASKING, claims, is_trusting=False, rounds=3)

    assert list(recording.memory.sums) == [3]
    assert _share(_guess(recording, adversary), recording) > 0.6


def test_stated_sums_that_sites_accept_steer_to_the_imprint_in_as_many_rounds_as_their_range_needs(tiny: Tiny) -> None:
    recording, adversary, knows = _steered(tiny, MASKING, 5)
    public = public_of(recording.study)
    way = np.abs(adversary.policy - public.first_policy).max()
    needed = int(np.ceil(way / longest_step(5.0, public.constants)))

    left = {number: np.abs(met - adversary.policy).max() for number, met in recording.memory.policies.items()}

    assert recording.refusals == ()
    assert recording.rounds == 5
    assert 1 <= needed <= 4
    assert left[needed] > 0.1
    assert left[needed + 1] < 0.01
    assert not np.array_equal(knows[1].integers, recording.memory.sums[1].integers)
    read = _guess(recording, adversary, sums=knows)
    first, last = (_share({name: read[name]}, recording) for name in ("sum/1", "sum/5"))
    assert first < 0.2 < last  # 10 steps under the first policy, 40 in 2 x 32 bins


def test_what_a_steered_policy_reads_without_noise_is_the_control_of_its_row(tiny: Tiny) -> None:
    effort = Effort(quick=True)
    control, noised = imprint_steering.ImprintSteeringEvaluation().tasks(tiny(), effort)

    cells = [*control.measure(tiny(), effort), *noised.measure(tiny(), effort)]

    assert (control.is_control, noised.is_control) == (True, False)
    assert judge(cells) == [Verdict.WINS, Verdict.HOLDS]
    assert len({cell.defence_digest for cell in cells} - {""}) == 2
    assert judge([replace(cells[0], high=0.55), cells[1]]) == [Verdict.INVALID] * 2


def test_sites_refuse_a_stated_sum_beyond_what_they_could_have_sent(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The range check is what makes steering slow: without it one round would do."""
    honest = malicious_coordinator.sum_for

    def beyond(*arguments: Any) -> Any:
        found = honest(*arguments)
        found[0] = arguments[-1].sites * arguments[-1].bound + 1
        return found

    monkeypatch.setattr(malicious_coordinator, "sum_for", beyond)

    recording, _, _ = _steered(tiny, MASKING, 1, may_stop=True)

    assert recording.refusals == ("SumOutOfRange",) * SITES


def test_the_guess_is_byte_identical_when_only_the_truth_changes(masked: tuple[Recording, Imprint]) -> None:
    recording, adversary = masked
    perturbed = replace(recording, truth=Truth({}, {}, {}))

    found, again = _guess(recording, adversary), _guess(perturbed, adversary)

    assert {name: one.tobytes() for name, one in found.items()} == {name: one.tobytes() for name, one in again.items()}


def test_one_guess_counts_for_one_step() -> None:
    steps = np.array([[0.0, 0.0], [0.05, 0.0], [9.0, 9.0]])

    assert recovered(np.array([[0.02, 0.0]]), steps) == 1
    assert recovered(np.array([[0.02, 0.0], [0.03, 0.0]]), steps) == 2
    assert recovered(np.array([[0.2, 0.0]]), steps[:1]) == 0  # a mean square of .02
    assert recovered(np.zeros((0, 2)), steps) == 0
