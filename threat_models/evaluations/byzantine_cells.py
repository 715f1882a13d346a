"""Cells of attacks on the training: returns with the bound beside those without it, and a backdoor's trigger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from threat_models.defences import MASKING, Defence
from threat_models.evaluation import Effort
from threat_models.evaluations.byzantine_study import MALICIOUS, NORM_BOUND, SITES, Compared, Outcome
from threat_models.results import Bar, Cell, Kind
from threat_models.statistics import mean_interval
from threat_models.threat import Threat, View

KEPT = 0.90  # of the clean return
METRIC = "return of honest sites, of clean"
TRIGGER_METRIC = "share of steps at which the trigger calls its action"
HARMLESS = "takes less than a tenth without the bound either"
NOT_THE_TRIGGER = "the return alone; the trigger has cells of its own"
WHY_RETURN = (
    "A backdoor's false records cost return too, with the bound and without, and more in longer trainings: about nine "
    "tenths are left here, so its bar is near, and seeds that fall below it fail."
)
WHY_TRIGGER = (
    "A bound keeps the return, not the policy: where no honest patient ever is, nobody contradicts a false record, so "
    "the trigger calls its action. By chance: policies of the same seeds that nobody attacked. Nothing here stops that."
)


def site_cell(
    threat: Threat,
    defence: Defence,
    kind: Kind,
    found: tuple[float, float, float],
    effort: Effort,
    **more: Any,  # Any: further fields of a cell
) -> Cell:
    """Return a cell of what malicious sites reached. found: value, low, high."""
    value, low, high = found
    return Cell(
        attack=threat.name,
        defence=defence.name,
        kind=kind,
        value=value,
        low=low,
        high=high,
        view=str(View.SITE),
        seeds=(effort.seed,),
        **more,
    )


def cell_of(
    threat: Threat,
    defence: Defence,
    kind: Kind,
    name: str,
    found: Compared,
    effort: Effort,
    *,
    malicious: int = MALICIOUS,
    of: int = SITES,
    bars: tuple[Bar, ...] = (),
    sentence: str = "",
) -> Cell:
    """Return the cell of what honest sites' people got. name: the attack's; malicious, of: sites."""
    figures = {
        "malicious": float(malicious),
        "sites": float(of),
        "clean_return": _mean([one.last for one in found.clean]),
        "return": _mean([one.last for one in found.attacked]),
        "all_rounds": found.whole,
        "sum_length": _mean([one.length for one in found.attacked]),
    }
    return site_cell(
        threat,
        defence,
        kind,
        found.relative,
        effort,
        metric=METRIC,
        n=len(found.clean),
        game=f"{name}, {malicious} of {of}",
        bars=bars,
        figures=figures,
        sentence=sentence,
        defence_digest=found.digest,
    )


def beside_unbounded(cell: Cell, unbounded: float) -> Cell:
    """Return a cell with what the same attack leaves without a bound, and, where that is all, a remark on it."""
    remark = HARMLESS if unbounded >= KEPT else cell.remark
    return replace(cell, figures={**cell.figures, "without_bound": unbounded}, remark=remark)


def trigger_cells(threat: Threat, off: Compared, on: Compared, effort: Effort) -> Iterator[Cell]:
    """Yield how often a backdoor's trigger calls its action, without the bound and with it: the attack's own aim."""
    yield _trigger_cell(threat, MASKING, Kind.REPORT, off, effort)
    yield _trigger_cell(threat, NORM_BOUND, Kind.BY_DESIGN, on, effort)


def _trigger_cell(threat: Threat, defence: Defence, kind: Kind, found: Compared, effort: Effort) -> Cell:
    by_chance = _mean(_triggered(found.clean))
    return site_cell(
        threat,
        defence,
        kind,
        mean_interval(_triggered(found.attacked)),
        effort,
        metric=TRIGGER_METRIC,
        n=len(found.attacked),
        game=f"backdoor's trigger, {MALICIOUS} of {SITES}",
        bars=(Bar(at_least=KEPT),) if kind is Kind.BY_DESIGN else (),
        nulls={"chance": by_chance},
        figures={"untriggered": _mean([one.untriggered for one in found.attacked])},
        sentence=WHY_TRIGGER,
        defence_digest=found.digest,
    )


def _triggered(found: Sequence[Outcome]) -> list[float]:
    return [one.triggered for one in found]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
