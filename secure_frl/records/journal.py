"""The coordinator's journal: epochs, rounds with their outcomes, and the chain of policy tags; what `resume` reads.

Hash-chained like a ledger, each row synced before the next step. One coordinator at a time holds it; the operating
system lets go of it when that one is killed. A round that was begun and has no outcome is lost after a restart: the
coordinator kept nothing of it. The bytes of the last policy stand beside the chain, their hash inside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from secure_frl.errors import InvalidParameter, LedgerCorrupt, NewerFormat, UnexpectedState
from secure_frl.records.book import ROWS_TABLE, Book, open_book, open_book_read_only
from secure_frl.records.chain import Receipt, Row
from secure_frl.wire.canonical import canonical_json

APPLICATION = 0x53464A31  # "SFJ1"
FORMAT = 1  # of its rows
LOST_BY_RESTART = "restart"
_SCHEMA = (
    ROWS_TABLE,
    "CREATE TABLE policy (tag BLOB PRIMARY KEY, model BLOB NOT NULL) STRICT",
)


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One attempt of a round: begun, then summed or lost."""

    round: int
    attempt: int
    epoch: int
    cohort: tuple[str, ...]
    policy_tag: bytes  # of the policy it was asked with
    outcome: str  # begun | summed | lost
    reason: str = ""  # why it was lost
    survivors: tuple[str, ...] = ()
    next_tag: bytes = b""
    details: Mapping[str, object] = field(default_factory=dict)  # what the caller wants back, JSON-ready


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a study goes on: after this round, with this policy, in this epoch."""

    last_closed_round: int  # 0 before the first
    model: bytes = field(repr=False)
    tag: bytes
    next_epoch: int


@dataclass(slots=True)
class JournalState:
    """What the rows say, folded one by one."""

    where: str
    name: str = ""
    charter_hash: bytes = b""
    last: Row | None = None
    tag: bytes = b""
    model_hash: bytes = b""
    last_epoch: int = 0
    rounds: list[RoundRecord] = field(default_factory=list)

    @property
    def open_round(self) -> RoundRecord | None:
        """The round that was begun and has no outcome, if any."""
        return self.rounds[-1] if self.rounds and self.rounds[-1].outcome == "begun" else None

    @property
    def last_closed_round(self) -> int:
        """The greatest round with an outcome, 0 before the first."""
        return max((one.round for one in self.rounds if one.outcome != "begun"), default=0)

    def fold(self, row: Row) -> None:
        """Take the next row in. Raises LedgerCorrupt if it contradicts the rows before it."""
        try:
            self._fold(row, row.fields())
        except (KeyError, TypeError, ValueError, UnexpectedState):
            raise LedgerCorrupt(
                f"row {row.sequence} of {self.where} ({row.kind[:20]}) contradicts the rows before it. "
                "Restore the file from a copy; a study is not resumed from a broken journal."
            ) from None
        self.last = row

    def _fold(self, row: Row, plain: dict[str, object]) -> None:
        if (row.kind == "opened") != (row.sequence == 0) or (row.kind == "started") != (row.sequence == 1):
            raise ValueError(row.kind)
        if row.kind == "opened":
            if type(plain["format"]) is int and plain["format"] > FORMAT:
                raise NewerFormat(
                    f"{self.where} has format {plain['format']}, this version reads up to {FORMAT}. "
                    "Use a newer secure_frl."
                )
            self.name, self.charter_hash = row.hash.hex(), _hex(plain["charter"])
        elif row.kind == "started":
            self.tag, self.model_hash = _hex(plain["tag"]), _hex(plain["model_hash"])
        elif row.kind == "epoch":
            self.check_epoch(_count(plain["epoch"]))
            self.last_epoch = _count(plain["epoch"])
        elif row.kind == "begun":
            self._begin(plain)
        elif row.kind in ("summed", "lost"):
            self._close(row.kind, plain)
        else:
            raise ValueError(row.kind)

    def _begin(self, plain: dict[str, object]) -> None:
        number, attempt = _count(plain["round"]), _count(plain["attempt"])
        self.check_begin(number, attempt)
        cohort, policy_tag = _names(plain["cohort"]), _hex(plain["policy_tag"])
        if policy_tag != self.tag:
            raise ValueError("policy_tag")
        self.rounds.append(RoundRecord(number, attempt, self.last_epoch, cohort, policy_tag, "begun"))

    def _close(self, outcome: str, plain: dict[str, object]) -> None:
        begun = self.check_open()
        details = plain["details"]
        if not isinstance(details, dict):
            raise TypeError("details")
        closed = RoundRecord(
            begun.round,
            begun.attempt,
            begun.epoch,
            begun.cohort,
            begun.policy_tag,
            outcome,
            reason=str(plain["reason"]) if outcome == "lost" else "",
            survivors=_names(plain["survivors"]) if outcome == "summed" else (),
            next_tag=_hex(plain["next_tag"]) if outcome == "summed" else begun.policy_tag,
            details=details,
        )
        if outcome == "summed":
            self.tag, self.model_hash = closed.next_tag, _hex(plain["model_hash"])
        self.rounds[-1] = closed

    # --- rules, used before writing and when reading ----------------------------------------------------------------

    def check_epoch(self, epoch: int) -> None:
        """Raise UnexpectedState unless `epoch` may open now."""
        if self.open_round is not None or epoch <= self.last_epoch or self.last is None or self.last.sequence < 1:
            raise UnexpectedState(
                f"expected an epoch after {self.last_epoch}, between rounds of a started study, got {epoch}. "
                "Close the round first."
            )

    def check_begin(self, number: int, attempt: int) -> None:
        """Raise UnexpectedState unless this round and attempt may begin now."""
        last = self.rounds[-1] if self.rounds else None
        newer = last is None or (number, attempt) > (last.round, last.attempt)
        retried_sum = last is not None and last.outcome == "summed" and number == last.round
        if number < 1 or attempt < 0 or self.last_epoch < 1 or self.open_round is not None or not newer or retried_sum:
            raise UnexpectedState(
                f"expected a round after {self.last_closed_round} in an open epoch, got round {number}, attempt "
                f"{attempt}. Go on from `resume_point`."
            )

    def check_open(self) -> RoundRecord:
        """Return the open round. Raises UnexpectedState without one."""
        if self.open_round is None:
            raise UnexpectedState("expected a round that was begun, got none. Begin it first.")
        return self.open_round


class Journal:
    """An open journal, held by this coordinator alone. Made by `Journal.open`."""

    def __init__(self, book: Book) -> None:
        """Use `Journal.open`."""
        self._book, self._connection, self._state = book, book.connection, JournalState(book.name)

    @classmethod
    def open(cls, path: Path, *, charter_hash: bytes, code_version: str) -> Self:
        """Open or create the journal of a study, verifying it whole; an open round is written down as lost.

        Raises UnexpectedState if another coordinator holds it, LedgerCorrupt, InvalidParameter for another charter.
        """
        journal = cls(open_book(path, APPLICATION, _SCHEMA, exclusive=True))
        try:
            journal._refresh()
            if journal._state.last is None:
                journal._append(
                    "opened", {"charter": charter_hash.hex(), "code_version": code_version, "format": FORMAT}
                )
            if journal._state.charter_hash != charter_hash:
                raise InvalidParameter(
                    f"expected the journal of charter {charter_hash.hex()[:16]}, {path.name} belongs to "
                    f"{journal._state.charter_hash.hex()[:16]}. A second run is a second folder."
                )
            if journal._state.tag:
                journal._model()
            if journal._state.open_round is not None:
                journal.lose_round(LOST_BY_RESTART)
        except BaseException:
            journal._book.abandon()
            raise
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_cleanly()

    @property
    def is_started(self) -> bool:
        """True once the first policy is written down."""
        return bool(self._state.tag)

    def start(self, tag: bytes, model: bytes) -> None:
        """Write the first policy down. Raises UnexpectedState if there is one."""
        if self.is_started:
            raise UnexpectedState("expected a journal without a policy, got one that has begun. Use `resume_point`.")
        self._append("started", {"model_hash": hashlib.sha256(model).hexdigest(), "tag": tag.hex()}, (tag, model))

    def open_epoch(self, epoch: int) -> None:
        """Write an epoch down before it is announced."""
        self._state.check_epoch(epoch)
        self._append("epoch", {"epoch": epoch})

    def begin_round(self, round_number: int, attempt: int, cohort: Sequence[str]) -> None:
        """Write a round down before it is announced; it is asked with the last policy, in the last epoch."""
        self._state.check_begin(round_number, attempt)
        self._append(
            "begun",
            {
                "attempt": attempt,
                "cohort": list(cohort),
                "policy_tag": self._state.tag.hex(),
                "round": round_number,
            },
        )

    def sum_round(
        self, survivors: Sequence[str], next_tag: bytes, model: bytes, details: Mapping[str, object] | None = None
    ) -> None:
        """Close the open round with its sum: who survived, and the policy that follows; one transaction."""
        self._state.check_open()
        payload = {
            "details": dict(details or {}),
            "model_hash": hashlib.sha256(model).hexdigest(),
            "next_tag": next_tag.hex(),
            "survivors": list(survivors),
        }
        self._append("summed", payload, (next_tag, model))

    def lose_round(self, reason: str, details: Mapping[str, object] | None = None) -> None:
        """Close the open round without a sum; what was released stays spent."""
        self._state.check_open()
        self._append("lost", {"details": dict(details or {}), "reason": reason})

    def rounds(self) -> tuple[RoundRecord, ...]:
        """Return every attempt of every round, in order."""
        return tuple(self._state.rounds)

    def resume_point(self) -> ResumePoint:
        """Return where to go on. Raises UnexpectedState before `start`."""
        if not self.is_started:
            raise UnexpectedState("expected a journal with a policy, got one before its start. Call `start` first.")
        return ResumePoint(
            self._state.last_closed_round, self._model(), self._state.tag, next_epoch=self._state.last_epoch + 1
        )

    def head(self) -> Receipt:
        """Return the last row's receipt."""
        last = self._state.last
        if last is None:
            raise UnexpectedState("expected an open journal, got one without rows. Use Journal.open.")
        return Receipt(self._state.name, last.sequence, last.hash)

    def close_cleanly(self) -> None:
        """Fold the log in, leave one file, let go of it."""
        self._book.close_cleanly()

    def _append(self, kind: str, payload: Mapping[str, object], policy: tuple[bytes, bytes] | None = None) -> None:
        with self._book.transaction():
            self._book.append_row(self._state.last, kind, canonical_json(payload))
            if policy is not None:
                self._connection.execute("DELETE FROM policy")  # one policy is kept for resume; files keep the others
                self._connection.execute("INSERT INTO policy VALUES (?, ?)", policy)
        self._refresh()

    def _refresh(self) -> None:
        with self._book.translated():
            for row in self._book.read_rows_after(self._state.last):
                self._state.fold(row)

    def _model(self) -> bytes:
        query = "SELECT model FROM policy WHERE tag = ?"
        found = self._connection.execute(query, (self._state.tag,)).fetchone()
        model = bytes(found[0]) if found else b""
        if hashlib.sha256(model).digest() != self._state.model_hash:
            raise LedgerCorrupt(
                f"expected {self._book.name} to hold the policy {self._state.tag.hex()[:16]} of its last row, it does "
                "not. Restore the file from a copy."
            )
        return model


def read_journal(path: Path) -> JournalState:
    """Verify a journal without writing to it; for `verify`. Raises LedgerCorrupt, UnexpectedState if it is held."""
    book = open_book_read_only(path, APPLICATION)
    try:
        state = JournalState(book.name)
        with book.translated():
            for row in book.read_rows_after(None):
                state.fold(row)
        return state
    finally:
        book.connection.close()


def _hex(value: object) -> bytes:
    if not isinstance(value, str) or not value:
        raise TypeError("hex")
    return bytes.fromhex(value)


def _count(value: object) -> int:
    if type(value) is not int:
        raise TypeError("count")
    return value


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("names")
    return tuple(value)
