"""Malicious sites against one masked sum, a norm bound in the protocol, and groups with a robust rule over their sums.

Each attack is run without the bound too, on fewer seeds where no bar rests on it: a bound against an attack that takes
nothing without it says so. What is claimed ends at f/n = 1/6 and at sites that keep to the bound; the rest is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from secure_frl.study import Study
from threat_models.adversaries.byzantine import BYZANTINE, FREE_RIDER, POISONED_DATA, RIDERS, UPDATES
from threat_models.defences import MASKING, Defence
from threat_models.evaluation import Effort, Task
from threat_models.evaluations.byzantine_cells import (
    KEPT,
    NOT_THE_TRIGGER,
    WHY_RETURN,
    beside_unbounded,
    cell_of,
    trigger_cells,
)
from threat_models.evaluations.byzantine_groups import measure_groups
from threat_models.evaluations.byzantine_people import BACKDOOR, FALSIFIED
from threat_models.evaluations.byzantine_refusals import measure_range, measure_sybils
from threat_models.evaluations.byzantine_study import GROUPS, NORM_BOUND, Case, Compared, compared
from threat_models.results import Bar, Cell, Kind
from threat_models.threat import Threat

SEEDS, FEW = 5, 2
MANY = 4  # of 12: beyond what anything is claimed for
LOST = 0.25  # of the clean return is what the control leaves at most
CONTROL = "sign flip"
BEYOND = (CONTROL, "Normalised")
WHY_BOUND = (
    "The bound is a clip in honest code: it holds sites that keep to it, whatever they send inside it, up to "
    "f/n = 1/6. Nothing is claimed beyond, nor that a site clipped. Most of these attacks are made against robust "
    "rules, and a plain mean of twelve hardly feels two of them: those say so."
)
WHY_SKIPPED = (
    "A site that skips the clip is held by nothing here: DP and norm bounds hold only sites that keep to them. The "
    "range check of the total stops what no set of honest sites could sum to, and names nobody."
)
WHY_DATA = (
    "The site's code is honest, so no check or proof sees anything; what stops it is that its vote is bounded. It also "
    "normalises advantages over the site's own people, so greater false rewards move no more."
)
WHY_RIDER = (
    "A sum of masked inputs has its twelve contributors in its lanes, whatever they sent: nobody stands out. What a "
    "rider sends is short, so no bound touches it."
)
WHY_NOBODY = "Nobody is malicious: what the bound itself costs. Every return is a part of the one without it."
_BOTH = (MASKING, NORM_BOUND)
_SECONDS = 4.0  # of one training

Measure = Callable[[Study, Effort], Iterator[Cell]]


class ByzantineEvaluation:
    """C1 to C4, C6 and C7."""

    threats = (BYZANTINE, POISONED_DATA, FREE_RIDER)

    def why_not(self, study: Study) -> str:
        """Return an empty text: the sites' study is one of its own."""
        return ""

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return one task an attack: its clean trainings, without the bound, and with it."""
        found = [
            _task(BYZANTINE, _BOTH, CONTROL, 3 * effort.trials(SEEDS, 1), _pair(BYZANTINE, CONTROL), is_control=True),
            _task(BYZANTINE, (NORM_BOUND,), "range check", 0.5, measure_range),
            _task(FREE_RIDER, (NORM_BOUND,), "Sybils", 0.1, measure_sybils),
        ]
        if effort.quick:
            return tuple(found)
        for threat, names in ((BYZANTINE, UPDATES), (POISONED_DATA, FALSIFIED)):
            found += [_task(threat, _BOTH, name, SEEDS + FEW, _pair(threat, name)) for name in names if name != CONTROL]
        found += [_task(BYZANTINE, _BOTH, f"{name}, f = 4", 2 * FEW, partial(_beyond, name)) for name in BEYOND]
        found.append(_task(BYZANTINE, _BOTH, "the bound alone, and without the clip", 2 * FEW, _around_bound))
        found.append(_task(BYZANTINE, (GROUPS,), "groups", 6 * FEW, measure_groups))
        found.append(_task(FREE_RIDER, (MASKING,), "riders", 2 * FEW, _riders))
        return tuple(found)


def _task(
    threat: Threat,
    defences: tuple[Defence, ...],
    what: str,
    trainings: float,
    measure: Measure,
    *,
    is_control: bool = False,
) -> Task:
    columns = tuple(defence.name for defence in defences)
    title = f"{threat.name}, {what}, {' and '.join(columns)}"
    return Task(threat.name, columns, title, trainings * _SECONDS, measure, is_control)


def _pair(threat: Threat, name: str) -> Measure:
    return partial(measure_pair, threat, name)


def measure_pair(threat: Threat, name: str, study: Study, effort: Effort) -> Iterator[Cell]:
    """Run an attack at two of twelve without the bound and with it."""
    many = effort.trials(SEEDS, 1)
    off = compared(study, Case(name, is_bounded=False), effort, many if name == CONTROL else FEW)
    on = compared(study, Case(name), effort, many)
    yield from pair_of(threat, name, off, on, effort)


def pair_of(threat: Threat, name: str, off: Compared, on: Compared, effort: Effort) -> Iterator[Cell]:
    """Yield the cells of an attack without the bound and with it. The sign flip's first is `byzantine`'s control."""
    kind, bars = (Kind.CONTROL, (Bar(at_most=LOST),)) if name == CONTROL else (Kind.REPORT, ())
    yield cell_of(threat, MASKING, kind, name, off, effort, bars=bars)
    why, bars = WHY_BOUND if threat is BYZANTINE else WHY_DATA, (Bar(at_least=KEPT),)
    cell = cell_of(threat, NORM_BOUND, Kind.DEFENDED, name, on, effort, bars=bars, sentence=why)
    cell = beside_unbounded(cell, off.relative[0])
    if name != BACKDOOR:
        yield cell
        return
    yield replace(cell, remark=NOT_THE_TRIGGER, sentence=WHY_RETURN)
    yield from trigger_cells(threat, off, on, effort)


def _beyond(name: str, study: Study, effort: Effort) -> Iterator[Cell]:
    for defence in _BOTH:
        case = Case(name, malicious=MANY, is_bounded=defence is NORM_BOUND)
        found = compared(study, case, effort, FEW)
        yield cell_of(BYZANTINE, defence, Kind.REPORT, name, found, effort, malicious=MANY, sentence=WHY_BOUND)


def _riders(study: Study, effort: Effort) -> Iterator[Cell]:
    for name in RIDERS:
        found = compared(study, Case(name, is_bounded=False), effort, FEW)
        yield cell_of(FREE_RIDER, MASKING, Kind.REPORT, name, found, effort, sentence=WHY_RIDER)


def _around_bound(study: Study, effort: Effort) -> Iterator[Cell]:
    """Measure what the bound costs where nobody is malicious, and what it is worth where malicious sites skip it."""
    for defence in _BOTH:
        found = compared(study, Case(malicious=0, is_bounded=defence is NORM_BOUND), effort, FEW)
        yield cell_of(BYZANTINE, defence, Kind.REPORT, "nobody", found, effort, malicious=0, sentence=WHY_NOBODY)
    found = compared(study, Case(CONTROL, keeps_bound=False), effort, FEW)
    game = f"{CONTROL} without the clip"
    yield cell_of(BYZANTINE, NORM_BOUND, Kind.REPORT, game, found, effort, sentence=WHY_SKIPPED)
