"""What the rows of a ledger say: budget, reservations and what became of each.

Folded row by row, by the same code from an open database and from an export that `verify` reads. Rows that contradict
the rows before them are refused. Events are opaque bytes but for the keys `charter_hash` and `round`. No file here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from secure_frl.errors import InvalidParameter, LedgerCorrupt
from secure_frl.records.chain import FORMAT, Receipt, Row

OUTCOMES = ("summed", "aborted", "unknown")


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent on the people of a data set, ever. epsilon = infinity: reference runs without noise."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and 0 < self.delta < 1):
            raise InvalidParameter(
                f"expected epsilon > 0 and delta in (0, 1), got epsilon={self.epsilon}, delta={self.delta}. "
                "Choose the lifetime budget of the data set before its first study."
            )


@dataclass(frozen=True, slots=True)
class Reservation:
    """An event with its place in the ledger and what became of it: reserved, released, cancelled or an outcome."""

    receipt: Receipt
    event: bytes
    charter: str  # hex, as the event names it
    status: str

    @property
    def is_spent(self) -> bool:
        """True unless it was cancelled before anything left."""
        return self.status != "cancelled"


@dataclass(slots=True)
class LedgerState:
    """What the rows say, folded one by one; the same code reads a database and an export."""

    where: str
    name: str = ""
    holder: str = ""
    dataset_id: str = ""
    code_version: str = ""
    budget: Budget | None = None
    last: Row | None = None
    reservations: dict[int, Reservation] = field(default_factory=dict)

    def fold(self, row: Row) -> None:
        """Take the next row in. Raises LedgerCorrupt if it contradicts the rows before it."""
        try:
            self._fold(row, row.fields())
        except (KeyError, TypeError, ValueError, InvalidParameter):
            raise LedgerCorrupt(
                f"row {row.sequence} of {self.where} ({row.kind[:20]}) contradicts the rows before it. "
                "Restore the file from a copy; nothing is answered before it holds."
            ) from None
        self.last = row

    def _fold(self, row: Row, plain: dict[str, object]) -> None:
        if (row.kind == "opened") != (row.sequence == 0):
            raise ValueError(row.kind)
        if row.kind == "opened":
            if type(plain["format"]) is int and plain["format"] > FORMAT:
                raise LedgerCorrupt(
                    f"{self.where} has format {plain['format']}, this version reads up to {FORMAT}. "
                    "Use a newer secure_frl."
                )
            self.name = row.hash.hex()
            self.holder, self.dataset_id = _text(plain, "holder"), _text(plain, "dataset_id")
            self.code_version = _text(plain, "code_version")
            unlimited = plain["epsilon"] is None  # JSON has no infinity
            self.budget = Budget(math.inf if unlimited else _real(plain, "epsilon"), _real(plain, "delta"))
        elif row.kind == "reserved":
            event = _text(plain, "event").encode()
            receipt = Receipt(self.name, row.sequence, row.hash)
            self.reservations[row.sequence] = Reservation(receipt, event, event_charter(event), "reserved")
        else:
            self._move(row.kind, plain)

    def _move(self, kind: str, plain: dict[str, object]) -> None:
        of = plain["of"]
        if type(of) is not int:
            raise TypeError(kind)
        before = self.reservations[of]
        needed, after = {
            "released": ("reserved", "released"),
            "cancelled": ("reserved", "cancelled"),
            "committed": ("released", plain.get("outcome")),
        }[kind]
        if before.status != needed or (kind == "committed" and after not in OUTCOMES):
            raise ValueError(kind)
        self.reservations[of] = Reservation(before.receipt, before.event, before.charter, str(after))

    def events(self, charter_hash: bytes | None = None) -> tuple[bytes, ...]:
        """Return what counts as spent, in order: everything not cancelled. None: over all studies."""
        wanted = None if charter_hash is None else charter_hash.hex()
        found = (kept for _, kept in sorted(self.reservations.items()) if kept.is_spent)
        return tuple(kept.event for kept in found if wanted in (None, kept.charter))


def replay(rows: Sequence[Row], where: str) -> LedgerState:
    """Fold a chain that `chain.decode_export` has checked. Raises LedgerCorrupt."""
    state = LedgerState(where)
    for row in rows:
        state.fold(row)
    return state


def event_charter(event: bytes) -> str:
    """Return the charter that an event names, in hex. Raises InvalidParameter unless the plain keys are there."""
    try:
        plain = json.loads(event.decode())
    except (ValueError, RecursionError):
        plain = None
    if (
        not isinstance(plain, dict)
        or not isinstance(plain.get("charter_hash"), str)
        or type(plain.get("round")) is not int
    ):
        raise InvalidParameter(
            "expected a JSON object with `charter_hash` and `round`, got other bytes. Pass Event.canonical()."
        )
    return str(plain["charter_hash"])


def _text(plain: dict[str, object], key: str) -> str:
    value = plain[key]
    if not isinstance(value, str):
        raise TypeError(key)
    return value


def _real(plain: dict[str, object], key: str) -> float:
    value = plain[key]
    if type(value) is not float and type(value) is not int:
        raise TypeError(key)
    return float(value)
