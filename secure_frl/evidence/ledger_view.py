"""A ledger as people read it: what was booked, what became of it, what it comes to. Reads only."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secure_frl.errors import ConfigError
from secure_frl.privacy import accountant
from secure_frl.privacy.events import GaussianSumEvent, decode_event
from secure_frl.records.chain import decode_export
from secure_frl.records.ledger import read_ledger
from secure_frl.records.ledger_state import LedgerState, replay


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One event with its place and what became of it."""

    sequence: int
    status: str  # reserved | released | cancelled | summed | aborted | unknown
    event: GaussianSumEvent

    def cells(self) -> tuple[str, ...]:
        """Return the columns of the table that `ledger show` prints."""
        event = self.event
        study, noise = event.charter_hash[:8], f"{event.noise_multiplier:.4f} {event.mechanism}"
        return (
            str(self.sequence),
            study,
            f"{event.round}.{event.attempt}",
            self.status,
            event.unit,
            noise,
            str(event.honest_shares),
        )


@dataclass(frozen=True, slots=True)
class LedgerView:
    """A verified ledger. Epsilons are infinite where none can be stated."""

    holder: str
    dataset_id: str
    epsilon_budget: float  # for life
    delta: float
    epsilon_spent: float
    rows: tuple[LedgerRow, ...]

    @property
    def epsilon_left(self) -> float:
        """Return what is left of the lifetime budget, 0 when nothing is."""
        return max(0.0, self.epsilon_budget - self.epsilon_spent) if math.isfinite(self.epsilon_spent) else 0.0

    def plain(self) -> dict[str, Any]:  # Any: JSON values
        """Return the view for `--json`; an epsilon that can't be stated is None."""
        return {
            "holder": self.holder,
            "dataset_id": self.dataset_id,
            "epsilon_budget": _stated(self.epsilon_budget),
            "epsilon_spent": _stated(self.epsilon_spent),
            "epsilon_left": _stated(self.epsilon_left),
            "delta": self.delta,
            "accountant": accountant.ACCOUNTANT,
            "events": [
                {"row": row.sequence, "status": row.status, **json.loads(row.event.canonical())} for row in self.rows
            ],
        }


def view_ledger(path: Path) -> LedgerView:
    """Read ledger.sqlite or an exported .jsonl, verifying its chain. Raises LedgerCorrupt, ConfigError."""
    state = _read(path)
    if state.budget is None:
        raise ConfigError(f"expected a ledger at {path}, found none. Check the path.")
    rows = tuple(
        LedgerRow(sequence, kept.status, decode_event(kept.event))
        for sequence, kept in sorted(state.reservations.items())
    )
    spent = accountant.epsilon([row.event for row in rows if row.status != "cancelled"], state.budget.delta)
    return LedgerView(state.holder, state.dataset_id, state.budget.epsilon, state.budget.delta, spent, rows)


def _read(path: Path) -> LedgerState:
    if not path.is_file():
        raise ConfigError(f"expected a ledger at {path}, found no file. Pass ledger.sqlite or an exported .jsonl.")
    if path.suffix == ".jsonl":
        return replay(decode_export(path.read_bytes(), path.name), path.name)
    return read_ledger(path)


def _stated(value: float) -> float | None:
    return value if math.isfinite(value) else None
