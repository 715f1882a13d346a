"""Malicious sites against one masked sum, a norm bound in the protocol, and groups with a robust rule over their sums.

What is claimed ends at f/n = 1/6 and at sites that keep to the bound. The rest is measured and claims nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from secure_frl.errors import InvalidParameter, StudyRefused
from secure_frl.privacy.accountant import epsilon_of_schedule
from secure_frl.privacy.charging import WhatIf
from secure_frl.privacy.planning import planned_schedule, sum_constants
from secure_frl.study import Study
from threat_models.adversaries.byzantine import BYZANTINE, FREE_RIDER, POISONED_DATA, RIDERS, UPDATES
from threat_models.defences import MASKING, Defence, changed
from threat_models.evaluation import Effort, Task
from threat_models.evaluations.byzantine_people import FALSIFIED
from threat_models.evaluations.byzantine_refusals import measure_range, measure_sybils, refused
from threat_models.evaluations.byzantine_study import (
    GROUP,
    GROUPED_SITES,
    GROUPS,
    MALICIOUS,
    NORM_BOUND,
    SITES,
    Case,
    Compared,
    compared,
    study_of,
    train,
)
from threat_models.results import Bar, Cell, Kind
from threat_models.threat import Threat, View

SEEDS, FEW = 5, 2
MANY = 4  # of 12: beyond what anything is claimed for
LOST, KEPT = 0.25, 0.90  # of the clean return
METRIC = "return of honest sites, of clean"
QUICK_UPDATES = ("sign flip", "Normalised")
GROUP_RULES = ("mean", "median", "geometric median", "centred clipping")
GROUP_ATTACKS = ("sign flip", "ALIE", "Normalised")
BEYOND = ("sign flip", "ALIE", "Normalised")
WHY_BOUND = (
    "The bound is a clip in honest code: it holds sites that keep to it, whatever they send inside it, up to "
    "f/n = 1/6. Nothing is claimed beyond, nor that a site clipped."
)
WHY_SKIPPED = (
    "A site that skips the clip is held by nothing here: DP and norm bounds hold only sites that keep to them. The "
    "range check of the total stops what no set of honest sites could sum to, and names nobody."
)
WHY_DATA = "The site's code is honest, so no check or proof sees anything; what stops it is that its vote is bounded."
WHY_BACKDOOR = (
    "A bound keeps the return, not the policy: where no honest patient ever is, nobody contradicts a false record, so "
    "the trigger calls its action (figure `triggered`, beside `triggered_clean`). Nothing here stops that."
)
WHY_HARMLESS = "Without a bound it costs no return either, so that this cell holds says nothing about the bound."
WHY_GROUPS = (
    "Each group's sum is masked by itself, so the coordinator sees sums of {size}: its attacks run at n = {size}, and "
    "noise has to be sized for the honest of one group. Of five rows, two of them bad, the trimmed mean is the median."
)
WHY_RIDER = "A sum of masked inputs has its twelve contributors in its lanes, whatever they sent: nobody stands out."


class ByzantineEvaluation:
    """C1 to C4, C6 and C7."""

    threats = (BYZANTINE, POISONED_DATA, FREE_RIDER)

    def why_not(self, study: Study) -> str:
        """Return an empty text: the sites' study is one of its own."""
        return ""

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return one task an attack and column."""
        found = [
            _task(BYZANTINE, NORM_BOUND, "range check", 2.0, measure_range),
            _task(BYZANTINE, GROUPS, "too few groups", 1.0, _too_few_groups),
            _task(FREE_RIDER, NORM_BOUND, "Sybils", 1.0, measure_sybils),
        ]
        if effort.quick:  # one task: the clean training that all of it is compared with is run once
            columns = (MASKING.name, NORM_BOUND.name)
            return (Task(BYZANTINE.name, columns, "byzantine, in short", 13.0, _in_short, is_control=True), *found)
        seconds = 16.0
        found.append(_task(BYZANTINE, MASKING, "sign flip, no bound", 2 * seconds, _control, is_control=True))
        found += [_task(BYZANTINE, NORM_BOUND, name, seconds, partial(_bounded, name)) for name in UPDATES]
        found += [_task(BYZANTINE, GROUPS, rule, seconds, partial(_grouped, rule)) for rule in GROUP_RULES]
        found += [_task(BYZANTINE, NORM_BOUND, f"{name}, f = 4", 8.0, partial(_beyond, name)) for name in BEYOND]
        found.append(_task(BYZANTINE, NORM_BOUND, "skips the clip", 8.0, _skipped))
        found += [_task(POISONED_DATA, NORM_BOUND, name, seconds, partial(_poisoned, name)) for name in FALSIFIED]
        found += [_task(FREE_RIDER, NORM_BOUND, name, 8.0, partial(_rider, name)) for name in RIDERS]
        return tuple(found)


def _task(
    threat: Threat, defence: Defence, what: str, seconds: float, measure: object, *, is_control: bool = False
) -> Task:
    title = f"{threat.name}, {what}, {defence.name}"
    return Task(threat.name, (defence.name,), title, seconds, measure, is_control)  # type: ignore[arg-type]


def _control(study: Study, effort: Effort) -> Iterator[Cell]:
    found = compared(study, Case("sign flip", is_bounded=False), effort, effort.trials(SEEDS, 1))
    yield _cell(BYZANTINE, MASKING, Kind.CONTROL, "sign flip", MALICIOUS, found, effort, bars=(Bar(at_most=LOST),))


def _in_short(study: Study, effort: Effort) -> Iterator[Cell]:
    yield from _control(study, effort)
    for name in QUICK_UPDATES:
        yield from _bounded(name, study, effort)


def _bounded(name: str, study: Study, effort: Effort) -> Iterator[Cell]:
    found = compared(study, Case(name), effort, effort.trials(SEEDS, 1))
    bars = (Bar(at_least=KEPT),)
    yield _cell(BYZANTINE, NORM_BOUND, Kind.DEFENDED, name, MALICIOUS, found, effort, bars=bars, sentence=WHY_BOUND)


def _beyond(name: str, study: Study, effort: Effort) -> Iterator[Cell]:
    found = compared(study, Case(name, malicious=MANY), effort, FEW)
    yield _cell(BYZANTINE, NORM_BOUND, Kind.REPORT, name, MANY, found, effort, sentence=WHY_BOUND)


def _skipped(study: Study, effort: Effort) -> Iterator[Cell]:
    found = compared(study, Case("sign flip", keeps_bound=False), effort, FEW)
    game = "sign flip without the clip"
    yield _cell(BYZANTINE, NORM_BOUND, Kind.REPORT, game, MALICIOUS, found, effort, sentence=WHY_SKIPPED)


def _poisoned(name: str, study: Study, effort: Effort) -> Iterator[Cell]:
    found, why = compared(study, Case(name), effort, SEEDS), WHY_BACKDOOR if name == "backdoor" else WHY_DATA
    bars, unbounded = (Bar(at_least=KEPT),), compared(study, Case(name, is_bounded=False), effort, FEW)
    cell = _cell(POISONED_DATA, NORM_BOUND, Kind.DEFENDED, name, MALICIOUS, found, effort, bars=bars, sentence=why)
    yield beside_unbounded(cell, unbounded.relative[0])
    yield _cell(POISONED_DATA, MASKING, Kind.REPORT, name, MALICIOUS, unbounded, effort, sentence=why)


def beside_unbounded(cell: Cell, unbounded: float) -> Cell:
    """Return a cell with what the same attack leaves without a bound, and said so where it takes nothing there."""
    said = f"{cell.sentence} {WHY_HARMLESS}" if unbounded >= KEPT else cell.sentence
    return replace(cell, figures={**cell.figures, "without_bound": unbounded}, sentence=said)


def _rider(name: str, study: Study, effort: Effort) -> Iterator[Cell]:
    found = compared(study, Case(name), effort, FEW)
    yield _cell(FREE_RIDER, NORM_BOUND, Kind.REPORT, name, MALICIOUS, found, effort, sentence=WHY_RIDER)


def _grouped(rule: str, study: Study, effort: Effort) -> Iterator[Cell]:
    sentence, price = WHY_GROUPS.format(size=GROUP), price_of_groups(study)
    for name in GROUP_ATTACKS[: 1 if rule == "mean" else None]:
        found = compared(study, Case(name, is_bounded=False, rule=rule), effort, FEW)
        game = f"{name}, {rule} of {GROUPED_SITES // GROUP} sums of {GROUP}"
        cell = _cell(
            BYZANTINE, GROUPS, Kind.REPORT, game, MALICIOUS, found, effort, sentence=sentence, of=GROUPED_SITES
        )
        yield replace(cell, figures={**cell.figures, **price})


def _too_few_groups(study: Study, effort: Effort) -> Iterator[Cell]:
    """Ask for a rule over four groups where two sites may be malicious."""
    refusal, sentence, case = "", "", Case("sign flip", malicious=3, is_bounded=False, rule="median")
    try:
        train(study_of(study, case, effort.seed, 1), case)
    except InvalidParameter as error:
        refusal, sentence = type(error).__name__, f"Groups must be more than twice the malicious sites: {error}"
    game = f"3 of {GROUPED_SITES} in {GROUPED_SITES // GROUP} groups"
    cell = refused(BYZANTINE, GROUPS, game, refusal, sentence, effort)
    yield replace(cell, figures=price_of_groups(study))


def price_of_groups(study: Study) -> dict[str, float]:
    """Return epsilon of the user's study as it is and where a sum has only a group's honest shares of noise.

    Empty where the study cannot have distributed noise.
    """
    try:
        own = changed(study, {"protection.method": "masking", "privacy.noise": "distributed"})
        constants = sum_constants(own)
    except StudyRefused:
        return {}
    schedule, honest = (
        planned_schedule(own, constants),
        GROUP - 1,
    )  # everybody of a group must be there, and one of it may collude
    return {
        "epsilon_one_sum": epsilon_of_schedule(schedule),
        "epsilon_groups": epsilon_of_schedule(schedule, WhatIf(shares=honest)),
        "honest_shares_one_sum": float(constants.honest_shares),
        "honest_shares_group": float(honest),
    }


def _cell(
    threat: Threat,
    defence: Defence,
    kind: Kind,
    name: str,
    malicious: int,
    found: Compared,
    effort: Effort,
    *,
    bars: tuple[Bar, ...] = (),
    sentence: str = "",
    of: int = SITES,
) -> Cell:
    value, low, high = found.relative
    count = len(found.clean)
    figures = {
        "malicious": float(malicious),
        "sites": float(of),
        "clean_return": sum(one.last for one in found.clean) / count,
        "return": sum(one.last for one in found.attacked) / count,
        "all_rounds": found.whole,
        "sum_length": sum(one.length for one in found.attacked) / count,
    }
    if name == "backdoor":
        figures["triggered"] = sum(one.triggered for one in found.attacked) / count
        figures["untriggered"] = sum(one.untriggered for one in found.attacked) / count
        figures["triggered_clean"] = sum(one.triggered for one in found.clean) / count
    return Cell(
        attack=threat.name,
        defence=defence.name,
        kind=kind,
        metric=METRIC,
        value=value,
        low=low,
        high=high,
        n=count,
        view=str(View.SITE),
        game=f"{name}, {malicious} of {of}",
        bars=bars,
        figures=figures,
        sentence=sentence,
        seeds=(effort.seed,),
    )
