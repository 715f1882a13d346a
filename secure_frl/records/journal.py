"""The coordinator's journal: epochs, rounds with their outcomes, and the chain of policy tags; what `resume` reads.

Hash-chained like a ledger, each row synced before the next step. One coordinator at a time holds it; the operating
system lets go of it when that one is killed. A round that was begun and has no outcome is lost after a restart: the
coordinator kept nothing of it. One whose sum was published stays open: sites may have made a policy of it. The bytes of
the last policy stand beside the chain, their hash inside it; a blind coordinator has a sealed parcel in their place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from secure_frl.errors import InvalidParameter, LedgerCorrupt, UnexpectedState
from secure_frl.records.book import ROWS_TABLE, Book, open_book, open_book_read_only
from secure_frl.records.chain import Receipt
from secure_frl.records.journal_state import FORMAT, JournalState, RoundRecord
from secure_frl.wire.canonical import canonical_json

APPLICATION = 0x53464A31  # "SFJ1"
LOST_BY_RESTART = "restart"
_SCHEMA = (
    ROWS_TABLE,
    "CREATE TABLE policy (tag BLOB PRIMARY KEY, model BLOB NOT NULL) STRICT",
)


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a study goes on: after this round, with this policy."""

    last_closed_round: int  # 0 before the first
    model: bytes = field(repr=False)  # the policy, or what a blind coordinator has in its place: a parcel, or b""
    tag: bytes


class Journal:
    """An open journal, held by this coordinator alone. Made by `Journal.open`."""

    def __init__(self, book: Book) -> None:
        """Use `Journal.open`."""
        self._book, self._connection, self._state = book, book.connection, JournalState(book.name)

    @classmethod
    def open(cls, path: Path, *, charter_hash: bytes, code_version: str) -> Self:
        """Open or create the journal of a study, verifying it whole; a round that was begun is written down as lost.

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
            if journal._state.begun_round is not None:
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

    @property
    def last_epoch(self) -> int:
        """The epoch that was opened last, 0 before the first."""
        return self._state.last_epoch

    @property
    def last_closed_round(self) -> int:
        """The greatest round that is summed or lost, 0 before the first."""
        return self._state.last_closed_round

    @property
    def published_round(self) -> RoundRecord | None:
        """The round whose sum was published and that is neither summed nor lost, if any."""
        return self._state.published_round

    def start(self, tag: bytes, model: bytes) -> None:
        """Write the first policy down, before the first round. Raises UnexpectedState if there is one.

        tag: 32 bytes. model: the policy; empty where only sites have it.
        """
        self._state.check_start()
        self._append("started", {"model_hash": hashlib.sha256(model).hexdigest(), "tag": tag.hex()}, (tag, model))

    def keep_parcel(self, parcel: bytes) -> None:
        """Put the last policy's sealed parcel in the place of what is kept for its tag.

        Raises UnexpectedState before `start`.
        """
        self._state.check_started()
        self._append("kept", {"model_hash": hashlib.sha256(parcel).hexdigest()}, (self._state.tag, parcel))

    def open_epoch(self, epoch: int) -> None:
        """Write an epoch down before it is announced. Raises UnexpectedState while a round has no sum."""
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

    def publish_round(self, survivors: Sequence[str], details: Mapping[str, object]) -> None:
        """Write down that the open round has a sum, before it is published to sites who make the next policy of it.

        Raises UnexpectedState without a round that was begun.
        """
        self._state.check_publish()
        self._append("published", {"details": dict(details), "survivors": list(survivors)})

    def sum_round(
        self, survivors: Sequence[str], next_tag: bytes, model: bytes, details: Mapping[str, object] | None = None
    ) -> None:
        """Close the open round with its sum: who survived, and the policy that follows; one transaction.

        model: the policy, or its sealed parcel, empty when no site gave it. details: over those of a published round.
        Raises UnexpectedState without an open round, and for other survivors than were published.
        """
        self._state.check_sum(tuple(survivors))
        payload = {
            "details": dict(details or {}),
            "model_hash": hashlib.sha256(model).hexdigest(),
            "next_tag": next_tag.hex(),
            "survivors": list(survivors),
        }
        self._append("summed", payload, (next_tag, model))

    def lose_round(self, reason: str, details: Mapping[str, object] | None = None) -> None:
        """Close the open round without a policy that follows; what was released stays spent.

        details: over those of a published round. Raises UnexpectedState without an open round.
        """
        self._state.check_open()
        self._append("lost", {"details": dict(details or {}), "reason": reason})

    def rounds(self) -> tuple[RoundRecord, ...]:
        """Return every attempt of every round, in order."""
        return tuple(self._state.rounds)

    def resume_point(self) -> ResumePoint:
        """Return where to go on. Raises UnexpectedState before `start`."""
        self._state.check_started()
        return ResumePoint(self._state.last_closed_round, self._model(), self._state.tag)

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
        if found is None or hashlib.sha256(model).digest() != self._state.model_hash:
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
