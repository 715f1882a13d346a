"""A cell of the matrix: what an attack reached against a defence, what chance reaches, and whether that is acceptable.

A control is a cell with the defence off. One that fails says that the attack does not work here, so what the same
attack does against a defence means nothing: INVALID, never "safe". What was not measured keeps no bar: a task that
broke off, a cell without trials or bars, a figure that is no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np


class Verdict(StrEnum):
    """What a cell means."""

    WINS = "control wins"  # the attack works here with the defence off
    HOLDS = "holds"  # a defence that keeps its bar
    FAILS = "fails"
    INVALID = "INVALID"  # the attack's control failed
    REPORTED = "reported"  # a figure without a bar
    BROKEN = "broken by design"  # expected to win, with the sentence why
    NOT_TESTED = "not tested"


class Kind(StrEnum):
    """What a cell is for."""

    CONTROL = "control"
    DEFENDED = "defended"
    BY_DESIGN = "by design"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Bar:
    """What a cell must keep: the named figure of it at least, or at most, a value.

    of: "value" (point estimate), "low" or "high" (end of the interval), or the name of one of the cell's `figures`.
    """

    of: str = "value"
    at_least: float | None = None
    at_most: float | None = None

    def holds(self, cell: Cell) -> bool:
        """Return whether the cell keeps it; a figure that is missing or no finite number keeps none."""
        own = getattr(cell, self.of) if self.of in ("value", "low", "high") else None
        value = cell.figures.get(self.of, np.nan) if own is None else own
        above = self.at_least is None or value >= self.at_least
        return bool(np.isfinite(value) and above and (self.at_most is None or value <= self.at_most))

    def text(self) -> str:
        """Return it for people."""
        ends = [
            f"{sign} {bound:.3g}" for sign, bound in ((">=", self.at_least), ("<=", self.at_most)) if bound is not None
        ]
        return f"{self.of} {' and '.join(ends)}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One attack against one defence, measured."""

    attack: str  # Threat.name
    defence: str  # Defence.name
    kind: Kind
    metric: str  # what `value` is
    value: float
    low: float  # 95 % interval
    high: float
    n: int  # decisions or trials behind it
    view: str
    game: str = ""  # include/omit | swap, of memberships
    bars: tuple[Bar, ...] = ()
    nulls: dict[str, float] = field(default_factory=dict)  # uniform, prior, swapped: what chance reaches
    ceiling: float | None = None  # what no attack of this game may pass, where noise gives one
    figures: dict[str, float] = field(default_factory=dict)  # beside the metric: AUC, steps, milliseconds
    curves: dict[str, list[float]] = field(default_factory=dict)  # what the figures draw
    refusal: str = ""  # the name of the error that an honest party answered; then value is 0
    sentence: str = ""  # why it is red by design, or what a figure means
    remark: str = ""  # beside the verdict, where that word alone would say too much
    reason: str = ""  # of NOT_TESTED
    error: str = ""  # what ended the measuring before there was a figure
    seeds: tuple[int, ...] = ()
    defence_digest: str = ""  # `defences.digest_of` the study that was attacked; empty where none was

    @property
    def is_kept(self) -> bool:
        """Return whether all its bars hold and stand on something: trials, a finite value, at least one bar."""
        is_measured = not self.error and self.n > 0 and bool(np.isfinite(self.value)) and bool(self.bars)
        return is_measured and all(bar.holds(self) for bar in self.bars)

    @property
    def broken(self) -> str:
        """Return for people what is not kept."""
        if self.error:
            return f"measuring ended: {self.error}"
        missed = (
            "; ".join(bar.text() for bar in self.bars if not bar.holds(self)) or "trials, and a bar to hold them to"
        )
        interval = f"{self.metric} {self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"
        return f"expected {missed}, got {interval}" + ("" if self.n > 0 else " of no trial")

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values; a number that is none is left out."""
        found: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name == "bars":
                value = [bar.text() for bar in self.bars]
            elif isinstance(value, float) and not np.isfinite(value):
                value = None
            elif isinstance(value, dict):
                value = {
                    key: one for key, one in value.items() if not (isinstance(one, float) and not np.isfinite(one))
                }
            elif isinstance(value, tuple):
                value = list(value)
            found[name] = value
        return found


def not_tested(attack: str, reason: str) -> Cell:
    """Return the cell of an attack that does not apply to a study."""
    nan = float("nan")
    return Cell(attack, "", Kind.REPORT, "", nan, nan, nan, 0, "", reason=reason)


def broke_off(attack: str, defence: str, kind: Kind, error: str) -> Cell:
    """Return the cell of a measurement that ended in an error: a control that failed, or a bar that nothing kept."""
    nan = float("nan")
    return Cell(attack, defence, kind, "", nan, nan, nan, 0, "", error=error)


def judge(cells: Sequence[Cell]) -> list[Verdict]:
    """Return each cell's verdict; a control that fails makes its attack's other cells INVALID."""
    failed = {cell.attack for cell in cells if cell.kind is Kind.CONTROL and not cell.is_kept}
    return [_verdict(cell, failed) for cell in cells]


def _verdict(cell: Cell, failed: set[str]) -> Verdict:
    if cell.reason:
        return Verdict.NOT_TESTED
    if cell.attack in failed:
        return Verdict.INVALID
    if cell.kind is Kind.REPORT:
        return Verdict.FAILS if cell.error else Verdict.REPORTED
    if cell.kind is Kind.BY_DESIGN:  # shown as broken: an attack that no longer wins here is a figure that failed
        return Verdict.BROKEN if cell.is_kept else Verdict.FAILS
    if cell.kind is Kind.CONTROL:
        return Verdict.WINS
    return Verdict.HOLDS if cell.is_kept else Verdict.FAILS
