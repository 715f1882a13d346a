"""Attacks round the sum, on real wires: each wins where one check is out, and gets a named refusal where it is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secure_frl.errors import RoundRefused
from secure_frl.study import Study
from threat_models.adversaries.cohort_differencing import CohortDifferencing
from threat_models.adversaries.collusion import Collusion
from threat_models.adversaries.model_inconsistency import ModelInconsistency, silent_policy
from threat_models.adversaries.state_scores import SPARSE, StateScores
from threat_models.defences import MASKING, changed, defended
from threat_models.evaluation import Effort
from threat_models.evaluations import model_inconsistency
from threat_models.evaluations.one_victim import FAMILY, REFERENCE, States, cell_of, nothing, refused, wins
from threat_models.keepers import (
    AskingTwiceKeeper,
    ForgetfulSite,
    LeavingOutKeeper,
    PlantingKeeper,
    SamePeople,
    ShrinkingKeeper,
    UncheckedSite,
    keeper,
)
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.public import public_of
from threat_models.reconstruction import Trial, found_share
from threat_models.results import Bar, Kind, Verdict, judge
from threat_models.threat import Guess, Summed, View
from threat_models.truth import Truth

pytestmark = pytest.mark.threats
Tiny = Callable[..., Study]
EVERYWHERE = range(4)


def _study(tiny: Tiny, rounds: int = 1) -> Study:
    sites = {"sites.count": 4, "sites.min_survivors": 3, "sites.max_colluders": 1, "protection.threshold": 0}
    study = changed(tiny(), REFERENCE, sites, {"training.rounds": rounds, "study.seed": 3, "data.max_steps": 48})
    attacked: Study = defended(study, MASKING, clip_norm=1.5)
    return attacked


def _found(guess: Guess, name: str, recording: Recording, round_number: int, site: int) -> float:
    states = States(public_of(recording.study))
    met = states.met(recording.truth.trajectories[round_number, site], 0)
    return found_share(guess[name], met, np.random.default_rng(0))


def _run(
    adversary: ModelInconsistency | CohortDifferencing | Collusion,
    recording: Recording,
    opened: dict[int, Summed] | None = None,
    sites: tuple[int, ...] = (),
) -> Guess:
    adversary.prepare(public_of(recording.study), np.random.default_rng(0))
    role = View.COALITION if sites else View.COORDINATOR
    return adversary.run(replace(view_of(recording, role, sites), asked_again=opened or {}))


# --- another policy for all but one ----------------------------------------------------------------------------------


def test_under_the_silent_policy_every_message_is_the_same_single_number(tiny: Tiny) -> None:
    public = public_of(_study(tiny))
    silent = silent_policy(public)
    people = public.people(silent, 20, 1)

    rows = public.messages(silent, people)

    said = rows[people.terminated]
    assert len(said) > 10
    assert np.abs(said - said[0]).max() < 1e-9  # the same, whoever it was
    assert (np.abs(said[0]) > 1e-12).sum() == 1


def test_sites_without_a_policy_check_give_the_victim_away_and_the_truth_is_not_read(tiny: Tiny) -> None:
    study = _study(tiny)
    planting = keeper(PlantingKeeper, planted=silent_policy(public_of(study)), victim=0)
    recording = rehearse(study, sites=dict.fromkeys(EVERYWHERE, UncheckedSite), make_keeper=planting)

    guess = _run(ModelInconsistency(), recording)
    again = _run(ModelInconsistency(), replace(recording, truth=Truth({}, {}, {})))

    assert _found(guess, f"{SPARSE}/1", recording, 1, 0) >= 0.9
    assert {name: one.tobytes() for name, one in guess.items()} == {name: one.tobytes() for name, one in again.items()}


def test_a_long_stay_is_decoded_to_its_last_state(tiny: Tiny) -> None:
    public = public_of(_study(tiny))
    people = public.people(public.first_policy, 400, 1)
    longest = np.argsort(np.where(people.terminated, people.lengths, 0))[-4:]
    scores = StateScores(public, public.first_policy)
    rows = public.messages(public.first_policy, people.select(longest))
    rounded = np.rint(rows * public.scale) / public.scale

    found = [scores.scores(row, 1)[SPARSE] for row in rounded]

    met = [States(public).met(people, person) for person in longest]
    assert people.lengths[longest].min() > 30
    assert [found_share(*pair, np.random.default_rng(0)) for pair in zip(found, met, strict=True)] == [1.0] * 4


def test_others_who_sent_nothing_are_not_taken_out_of_a_short_stay_s_sum(tiny: Tiny) -> None:
    public = public_of(_study(tiny))
    adversary = ModelInconsistency()
    adversary.prepare(public, np.random.default_rng(0))
    people = public.people(public.first_policy, 60, 1)
    shortest = people.select(np.flatnonzero(people.terminated & (people.lengths <= 2))[:10])
    messages = public.messages(public.first_policy, shortest)

    for own in messages:  # of three others one was cut at his last step
        alone = adversary._alone(np.rint((own + 2 * adversary._silent) * public.scale) / public.scale, 4)
        assert np.abs(alone - own).max() <= 1 / public.scale


def test_honest_sites_refuse_a_planted_policy_under_its_own_tag(tiny: Tiny) -> None:
    study = _study(tiny)
    planted = silent_policy(public_of(study))

    told = rehearse(
        study, make_keeper=keeper(PlantingKeeper, planted=planted, victim=0, tells_planted_tag=True), may_stop=True
    )

    assert told.rounds == 0
    assert set(told.refusals) == {"ModelDoesNotFollow"}


def test_honest_sites_do_not_look_at_a_planted_policy_under_the_true_tag(tiny: Tiny) -> None:
    study = _study(tiny)
    planted = silent_policy(public_of(study))

    hidden = rehearse(study, make_keeper=keeper(PlantingKeeper, planted=planted, victim=0))

    assert hidden.rounds == 1
    for site in EVERYWHERE:  # a message of its own people, not the single number of a silent policy
        assert np.count_nonzero(hidden.truth.updates[1, site]) > 1000


# --- the same round asked again --------------------------------------------------------------------------------------


def test_sites_without_memory_give_the_difference_away(tiny: Tiny) -> None:
    opened: dict[int, Summed] = {}
    asking = keeper(AskingTwiceKeeper, victim=0, opened=opened, refused=[])

    recording = rehearse(
        _study(tiny, rounds=2),  # one to ask, and a window of the ledgers to ask again
        around=SamePeople,
        sites=dict.fromkeys(EVERYWHERE, ForgetfulSite),
        make_keeper=asking,
        may_stop=True,
    )

    assert opened[1].contributors == (0, 1, 2, 3)
    assert recording.memory.sums[1].contributors == (1, 2, 3)
    assert _found(_run(CohortDifferencing(), recording, opened), f"{SPARSE}/1/0", recording, 1, 0) >= 0.9


def test_honest_sites_answer_a_round_once_and_the_round_still_ends(tiny: Tiny) -> None:
    opened: dict[int, Summed] = {}
    codes: list[str] = []

    recording = rehearse(
        _study(tiny, rounds=2), make_keeper=keeper(AskingTwiceKeeper, victim=0, opened=opened, refused=codes)
    )

    assert not opened
    assert recording.rounds == 2
    assert set(recording.refusals) == set(codes) == {"AlreadyAnswered"}


def test_a_round_without_the_victim_is_compared_with_the_one_before_it(tiny: Tiny) -> None:
    recording = rehearse(_study(tiny, rounds=2), make_keeper=keeper(LeavingOutKeeper, victim=2))

    guess = _run(CohortDifferencing(), recording)

    assert set(guess) == {f"{method}/1/2" for method in ("span", "filter", "sparse")}


# --- sites that pool -------------------------------------------------------------------------------------------------


def test_all_other_sites_together_read_the_victim(tiny: Tiny) -> None:
    recording = rehearse(_study(tiny))

    for victim in (0, 3):
        others = tuple(site for site in EVERYWHERE if site != victim)
        assert _found(_run(Collusion(), recording, sites=others), f"{SPARSE}/1", recording, 1, victim) >= 0.9


def test_a_cohort_smaller_than_the_charter_s_is_refused_by_its_honest_sites(tiny: Tiny) -> None:
    study = changed(_study(tiny), {"sites.min_survivors": 4})

    recording = rehearse(study, make_keeper=keeper(ShrinkingKeeper, cohort=(0, 1, 2)), may_stop=True)

    assert recording.rounds == 0
    assert recording.refusals == ("RoundRefused",) * 3


# --- verdicts --------------------------------------------------------------------------------------------------------


def _asked(*refusals: str, opened: int = 0) -> Verdict:
    cell = refused("look", MASKING, "coordinator", refusals, RoundRefused, 3, opened, Effort())
    return judge([cell])[0]


def test_only_refusals_by_name_and_as_many_as_were_asked_hold() -> None:
    assert _asked(*["RoundRefused"] * 3) is Verdict.HOLDS
    assert _asked() is Verdict.FAILS  # a run that stopped for another reason refused nothing
    assert _asked("RoundRefused") is Verdict.FAILS
    assert _asked(*["AttributeError"] * 3) is Verdict.FAILS  # sites that broke
    assert _asked(*["SiteFailed"] * 3) is Verdict.FAILS
    assert _asked(*["RosterRefused"] * 3) is Verdict.FAILS  # a refusal, but of something else than was asked
    assert _asked(*["RoundRefused"] * 3, "RosterRefused") is Verdict.FAILS
    assert _asked(*["RoundRefused"] * 3, opened=1) is Verdict.FAILS


def _cell(found: list[float], kind: Kind, bars: tuple[Bar, ...]) -> Verdict:
    """Return the verdict on trials of which so much of ten states was found, and one state of the swapped person."""
    trials, rng = [], np.random.default_rng(0)
    for share in found:
        visited, swapped = np.arange(100) < 10, np.arange(100) // 10 == 5
        scores = rng.random(100) / 10
        scores[: round(10 * share)] = 1.0
        scores[50] = 2.0 if len(trials) % 2 else 0.0
        trials.append(Trial(scores, visited, swapped, scores))
    return judge([cell_of("look", MASKING, kind, "", dict.fromkeys(FAMILY, trials), Effort(quick=True), bars)])[0]


def test_a_quick_cell_fails_when_an_attack_finds_all_and_a_quick_control_when_it_finds_little() -> None:
    effort = Effort(quick=True)

    assert _cell([1.0, 1.0, 1.0], Kind.DEFENDED, nothing(effort)) is Verdict.FAILS
    assert _cell([0.1, 0.0, 0.1], Kind.DEFENDED, nothing(effort)) is Verdict.HOLDS
    assert _cell([1.0, 1.0, 1.0], Kind.CONTROL, wins(effort)) is Verdict.WINS
    assert _cell([0.1, 0.9, 0.4], Kind.CONTROL, wins(effort)) is Verdict.INVALID


def test_a_planted_policy_that_sites_take_under_the_true_tag_is_a_failure(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(study: Study, **given: Any) -> Recording:
        everybody = {} if given.get("may_stop") else dict.fromkeys(range(study.sites.count), UncheckedSite)
        return rehearse(study, sites=everybody, **given)

    study = changed(tiny(), {"data.max_steps": 48})
    (honest,) = model_inconsistency._honest(study, Effort(quick=True))
    monkeypatch.setattr(model_inconsistency, "rehearse", careless)
    (taken,) = model_inconsistency._honest(study, Effort(quick=True))

    assert judge([honest, taken]) == [Verdict.HOLDS, Verdict.FAILS]
    assert honest.refusal == taken.refusal == "ModelDoesNotFollow"


# --- scores ----------------------------------------------------------------------------------------------------------


def test_single_steps_have_the_gradients_that_the_production_code_gives(tiny: Tiny) -> None:
    public = public_of(_study(tiny))
    scores = StateScores(public, public.first_policy)
    states = States(public)
    people = public.people(public.first_policy, 40, 5)
    short = int(np.argmin(np.where(people.terminated, people.lengths, 99)))

    row = public.messages(public.first_policy, people.select(np.array([short])))[0]

    assert scores.unexplained(row, 1) < 1e-4 * float(row @ row)  # the dictionary spans what was sent
    met = states.met(people, short)
    assert found_share(scores.scores(row, 1)[SPARSE], met, np.random.default_rng(0)) == 1.0
