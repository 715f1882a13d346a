"""The ledger of one data set at one holder: reserve, release, commit; it refuses to overspend by itself.

Order, each step synced before it returns: reserve -> (sample) -> release -> (the first byte made from data leaves) ->
commit. What is reserved counts as spent until it is cancelled; what is released stays spent for ever. The lifetime
budget stands in row 0, written once: no later study can raise it. The guard that computes the cost is passed in, so
this room knows no accountant; events are opaque bytes but for the keys `charter_hash` and `round`.

A reservation without a release, found after a restart, spent nothing: `release` is synced before anything leaves, and
a cancelled reservation can't be released any more, not even by a process that still holds its receipt. So
`settle_unfinished` cancels those and marks released ones as unknown. (This needs the newest copy of the file; an
older one is refused through the heads that the register noted and others hold.)

The account does not depend on the clock. A reservation carries the time, never before the row before it: a clock that
is behind the books by more than `CLOCK_TOLERANCE_S` is refused before anything is sampled, for charters and epochs
would not expire under it.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from secure_frl.errors import ClockMovedBack, InvalidParameter, StaleLedger, UnexpectedState, WrongLedger
from secure_frl.files import write_durably
from secure_frl.records.book import ROWS_TABLE, Book, is_there, open_book, open_book_read_only
from secure_frl.records.chain import Receipt, Row, SignedHead, decode_export, encode_export, sign_head
from secure_frl.records.group_commit import GroupCommit, shared_file
from secure_frl.records.ledger_state import (
    FORMAT,
    OUTCOMES,
    LedgerState,
    Reservation,
    event_charter,
    replay,
)
from secure_frl.secure_sum import Budget
from secure_frl.wire.canonical import canonical_json
from secure_frl.wire.signatures import Signer

APPLICATION = 0x53464C31  # "SFL1" in the SQLite header
MAX_EVENT_BYTES = 1 << 16  # an event is about 1 kB; a larger one is a mistake
CLOCK_TOLERANCE_S = 300  # what clocks that are set right may differ by

Guard = Callable[[Budget, Sequence[bytes], bytes], None]  # (lifetime budget, recorded events, candidate)


class Ledger:
    """An open ledger. Made by `Ledger.open`; several processes may have the same one open."""

    def __init__(
        self,
        book: Book,
        guard: Guard,
        signer: Signer,
        clock: Callable[[], float],
    ) -> None:
        """Use `Ledger.open`."""
        self._book, self._guard, self._signer, self._clock = book, guard, signer, clock
        self._state = LedgerState(book.name)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        holder: str,
        dataset_id: str,
        budget: Budget,
        guard: Guard,
        signer: Signer,
        code_version: str,
        noted_head: Receipt | None = None,
        held_head: Receipt | None = None,
        clock: Callable[[], float] = time.time,
        group: GroupCommit | None = None,
    ) -> Self:
        """Open or create the ledger of a data set, verifying its whole chain; one of an older format is upgraded.

        budget: written into row 0 when the ledger is new; otherwise the recorded one rules, whatever is passed.
        guard: called as (lifetime budget, recorded events, candidate) inside the reserving transaction; raises
        BudgetExhausted to refuse.
        noted_head, held_head: rows that this ledger must contain: what the register last noted, and what somebody
        else holds under this holder's signature.
        clock: Unix seconds.
        group: None syncs each row by itself; simulated sites of one process may share a file and its syncs.
        Raises LedgerCorrupt, NewerFormat, StaleLedger, WrongLedger for a ledger of another data set or holder.
        """
        known = [receipt for receipt in (noted_head, held_head) if receipt is not None]
        if known and group is None and not path.exists() and not shared_file(path).exists():
            raise _forgotten(path, known[0])
        book = open_book(path, APPLICATION, (ROWS_TABLE,), newest=FORMAT, group=group)
        ledger = cls(book, guard, signer, clock)
        try:
            with book.transaction():
                ledger._catch_up()
                if ledger._state.last is None:
                    if known:
                        raise _forgotten(path, known[0])
                    opening = _opening(holder, dataset_id, budget, code_version)
                    ledger._append("opened", opening | {"time": ledger._now()})
            ledger._refresh()
            ledger._check_identity(holder, dataset_id)
            ledger._check_contains(noted_head, "the register noted")
            ledger._check_contains(held_head, "its holder signed and the coordinator holds")
            ledger._upgrade(code_version)
        except BaseException:
            book.abandon()
            raise
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_cleanly()

    @property
    def budget(self) -> Budget:
        """The lifetime budget, as row 0 has it."""
        if self._state.budget is None:
            raise UnexpectedState("expected an open ledger, got one without rows. Use Ledger.open.")
        return self._state.budget

    def reserve(self, event: bytes) -> Receipt:
        """Book an event before anything is sampled; synced on return.

        event: canonical JSON with the keys `charter_hash` (hex) and `round`.
        The guard runs inside the transaction, so two processes can't both have the last of the budget. What it raises
        (BudgetExhausted) leaves the file unchanged, and so does ClockMovedBack.
        """
        if not 0 < len(event) <= MAX_EVENT_BYTES:
            raise InvalidParameter(
                f"expected an event of 1 to {MAX_EVENT_BYTES} bytes, got {len(event)}. Book one release at a time."
            )
        event_charter(event)
        with self._book.transaction():
            self._catch_up()
            now = self._checked_now()
            self._guard(self.budget, self._state.events(), event)
            fields: dict[str, object] = {"event": event.decode(), "time": now}
            row = self._append("reserved", fields)
        self._state.fold(row, fields)
        return self._state.reservations[row.sequence].receipt

    def release(self, receipt: Receipt, register_root: bytes = b"") -> Receipt:
        """Mark a reservation as spent for ever and return this row; synced on return.

        Only then may bytes made from data leave.

        register_root: of the participation register after this window was admitted; empty where nobody sees people.
        """
        return self._move(receipt, "released", "reserved", {"register_root_after": register_root.hex()})

    def cancel(self, receipt: Receipt, reason: str) -> None:
        """Give a reservation back. Raises UnexpectedState once it was released."""
        self._move(receipt, "cancelled", "reserved", {"reason": reason})

    def commit(self, receipt: Receipt, outcome: str, survivors: Sequence[int] | None = None) -> None:
        """Write down what became of a release: summed, aborted or unknown. It stays spent in all three.

        survivors: SiteIds whose messages are in the sum; None when there is none, or it isn't known.
        """
        if outcome not in OUTCOMES:
            raise InvalidParameter(f"expected an outcome of {', '.join(OUTCOMES)}, got {outcome[:40]!r}. Use one.")
        plain: dict[str, object] = {"outcome": outcome, "survivors": None if survivors is None else list(survivors)}
        self._move(receipt, "committed", "released", plain)

    def accept_clock(self) -> int:
        """Write down that the clock is right, whatever the last row's time was; return it, Unix seconds."""
        with self._book.transaction():
            self._catch_up()
            now = int(self._clock())
            row = self._append("clock", {"time": now})
        self._state.fold(row)
        return now

    def events(self, charter_hash: bytes | None = None) -> tuple[bytes, ...]:
        """Return the events that count as spent, reserved ones included. None: the data set's lifetime."""
        self._refresh()
        return self._state.events(charter_hash)

    def register_roots(self) -> frozenset[bytes]:
        """Return the participation roots that releases carry: the register beside this ledger must hold them all."""
        self._refresh()
        found = {kept.register_root_after for kept in self._state.reservations.values()}
        return frozenset(bytes.fromhex(root) for root in found - {""})

    def open_reservations(self) -> tuple[Reservation, ...]:
        """Return the reservations that were neither cancelled nor committed."""
        self._refresh()
        return tuple(kept for kept in self._state.reservations.values() if kept.status in ("reserved", "released"))

    def settle_unfinished(self, charter_hash: bytes | None = None) -> tuple[Reservation, ...]:
        """After a restart: cancel what was never released, commit what was as unknown; return what was open.

        charter_hash: only this study's; None: all. The module's docstring says why the first is safe.
        """
        wanted = None if charter_hash is None else charter_hash.hex()
        unfinished = tuple(kept for kept in self.open_reservations() if wanted in (None, kept.charter))
        for kept in unfinished:
            if kept.status == "reserved":
                self.cancel(kept.receipt, "restart before release")
            else:
                self.commit(kept.receipt, "unknown")
        return unfinished

    def head(self) -> Receipt:
        """Return the last row's receipt."""
        self._refresh()
        return self._head()

    def contains(self, receipt: Receipt) -> bool:
        """Return whether that row is in this ledger, as it was."""
        key = self._book.first + receipt.sequence
        found = self._book.connection.execute("SELECT hash FROM rows WHERE sequence = ?", (key,)).fetchone()
        return found is not None and (self._state.name, bytes(found[0])) == (receipt.ledger, receipt.head)

    def signed_head(self) -> SignedHead:
        """Return how the ledger ends, signed: what others hold against it later, so it is on disk before."""
        self._book.sync()
        return sign_head(self._signer, self.head())

    def export(self, path_jsonl: Path, path_head: Path) -> SignedHead:
        """Write the canonical export and the signed head; what `verify` reads offline."""
        with self._book.transaction():
            rows = self._book.read_rows_after(None)
            self._catch_up()
        self._book.sync()
        head = sign_head(self._signer, self._head())
        write_durably(path_jsonl, encode_export(rows))
        write_durably(path_head, head.encode())
        return head

    def close_cleanly(self) -> None:
        """Fold the log in, leave one file. The ledger can't be used afterwards."""
        self._book.close_cleanly()

    # --- inside a transaction ----------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Fold what other processes wrote since."""
        for row in self._book.read_rows_after(self._state.last):
            self._state.fold(row)

    def _refresh(self) -> None:
        with self._book.translated():
            self._catch_up()

    def _append(self, kind: str, payload: dict[str, object]) -> Row:
        """Write a row; the caller folds it once it is committed, so memory never runs ahead of the file."""
        return self._book.append_row(self._state.last, kind, canonical_json(payload))

    def _move(self, receipt: Receipt, kind: str, needed: str, more: dict[str, object]) -> Receipt:
        with self._book.transaction():
            self._catch_up()
            kept = self._state.reservations.get(receipt.sequence)
            if kept is None or kept.receipt != receipt:
                raise UnexpectedState(
                    f"expected a receipt of {self._book.name}, got row {receipt.sequence} of another record. "
                    "Pass what `reserve` returned."
                )
            if kept.status != needed:
                raise UnexpectedState(
                    f"expected row {receipt.sequence} to be {needed} before it is {kind}, it is {kept.status}. "
                    "Send nothing, and reserve again for a new attempt."
                )
            fields = {"of": receipt.sequence} | more
            row = self._append(kind, fields)
        self._state.fold(row, fields)
        return self._head()

    def _now(self) -> int:
        """Return the time of a row, Unix seconds: never before that of the row before it."""
        return max(int(self._clock()), self._state.time or 0)

    def _checked_now(self) -> int:
        now, last = self._clock(), self._state.time
        if last is not None and now < last - CLOCK_TOLERANCE_S:
            raise ClockMovedBack(
                f"expected a clock at {last} Unix seconds or later, as the last row of {self._book.name} says, got "
                f"{int(now)}. Nothing was booked, sampled or sent: set the clock right. If it is right now, and was "
                "ahead when that row was written, use `secure-frl ledger accept-clock`."
            )
        return self._now()

    def _upgrade(self, code_version: str) -> None:
        """Turn a ledger of an older format into one of this format; its rows stay as they are, under their chain."""
        if self._state.format == FORMAT:
            return
        with self._book.transaction():
            self._catch_up()
            if self._state.format < FORMAT:  # else another process was faster
                self._append("upgraded", {"code_version": code_version, "format": FORMAT, "time": self._now()})
                self._book.set_format(FORMAT)
        self._refresh()

    def _head(self) -> Receipt:
        last = self._state.last
        if last is None:
            raise UnexpectedState("expected an open ledger, got one without rows. Use Ledger.open.")
        return Receipt(self._state.name, last.sequence, last.hash)

    def _check_identity(self, holder: str, dataset_id: str) -> None:
        found = (self._state.holder, self._state.dataset_id)
        if found != (holder, dataset_id):
            raise WrongLedger(
                f"expected the ledger of holder={holder!r}, dataset_id={dataset_id!r}, {self._book.name} belongs to "
                f"holder={found[0]!r}, dataset_id={found[1]!r}. A ledger serves one data set: choose another state."
            )

    def _check_contains(self, receipt: Receipt | None, whose: str) -> None:
        if receipt is not None and not self.contains(receipt):
            raise StaleLedger(
                f"expected {self._book.name} to contain row {receipt.sequence} that {whose}, it ends at row "
                f"{self._head().sequence} without it. Restore the newest copy: an older one forgets what was spent."
            )


