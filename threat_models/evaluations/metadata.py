"""A bad week from the wire: half of the sites meet the worst half of their people twice, the others the best half."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from secure_frl.errors import DataRefused
from secure_frl.federation.simulated_patients import PatientSource
from secure_frl.federation.site import StudySite
from secure_frl.learning.acting import Acting
from secure_frl.learning.trajectories import Trajectories
from secure_frl.secure_sum import RingVector, RoundContext
from secure_frl.study import Study
from threat_models.adversaries.metadata import THREAT, Metadata
from threat_models.defences import MASKING, NOTHING, changed, digest_of
from threat_models.evaluation import Effort, Task
from threat_models.laboratory import rehearse, view_of
from threat_models.results import Bar, Cell, Kind
from threat_models.statistics import auc, auc_interval
from threat_models.threat import Guess, View

SILENT = "silent sites"  # the control: a site that refuses a round after a bad week
MOST_SITES = 40
FEW_PEOPLE = 32  # a site and round
CONSTANT = "Sizes, and whether a site answers, are the same whatever its week was: equal scores, so exactly one half."
TIMES = "Residual: how long a site works depends on its people's stays. A site that minds answers at a fixed time."
LEAKS = "The control: silence, and the size of a refusal, say everything."


class MetadataEvaluation:
    """D5 and B5."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        if study.protection.profile != "cross_silo" or study.sites.count > MOST_SITES:
            return f"measured with at most {MOST_SITES} sites that all share keys"
        return ""

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return the control and the honest run."""
        return (
            Task(THREAT.name, (SILENT,), f"metadata, {SILENT}", 2.0, measure_silent, True),
            Task(THREAT.name, (MASKING.name,), "metadata, masking", 4.0, measure),
        )


class Weeks:
    """Whose week is bad: a function of the round, the same number of sites each time."""

    def __init__(self, sites: int, bad: int, rng: np.random.Generator, rounds: int) -> None:
        self._bad = {number: set(rng.permutation(sites)[:bad].tolist()) for number in range(1, rounds + 1)}

    def is_bad(self, round_number: int, site: int) -> bool:
        """Return whether it is."""
        return site in self._bad.get(round_number, set())

    def around(self, source: PatientSource, site: int) -> PatientSource:
        """Return a source whose people have such weeks."""
        return _Sorted(source, site, self)


class _Sorted:
    """The worst or the best half of a window's people, twice."""

    def __init__(self, source: PatientSource, site: int, weeks: Weeks) -> None:
        self._source, self._site, self._weeks = source, site, weeks
        self.probe, self.records = source.probe, source.records

    def collect(self, acting: Acting, context: RoundContext) -> Trajectories:
        found = self._source.collect(acting, context)
        order = np.argsort((found.rewards * found.steps).sum(axis=1), kind="stable")
        half = order[: -(-found.count // 2)]
        if not self._weeks.is_bad(context.round, self._site):
            half = order[::-1][: half.size]
        return replace(found.select(np.resize(half, found.count).astype(np.int64)), persons=found.persons)


class SilentSite(StudySite):
    """A site that takes no part after a bad week."""

    weeks: ClassVar[Weeks]

    def contribute(self, context: RoundContext) -> RingVector:
        """Return the update of a good week. Raises DataRefused after a bad one."""
        if self.weeks.is_bad(context.round, int(self._parts.me)):
            raise DataRefused("expected a good week, got a bad one. Ask again.")
        return super().contribute(context)


def measure(study: Study, effort: Effort) -> Iterator[Cell]:
    """Return what sizes, answers and times of honest sites say."""
    rounds = effort.trials(8, 2)
    guess, labels, digest = _observed(study, effort, rounds, study.sites.count // 2, StudySite)
    for what, sentence in (("sizes", CONSTANT), ("answers", CONSTANT), ("times", TIMES)):
        yield replace(_cell(MASKING.name, what, guess, labels, sentence, effort), defence_digest=digest)


def measure_silent(study: Study, effort: Effort) -> Iterator[Cell]:
    """Return what is seen of sites that stay away."""
    bad = max(1, study.sites.count - study.sites.min_survivors)
    guess, labels, digest = _observed(study, effort, 2, bad, SilentSite)
    for what in ("sizes", "answers"):
        yield replace(_cell(SILENT, what, guess, labels, LEAKS, effort), defence_digest=digest)


def _observed(
    study: Study, effort: Effort, rounds: int, bad: int, kind: type[StudySite]
) -> tuple[Guess, np.ndarray, str]:
    """Return the guess, whose week was bad, and the digest of what was attacked."""
    changes: Mapping[str, Any] = {  # Any: TOML values
        "protection.method": "masking",
        **NOTHING,
        "training.rounds": rounds,
        "training.episodes_per_site": min(FEW_PEOPLE, study.training.episodes_per_site),
        "output.evaluation_episodes": 2,
        "study.seed": effort.study_seed(THREAT.name, kind.__name__),
    }
    attacked = changed(study, changes)
    weeks = Weeks(attacked.sites.count, bad, effort.rng(THREAT.name, "weeks", kind.__name__), rounds)
    made = type(kind.__name__, (kind,), {"weeks": weeks})
    everybody = dict.fromkeys(range(attacked.sites.count), made)
    recording = rehearse(attacked, around=weeks.around, sites=everybody, may_stop=kind is SilentSite)
    guess = Metadata().run(view_of(recording, View.NETWORK))
    places = zip(guess["round"].tolist(), guess["site"].tolist(), strict=True)
    was_bad = np.array([weeks.is_bad(number, site) for number, site in places], dtype=np.bool_)
    return guess, was_bad, digest_of(attacked)


def _cell(column: str, what: str, guess: Guess, labels: np.ndarray, sentence: str, effort: Effort) -> Cell:
    scores = np.nan_to_num(guess[what], posinf=1e9)
    value = auc(scores, labels)
    low, high = auc_interval(scores, labels, guess["round"], effort.rng(THREAT.name, column, what))
    bars: tuple[Bar, ...] = (Bar(at_least=0.5, at_most=0.5),)
    kind = Kind.DEFENDED
    if column == SILENT:
        kind, bars = Kind.CONTROL, (Bar(at_least=0.99),)
    elif what == "times":
        kind, bars = Kind.REPORT, ()
    spread = float(np.ptp(guess[what])) if np.isfinite(guess[what]).all() else float("inf")
    return Cell(
        attack=THREAT.name,
        defence=column,
        kind=kind,
        metric=f"AUC of a bad week from {what}",
        value=value,
        low=low,
        high=high,
        n=int(labels.size),
        view=str(View.NETWORK),
        bars=bars,
        nulls={"uniform": 0.5},
        figures={"spread": spread, "bad_weeks": float(labels.sum())},
        sentence=sentence,
        seeds=(effort.seed,),
    )
