"""A cell of the matrix: what an attack reached against a defence, what chance reaches, and whether that is acceptable.

A control is a cell with the defence off. One that fails says that the attack does not work here, so what the same
attack does against a defence means nothing: INVALID, never "safe".
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
        """Return whether the cell keeps it; a refusal counts as an attack that got nothing."""
        value = getattr(cell, self.of) if self.of in ("value", "low", "high") else cell.figures[self.of]
        above = self.at_least is None or value >= self.at_least
        return bool(above and (self.at_most is None or value <= self.at_most))

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
    reason: str = ""  # of NOT_TESTED
    seeds: tuple[int, ...] = ()

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


def judge(cells: Sequence[Cell]) -> list[Verdict]:
    """Return each cell's verdict; a control that fails makes its attack's other cells INVALID."""
    failed = {
        cell.attack for cell in cells if cell.kind is Kind.CONTROL and not all(bar.holds(cell) for bar in cell.bars)
    }
    return [_verdict(cell, failed) for cell in cells]


def _verdict(cell: Cell, failed: set[str]) -> Verdict:
    if cell.reason:
        return Verdict.NOT_TESTED
    if cell.attack in failed:
        return Verdict.INVALID
    holds = all(bar.holds(cell) for bar in cell.bars)
    if cell.kind is Kind.REPORT:
        return Verdict.REPORTED
    if cell.kind is Kind.BY_DESIGN:  # shown as broken: an attack that no longer wins here is a figure that failed
        return Verdict.BROKEN if holds else Verdict.FAILS
    if cell.kind is Kind.CONTROL:
        return Verdict.WINS
    return Verdict.HOLDS if holds else Verdict.FAILS
