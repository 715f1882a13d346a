"""Model inconsistency through the wire: sites that check no tag, honest sites, and noise."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from secure_frl.errors import ModelDoesNotFollow
from secure_frl.study import Study
from threat_models.adversaries.model_inconsistency import THREAT, ModelInconsistency, silent_policy
from threat_models.defences import MASKING, MASKING_8, Defence, digest_of
from threat_models.evaluation import Effort, Task
from threat_models.evaluations.one_victim import (
    VICTIM,
    WINS,
    States,
    cell_of,
    family,
    nothing,
    reference,
    refused,
    why_not,
    wins,
)
from threat_models.keepers import PlantingKeeper, UncheckedSite, keeper
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.public import public_of
from threat_models.reconstruction import Trial
from threat_models.results import Bar, Cell, Kind
from threat_models.threat import View

UNCHECKED = "coordinator; sites check no policy"
_WHY_REFUSED = (
    "Every site computes the tag of the policy that it holds, and takes no other in its place. A planted policy that "
    "comes under the true tag is not looked at: the sum is then an honest one."
)


class ModelInconsistencyEvaluation:
    """A8."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        return why_not(study)

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return the control, the same under noise, and honest sites."""
        name = THREAT.name
        return (
            Task(name, (MASKING.name,), f"{name}, no checks", 20.0, partial(_unchecked, MASKING), is_control=True),
            Task(name, (MASKING_8.name,), f"{name}, no checks, noise", 20.0, partial(_unchecked, MASKING_8)),
            Task(name, (MASKING.name,), f"{name}, honest sites", 4.0, _honest),
        )


def _unchecked(defence: Defence, study: Study, effort: Effort) -> Iterator[Cell]:
    attacked = reference(study, defence, effort.trials(40, 4), effort.study_seed(THREAT.name, defence.name))
    planting = keeper(PlantingKeeper, planted=silent_policy(public_of(attacked)), victim=VICTIM)
    careless = dict.fromkeys(range(attacked.sites.count), UncheckedSite)
    trials = _trials(rehearse(attacked, sites=careless, make_keeper=planting), effort)
    is_control = defence == MASKING
    kind, bars = (Kind.CONTROL, wins(effort)) if is_control else (Kind.DEFENDED, nothing(effort))
    yield cell_of(THREAT.name, defence, kind, UNCHECKED, trials, effort, bars, defence_digest=digest_of(attacked))


def _honest(study: Study, effort: Effort) -> Iterator[Cell]:
    """Yield what honest sites answer to a planted policy, under its own tag and under the true one."""
    rounds = effort.trials(6, 2)
    attacked = reference(study, MASKING, rounds, effort.study_seed(THREAT.name, "honest"))
    given = {"planted": silent_policy(public_of(attacked)), "victim": VICTIM}
    told = rehearse(attacked, make_keeper=keeper(PlantingKeeper, **given, tells_planted_tag=True), may_stop=True)
    hidden = rehearse(attacked, make_keeper=keeper(PlantingKeeper, **given))
    ignored = cell_of(THREAT.name, MASKING, Kind.REPORT, "", _trials(hidden, effort), effort)
    figures = {
        "planted_under_true_tag_rounds": float(hidden.rounds),
        "planted_under_true_tag_found": ignored.value,
        "planted_under_true_tag_excess": ignored.figures["excess"],
    }
    # Half-way between what an honest sum says of one of its people when it is read whole, and what a site that takes
    # the policy gives away.
    not_read = (Bar("planted_under_true_tag_found", at_most=(WINS + 1 / attacked.sites.count) / 2),)
    view, asked = str(View.COORDINATOR), attacked.sites.count  # each site at least once: the run ends at its refusals
    yield refused(
        THREAT.name,
        MASKING,
        view,
        told.refusals,
        ModelDoesNotFollow,
        asked,
        told.rounds,
        effort,
        not_read,
        figures=figures,
        sentence=_WHY_REFUSED,
        defence_digest=digest_of(attacked),
    )


def _trials(recording: Recording, effort: Effort) -> dict[str, list[Trial]]:
    public = public_of(recording.study)
    adversary, states = ModelInconsistency(), States(public)
    adversary.prepare(public, effort.rng(THREAT.name))
    guess = adversary.run(view_of(recording, View.COORDINATOR))
    people = recording.truth.trajectories
    met = {str(number): states.met(people[number, VICTIM], 0) for number in sorted(recording.memory.sums)}
    return family(guess, met, states, effort)
