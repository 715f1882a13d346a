"""Cohort differencing through the wire: sites without memory, honest sites, and noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from secure_frl.errors import AlreadyAnswered, UnexpectedState
from secure_frl.study import Study
from threat_models.adversaries.cohort_differencing import THREAT, CohortDifferencing
from threat_models.defences import MASKING, MASKING_8, Defence, digest_of
from threat_models.evaluation import Effort, Task
from threat_models.evaluations.one_victim import (
    VICTIM,
    States,
    cell_of,
    family,
    nothing,
    reference,
    refused,
    why_not,
    wins,
)
from threat_models.keepers import AskingTwiceKeeper, ForgetfulSite, LeavingOutKeeper, SamePeople, keeper
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.public import public_of
from threat_models.reconstruction import Trial
from threat_models.results import Cell, Kind
from threat_models.threat import Summed, View

FORGETFUL = "coordinator; sites remember no answer, people come again"
TWO_ROUNDS = "coordinator; two rounds, one without the victim"
_WHY_REFUSED = (
    "A site gives shares once a round, whatever the attempt, and its register keeps that on disk. A later round takes "
    "new people, so the difference of two rounds holds the victim among all others twice."
)


class CohortDifferencingEvaluation:
    """A9."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        return why_not(study)

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return the control, the same under noise, and honest sites."""
        name = THREAT.name
        return (
            Task(name, (MASKING.name,), f"{name}, no memory", 30.0, partial(_forgetful, MASKING), is_control=True),
            Task(name, (MASKING_8.name,), f"{name}, no memory, noise", 30.0, partial(_forgetful, MASKING_8)),
            Task(name, (MASKING.name,), f"{name}, honest sites", 20.0, _honest),
        )


def _forgetful(defence: Defence, study: Study, effort: Effort) -> Iterator[Cell]:
    twice = effort.trials(40, 3)
    # Every request takes a window of the ledgers, so half of the rounds are asked twice, and then the budget is spent.
    attacked = reference(study, defence, 2 * twice, effort.study_seed(THREAT.name, defence.name))
    opened: dict[int, Summed] = {}
    asking = keeper(AskingTwiceKeeper, victim=VICTIM, opened=opened, refused=[])
    careless = dict.fromkeys(range(attacked.sites.count), ForgetfulSite)
    recording = rehearse(attacked, around=SamePeople, sites=careless, make_keeper=asking, may_stop=True)
    if len(opened) < twice:
        raise UnexpectedState(
            f"expected {twice} rounds asked twice, {len(opened)} opened twice: {recording.stopped or 'lost'} See why."
        )
    kind, bars = (Kind.CONTROL, wins(effort)) if defence == MASKING else (Kind.DEFENDED, nothing(effort))
    yield cell_of(
        THREAT.name,
        defence,
        kind,
        FORGETFUL,
        _trials(recording, opened, effort),
        effort,
        bars,
        defence_digest=digest_of(attacked),
    )


def _honest(study: Study, effort: Effort) -> Iterator[Cell]:
    """Yield what a second request gives at honest sites, and what two rounds give that differ by the victim."""
    few = effort.trials(5, 1)
    attacked = reference(study, MASKING, few, effort.study_seed(THREAT.name, "twice"))
    opened: dict[int, Summed] = {}
    refusals: list[str] = []
    again = rehearse(attacked, make_keeper=keeper(AskingTwiceKeeper, victim=VICTIM, opened=opened, refused=refusals))
    view = str(View.COORDINATOR)
    yield refused(
        THREAT.name,
        MASKING,
        view,
        refusals,
        AlreadyAnswered,
        again.rounds,
        len(opened),
        effort,
        sentence=_WHY_REFUSED,
        defence_digest=digest_of(attacked),
    )
    if effort.quick:
        return  # two differences of rounds show nothing
    rounds = 2 * 20
    attacked = reference(study, MASKING, rounds, effort.study_seed(THREAT.name, "rounds"))
    recording = rehearse(attacked, make_keeper=keeper(LeavingOutKeeper, victim=VICTIM))
    yield cell_of(
        THREAT.name,
        MASKING,
        Kind.REPORT,
        TWO_ROUNDS,
        _trials(recording, {}, effort),
        effort,
        defence_digest=digest_of(attacked),
    )


def _trials(recording: Recording, opened: Mapping[int, Summed], effort: Effort) -> dict[str, list[Trial]]:
    """Return a trial a difference; of two rounds, those whose first has the victim."""
    public = public_of(recording.study)
    adversary, states = CohortDifferencing(), States(public)
    adversary.prepare(public, effort.rng(THREAT.name))
    guess = adversary.run(replace(view_of(recording, View.COORDINATOR), asked_again=opened))
    people = recording.truth.trajectories
    names = sorted({name.split("/", 1)[1] for name in guess})
    met = {}
    for name in names:
        number, victim = map(int, name.split("/"))
        if (number, victim) in people:
            met[name] = states.met(people[number, victim], 0)
    return family(guess, met, states, effort)
