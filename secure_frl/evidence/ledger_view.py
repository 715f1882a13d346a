"""A ledger as people read it: what was booked, what became of it, what it comes to. Reads only."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secure_frl.consortium.identity import fingerprint
from secure_frl.errors import ConfigError, SecureFrlError
from secure_frl.evidence.books import read_head
from secure_frl.evidence.rounds import smallest_difference
from secure_frl.privacy import accountant
from secure_frl.privacy.events import GaussianSumEvent, decode_event
from secure_frl.privacy.round_shares import root_share
from secure_frl.records.chain import check_extends
from secure_frl.records.ledger import has_ledger, read_ledger_state, read_rows
from secure_frl.records.ledger_state import Reservation

COLUMNS = ("row", "reserved (UTC)", "study", "round", "outcome", "sigma", "in the sum")  # what fits into 80 characters


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One event with its place and what became of it."""

    sequence: int
    kept: Reservation
    event: GaussianSumEvent

    @property
    def status(self) -> str:
        """Return reserved, released, cancelled, summed, aborted or unknown."""
        return self.kept.status

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table, by COLUMNS."""
        event, kept = self.event, self.kept
        return (
            str(self.sequence),
            "-" if kept.time is None else f"{datetime.fromtimestamp(kept.time, UTC):%Y-%m-%d %H:%M}",
            event.charter_hash[:8],
            f"{event.round}.{event.attempt}",
            kept.status,
            f"{event.noise_multiplier / root_share(event.blocks):.4f}",  # more where a release spends a part
            "-" if kept.survivors is None else str(len(kept.survivors)),
        )

    def plain(self) -> dict[str, Any]:  # Any: JSON values
        """Return every field: the event's own, and what the rows around it say."""
        kept = self.kept
        booked: dict[str, Any] = json.loads(kept.event)
        return booked | {
            "row": self.sequence,
            "status": kept.status,
            "time": kept.time,
            "register_root_after": kept.register_root_after,
            "survivors": None if kept.survivors is None else list(kept.survivors),
            "reason": kept.reason,
        }


@dataclass(frozen=True, slots=True)
class LedgerView:
    """A verified ledger. Epsilons are infinite where none can be stated."""

    name: str  # hash of the first row
    head: str  # hash of the last row
    holder: str
    dataset_id: str
    format: int
    code_version: str  # that opened it
    epsilon_budget: float  # for life
    delta: float
    epsilon_spent: float
    studies: dict[str, float]  # charter, in hex -> epsilon that its events cost alone
    differences: dict[str, int | None]  # charter, in hex -> `smallest_difference` of the sums that this holder knows
    rows: tuple[LedgerRow, ...]

    @property
    def epsilon_left(self) -> float:
        """Return what is left of the lifetime budget, 0 when nothing is."""
        return max(0.0, self.epsilon_budget - self.epsilon_spent) if math.isfinite(self.epsilon_spent) else 0.0

    def about(self) -> tuple[tuple[str, str], ...]:
        """Return (name, value) of all that isn't in the table, for people."""
        return (
            ("ledger", f"{self.name}, format {self.format}, opened by {self.code_version}"),
            ("last row", self.head),
            ("data set", self.dataset_id),
            ("unit", ", ".join(dict.fromkeys(f"{row.event.unit}, {row.event.relation}" for row in self.rows))),
            ("purposes", ", ".join(dict.fromkeys(row.event.purpose for row in self.rows))),
            *(
                (f"study {charter[:8]}", f"epsilon {spent:.4f} by itself{_alike(self.differences[charter])}")
                for charter, spent in self.studies.items()
            ),
            (
                "lifetime",
                f"epsilon {self.epsilon_spent:.4f} spent of {self.epsilon_budget:g}, {self.epsilon_left:.4f} left, at "
                f"delta {self.delta:g}, accountant {accountant.ACCOUNTANT}",
            ),
        )

    def plain(self) -> dict[str, Any]:  # Any: JSON values
        """Return the view for `--json`; an epsilon that can't be stated is None."""
        return {
            "ledger": self.name,
            "head": self.head,
            "holder": self.holder,
            "dataset_id": self.dataset_id,
            "format": self.format,
            "code_version": self.code_version,
            "epsilon_budget": _stated(self.epsilon_budget),
            "epsilon_spent": _stated(self.epsilon_spent),
            "epsilon_left": _stated(self.epsilon_left),
            "studies": {charter: _stated(spent) for charter, spent in self.studies.items()},
            "survivor_difference_min": self.differences,
            "delta": self.delta,
            "accountant": accountant.ACCOUNTANT,
            "events": [row.plain() for row in self.rows],
        }


def view_ledger(path: Path) -> LedgerView:
    """Read ledger.sqlite or an exported .jsonl, verifying its chain. Raises LedgerCorrupt, ConfigError."""
    _check_is_file(path)
    state = read_ledger_state(path)
    if state.budget is None or state.last is None:
        raise ConfigError(f"expected a ledger at {path}, found none. Check the path.")
    rows = tuple(LedgerRow(sequence, kept, decode_event(kept.event)) for sequence, kept in state.reservations.items())
    spent = [row.event for row in rows if row.kept.is_spent]
    charters = dict.fromkeys(event.charter_hash for event in spent)
    delta = state.budget.delta
    return LedgerView(
        state.name,
        state.last.hash.hex(),
        state.holder,
        state.dataset_id,
        state.format,
        state.code_version,
        state.budget.epsilon,
        delta,
        accountant.epsilon(spent, delta),
        {
            charter: accountant.epsilon([event for event in spent if event.charter_hash == charter], delta)
            for charter in charters
        },
        {
            charter: smallest_difference(
                row.kept.survivors for row in rows if row.kept.charter == charter and row.kept.survivors is not None
            )
            for charter in charters
        },
        rows,
    )


@dataclass(frozen=True, slots=True)
class HeadAnswer:
    """Whether a ledger contains one head that somebody kept."""

    file: str
    holds: bool
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"

    def plain(self) -> dict[str, object]:
        """Return the answer for `--json`."""
        return {"file": self.file, "holds": self.holds, "message": self.message}


def check_heads(path: Path, heads: Sequence[Path]) -> tuple[HeadAnswer, ...]:
    """Compare a ledger with heads that its holder signed at any time before: it must contain each of those rows.

    Raises LedgerCorrupt for a ledger whose own chain breaks, ConfigError where a file is missing: a mistyped path is
    no answer. What is wrong with a head, or with the ledger against it, is in that head's answer.
    """
    _check_is_file(path)
    missing = [str(file) for file in heads if not file.is_file()]
    if missing:
        raise ConfigError(f"expected signed heads (.head), found no file at {', '.join(missing)}. Check the path.")
    rows = read_rows(path)
    answers = []
    for file in heads:
        try:
            head = read_head(file, None)
            beyond = check_extends(rows, head, path.name)
        except (SecureFrlError, OSError) as error:
            answers.append(HeadAnswer(file.name, False, str(error)))
        else:
            said = f"the ledger contains row {head.receipt.sequence} and has {beyond} more; signed by the key "
            answers.append(HeadAnswer(file.name, True, said + fingerprint(head.public_key)))
    return tuple(answers)


def _check_is_file(path: Path) -> None:
    if not has_ledger(path):
        raise ConfigError(f"expected a ledger at {path}, found no file. Pass ledger.sqlite or an exported .jsonl.")


def _alike(difference: int | None) -> str:
    return "" if difference is None else f"; sums that are not over the same sites differ by {difference} at least"


def _stated(value: float) -> float | None:
    return value if math.isfinite(value) else None