def _forgotten(path: Path, known: Receipt) -> StaleLedger:
    return StaleLedger(
        f"expected {path.name} with row {known.sequence}, found none. "
        "Restore the newest copy; a new ledger would forget what was spent."
    )


def _opening(holder: str, dataset_id: str, budget: Budget, code_version: str) -> dict[str, object]:
    return {
        "code_version": code_version,
        "dataset_id": dataset_id,
        "delta": budget.delta,
        "epsilon": None if math.isinf(budget.epsilon) else budget.epsilon,
        "format": FORMAT,
        "holder": holder,
        "nonce": secrets.token_hex(16),  # two ledgers never share a first row, hence a name
    }


def read_rows(path: Path) -> tuple[Row, ...]:
    """Return the rows of a ledger.sqlite or an export (.jsonl), its chain verified; writes nothing.

    Raises LedgerCorrupt, NewerFormat, UnexpectedState, OSError.
    """
    if path.suffix == ".jsonl":
        return decode_export(path.read_bytes(), path.name)
    book = open_book_read_only(path, APPLICATION, FORMAT)
    try:
        with book.translated():
            return book.read_rows_after(None)
    finally:
        book.connection.close()


def has_ledger(path: Path) -> bool:
    """Return whether `read_rows` would find a ledger or an export there. Raises LedgerCorrupt."""
    return is_there(path, APPLICATION)


def read_ledger_state(path: Path) -> LedgerState:
    """Return what a ledger.sqlite or an export says; for `verify`. Raises what `read_rows` raises."""
    return replay(read_rows(path), path.name)
