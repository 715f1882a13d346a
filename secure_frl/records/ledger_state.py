"""What the rows of a ledger say: budget, reservations and what became of each.

Folded row by row, by the same code from an open database and from an export that `verify` reads. Rows that contradict
the rows before them are refused. Events are opaque bytes but for the keys `charter_hash` and `round`. No file here.

Formats of rows. 1: `opened`, `reserved`, `released`, `cancelled`, `committed`. 2 adds the time to rows that are written
before data is touched (`opened`, `reserved`; never to later ones, for how long data took is a query), the register's
root after the window to `released`, and the survivors to `committed`; `upgraded` turns a ledger of format 1 into one of
format 2 and keeps its rows as they are; `clock` accepts that time moved back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

from secure_frl.errors import InvalidParameter, LedgerCorrupt, NewerFormat
from secure_frl.records.chain import Receipt, Row
from secure_frl.secure_sum import Budget

FORMAT = 2  # of the rows that are written; 1 is read, a greater one is refused whole
OUTCOMES = ("summed", "aborted", "unknown")
_OPENED = frozenset({"code_version", "dataset_id", "delta", "epsilon", "format", "holder", "nonce"})
_KEYS: dict[int, dict[str, frozenset[str]]] = {  # format -> kind -> keys of the payload, all of them
    1: {
        "opened": _OPENED,
        "reserved": frozenset({"event"}),
        "released": frozenset({"of"}),
        "cancelled": frozenset({"of", "reason"}),
        "committed": frozenset({"of", "outcome"}),
        "upgraded": frozenset({"code_version", "format", "time"}),
    },
    2: {
        "opened": _OPENED | {"time"},
        "reserved": frozenset({"event", "time"}),
        "released": frozenset({"of", "register_root_after"}),
        "cancelled": frozenset({"of", "reason"}),
        "committed": frozenset({"of", "outcome", "survivors"}),
        "clock": frozenset({"time"}),
    },
}


@dataclass(frozen=True, slots=True)
class Reservation:
    """An event with its place in the ledger and what became of it: reserved, released, cancelled or an outcome."""

    receipt: Receipt
    event: bytes
    charter: str  # hex, as the event names it
    status: str
    time: int | None = None  # Unix seconds when it was reserved; None in format 1
    register_root_after: str = ""  # hex, of the participation register once the window was admitted; "" if unknown
    survivors: tuple[int, ...] | None = None  # SiteIds in the sum; None if there was none, or unknown
    reason: str = ""  # why it was cancelled

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
    code_version: str = ""  # that opened it; each event names the one that made it
    format: int = FORMAT
    time: int | None = None  # Unix seconds, the last one written; None before there is one
    budget: Budget | None = None
    last: Row | None = None
    reservations: dict[int, Reservation] = field(default_factory=dict)

    def fold(self, row: Row, fields: dict[str, object] | None = None) -> None:
        """Take the next row in. Raises LedgerCorrupt if it contradicts the rows before it.

        fields: what the row's payload was made from, where it was made here; None decodes it.
        """
        try:
            self._fold(row, row.fields() if fields is None else fields)
        except (KeyError, TypeError, ValueError, InvalidParameter):
            raise LedgerCorrupt(
                f"row {row.sequence} of {self.where} ({row.kind[:20]}) contradicts the rows before it. "
                "Restore the file from a copy; nothing is answered before it holds."
            ) from None
        self.last = row

    def _fold(self, row: Row, plain: dict[str, object]) -> None:
        if (row.kind == "opened") != (row.sequence == 0):
            raise ValueError(row.kind)
        if row.kind in ("opened", "upgraded"):
            written = self._format(plain)
            if row.kind == "upgraded" and written <= self.format:
                raise ValueError("format")
            self.format = written if row.kind == "opened" else self.format
        if set(plain) != _KEYS[self.format].get(row.kind, set()):
            raise KeyError(row.kind)
        if "time" in plain:
            time = _count(plain["time"])
            if row.kind != "clock" and self.time is not None and time < self.time:
                raise ValueError("time")
            self.time = time
        if row.kind == "opened":
            self.name = row.hash.hex()
            self.holder, self.dataset_id = _text(plain, "holder"), _text(plain, "dataset_id")
            self.code_version = _text(plain, "code_version")
            unlimited = plain["epsilon"] is None  # JSON has no infinity
            self.budget = Budget(math.inf if unlimited else _real(plain, "epsilon"), _real(plain, "delta"))
        elif row.kind == "upgraded":
            self.format = self._format(plain)
        elif row.kind == "reserved":
            event = _text(plain, "event").encode()
            receipt = Receipt(self.name, row.sequence, row.hash)
            written_at = self.time if "time" in plain else None
            self.reservations[row.sequence] = Reservation(receipt, event, event_charter(event), "reserved", written_at)
        elif row.kind != "clock":
            self._move(row.kind, plain)

    def _format(self, plain: dict[str, object]) -> int:
        written = _count(plain["format"])
        if written > FORMAT:
            raise NewerFormat(
                f"{self.where} has format {written}, this version reads up to {FORMAT}. Use a newer secure_frl."
            )
        if written < 1:
            raise ValueError("format")
        return written

    def _move(self, kind: str, plain: dict[str, object]) -> None:
        of = _count(plain["of"])
        before = self.reservations[of]
        needed, after = {
            "released": ("reserved", "released"),
            "cancelled": ("reserved", "cancelled"),
            "committed": ("released", plain.get("outcome")),
        }[kind]
        if before.status != needed or (kind == "committed" and after not in OUTCOMES):
            raise ValueError(kind)
        self.reservations[of] = Reservation(
            before.receipt,
            before.event,
            before.charter,
            status=str(after),
            time=before.time,
            register_root_after=_root(plain, before.register_root_after),
            survivors=_survivors(plain),
            reason=_text(plain, "reason") if "reason" in plain else "",
        )

    def events(self, charter_hash: bytes | None = None) -> tuple[bytes, ...]:
        """Return what counts as spent, in order: everything not cancelled. None: over all studies."""
        kept = self.reservations.values()  # in the order of their rows
        if charter_hash is None:  # before each release: its time grows with the ledger
            return tuple([one.event for one in kept if one.status != "cancelled"])
        wanted = charter_hash.hex()
        return tuple(one.event for one in kept if one.is_spent and one.charter == wanted)


def replay(rows: Sequence[Row], where: str) -> LedgerState:
    """Fold a chain that `chain.decode_export` has checked. Raises LedgerCorrupt."""
    state = LedgerState(where)
    for row in rows:
        state.fold(row)
    return state


@lru_cache(maxsize=4096)
def event_charter(event: bytes) -> str:
    """Return the charter that an event names, in hex. Raises InvalidParameter unless the plain keys are there."""
    try:
        plain = msgspec.json.decode(event)
    except (msgspec.MsgspecError, ValueError, RecursionError):
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


def _count(value: object) -> int:
    if type(value) is not int:
        raise TypeError("count")
    return value


def _root(plain: dict[str, object], before: str) -> str:
    root = _text(plain, "register_root_after") if "register_root_after" in plain else before
    if bytes.fromhex(root).hex() != root:
        raise ValueError("register_root_after")
    return root


def _survivors(plain: dict[str, object]) -> tuple[int, ...] | None:
    sites = plain.get("survivors")
    if sites is None:
        return None
    if not isinstance(sites, list):
        raise TypeError("survivors")
    return tuple(map(_count, sites))


def _real(plain: dict[str, object], key: str) -> float:
    value = plain[key]
    if type(value) is not float and type(value) is not int:
        raise TypeError(key)
    return float(value)
