"""What a campaign of fault schedules counts, and the error that its oracle raises."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fault_bending import CELLS, Cell


class Violation(AssertionError):
    """The oracle was contradicted."""


@dataclass
class Tally:
    """Counts of a campaign; adds up over processes."""

    schedules: int = 0
    complete: int = 0
    rounds: int = 0
    sums: int = 0
    foretold: int = 0
    cells: Counter[Cell] = field(default_factory=Counter)
    aborts: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name in ("schedules", "complete", "rounds", "sums", "foretold"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("cells", "aborts", "refusals", "excluded"):
            getattr(self, name).update(getattr(other, name))
        self.violations += other.violations

    def report(self) -> str:
        rare = sorted((self.cells[cell], cell) for cell in CELLS)[:3]
        return (
            f"{self.schedules} schedules, {self.rounds} rounds, {self.sums} sums, {self.foretold} attempts foretold, "
            f"complete {self.complete / max(1, self.schedules):.1%}, faults {self.cells.total()}; rarest cells {rare}; "
            f"aborts {dict(self.aborts)}; refusals {dict(self.refusals)}; excluded {dict(self.excluded)}; "
            f"violations {len(self.violations)} {self.violations[:5]}"
        )
