"""A site's durable memory for one data set: stages answered, epochs joined, people seen, ledger heads noted.

Every call that writes is synced when it returns. Stages only grow, and R3b and R4 are answered once a round whatever
the attempt: a second, different answer is impossible after any crash. People are kept as the keyed hashes that the
site made; a person over the cap is told to nobody: the answer is a row of booleans inside the site.

The participation root is an HMAC chain over the windows under a key that stays in this file. It reveals nothing, and
lets the site prove on the spot which people were in which window.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Set
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import AlreadyAnswered, InvalidParameter, LedgerCorrupt, StaleLedger, UnexpectedState
from secure_frl.records.book import Book, open_book
from secure_frl.records.chain import Receipt
from secure_frl.records.group_commit import GroupCommit
from secure_frl.wire.hashing import lp

APPLICATION = 0x53465231  # "SFR1"
FORMAT = 2  # format 1 also counted people in a table of their own, row by row
STAGES = ("R1", "R2", "R3b", "R4", "R5", "closed")  # in the order in which a site answers
SESSION_BYTES = 32
MAX_WINDOW_BYTES = 256
_KEY_BYTES = 32
_SCHEMA = (
    "CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT",
    "CREATE TABLE sessions (number INTEGER PRIMARY KEY, session BLOB NOT NULL UNIQUE, epoch INTEGER NOT NULL) STRICT",
    """CREATE TABLE answers (session INTEGER NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
         rank INTEGER NOT NULL, stage TEXT NOT NULL, digest BLOB NOT NULL,
         PRIMARY KEY (session, round, attempt, rank)) STRICT, WITHOUT ROWID""",
    # the database itself refuses a second answer, also if the code above it is changed
    "CREATE UNIQUE INDEX one_answer ON answers (session, round, stage) WHERE stage IN ('R3b', 'R4')",
    """CREATE TABLE windows (sequence INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, session INTEGER NOT NULL,
         round INTEGER NOT NULL, attempt INTEGER NOT NULL, persons BLOB NOT NULL, root BLOB NOT NULL) STRICT""",
    "CREATE TABLE heads (ledger TEXT PRIMARY KEY, sequence INTEGER NOT NULL, head BLOB NOT NULL) STRICT",
)


class Register:
    """An open register. Made by `Register.open`."""

    def __init__(self, book: Book, root_key: bytes) -> None:
        """Use `Register.open`. root_key: 32 bytes, held by the site only."""
        self._book, self._connection, self._root_key = book, book.connection, root_key
        self._seen: dict[int, _Seen] = {}  # by session; what the windows in the file say

    @classmethod
    def open(cls, path: Path, *, group: GroupCommit | None = None) -> Self:
        """Open or create a register, verifying its participation chain. Raises LedgerCorrupt.

        group: None syncs each call by itself; simulated sites of one process may share a file and its syncs.
        """
        book = open_book(path, APPLICATION, _SCHEMA, newest=FORMAT, group=group)
        try:
            with book.transaction():
                book.connection.execute(
                    "DROP TABLE IF EXISTS persons"
                )  # of format 1, whose programs need it: they stop
                book.set_format(FORMAT)
                name, new = f"{book.prefix}participation", secrets.token_bytes(_KEY_BYTES)
                book.connection.execute("INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, new))
                query = "SELECT value FROM secrets WHERE name = ?"
                key = book.connection.execute(query, (name,)).fetchone()[0]
            register = cls(book, bytes(key))
            register._check_participation()
        except BaseException:
            book.abandon()
            raise
        return register

    def __repr__(self) -> str:
        return f"Register({self._book.name})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_cleanly()

    def stage_register(self, session: bytes) -> SessionStages:
        """Return the memory of one charter's session; implements `secure_sum.StageRegister`."""
        return SessionStages(self._book, self._session(session))

    # --- people ------------------------------------------------------------------------------------------------------

    def admit(
        self,
        session: bytes,
        round_number: int,
        attempt: int,
        window: bytes,
        persons: NDArray[np.uint64],
        cap: int,
    ) -> NDArray[np.bool_]:
        """Mark the people of a window as seen and return who may contribute.

        window: names a collection window, for ever; persons: uint64 [B], one keyed hash a unit; cap: R >= 1, windows
        in which one person may be under this charter.
        Returns bool [B]: False for a person who has been in `cap` windows already. Units of one person share one
        answer and count once. Who is admitted is seen whatever happens to the round.
        Raises UnexpectedState for a window that was admitted before.
        """
        _check_counts(round_number, attempt)
        if persons.dtype != np.uint64 or persons.ndim != 1 or cap < 1 or not 0 < len(window) <= MAX_WINDOW_BYTES:
            raise InvalidParameter(
                f"expected uint64 persons [B], cap >= 1 and a window name of 1 to {MAX_WINDOW_BYTES} bytes, got "
                f"{persons.dtype} with {persons.ndim} dimensions, cap={cap}, {len(window)} bytes. Pass keyed hashes."
            )
        number = self._session(session)
        unique, inverse = np.unique(persons, return_inverse=True)
        with self._book.transaction():
            if self._connection.execute("SELECT 1 FROM windows WHERE name = ?", (self._name(window),)).fetchone():
                raise UnexpectedState(
                    "expected a window that was never admitted, got one that was. Collect new people: round and "
                    "attempt are part of a window's name."
                )
            allowed = self._seen_under(number).windows_of(unique) < cap
            self._write_window(number, round_number, attempt, window, unique[allowed])
        return allowed[inverse.reshape(-1)]

    def person_key(self) -> bytes:
        """Return the key of this site's person hashes, 32 bytes, made once; it never leaves the site."""
        return hmac.digest(self._root_key, b"persons", "sha256")

    def participation_root(self) -> bytes:
        """Return the root over all windows so far, 32 bytes: an event has it before its window, a release after."""
        return self._last_window()[1]

    def check_holds(self, roots: Set[bytes]) -> None:
        """Refuse a register without a window that was released: an older copy forgets who took part, and its answers.

        roots: of a ledger's releases, see `Ledger.register_roots`. Raises StaleLedger.
        """
        query = "SELECT root FROM windows WHERE sequence BETWEEN ? AND ?"
        found = self._connection.execute(query, (self._book.first, self._book.last))
        missing = len(roots - {bytes(root) for (root,) in found})
        if missing:
            raise StaleLedger(
                f"expected {self._book.name} to hold each window that its ledger released, {missing} missing. "
                "Restore the newest copy of the register: an older one forgets who took part."
            )

    def _last_window(self) -> tuple[int, bytes]:
        """Return (number, root) of the last window, from 1; 0 before there is one."""
        query = "SELECT sequence - ?, root FROM windows WHERE sequence BETWEEN ? AND ? ORDER BY sequence DESC LIMIT 1"
        found = self._connection.execute(query, (self._book.first, self._book.first, self._book.last)).fetchone()
        return (found[0], bytes(found[1])) if found else (0, self._root(bytes(_KEY_BYTES), b"", b""))

    def _name(self, name: bytes) -> bytes:
        """Return a name as this register's book has it."""
        return self._book.prefix.encode() + name

    def _seen_under(self, number: int) -> _Seen:
        """Return who was in how many windows of a session, inside the caller's transaction.

        Windows are taken from the file alone, also this register's own: what was not committed never counts, and what
        another study on this data set wrote does.
        """
        seen = self._seen.setdefault(number, _Seen(self._book.first))
        query = "SELECT sequence, persons FROM windows WHERE session = ? AND sequence BETWEEN ? AND ? ORDER BY sequence"
        for sequence, people in self._connection.execute(query, (number, seen.last + 1, self._book.last)).fetchall():
            seen.add(sequence, np.frombuffer(people, dtype="<u8").astype(np.uint64))
        return seen

    def _write_window(
        self, number: int, round_number: int, attempt: int, window: bytes, admitted: NDArray[np.uint64]
    ) -> None:
        people = admitted.astype("<u8").tobytes()
        last, before = self._last_window()
        self._connection.execute(
            "INSERT INTO windows VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                self._book.first + last + 1,
                self._name(window),
                number,
                round_number,
                attempt,
                people,
                self._root(before, window, people),
            ),
        )

    def _root(self, before: bytes, window: bytes, people: bytes) -> bytes:
        return hmac.digest(self._root_key, lp(before, window, hashlib.sha256(people).digest()), "sha256")

    def _check_participation(self) -> None:
        root = self._root(bytes(_KEY_BYTES), b"", b"")
        found = self._connection.execute(
            """SELECT sequence - ?, name, persons, root FROM windows WHERE sequence BETWEEN ? AND ?
               ORDER BY sequence""",
            (self._book.first, self._book.first, self._book.last),
        )
        for expected, (sequence, name, people, written) in enumerate(found, start=1):
            root = self._root(root, bytes(name).removeprefix(self._name(b"")), people)
            if sequence != expected or not hmac.compare_digest(root, written):
                raise LedgerCorrupt(
                    f"window {expected} of {self._book.name} does not follow from the one before it. "
                    "Restore the file from a copy; nothing is answered before it holds."
                )

    # --- the ledger's head -------------------------------------------------------------------------------------------

    def follow(self, head: Callable[[], Receipt], written: Receipt | None = None) -> None:
        """Note the head that `head` returns; synced. Raises StaleLedger for one before the one that was noted.

        head: reads the ledger. It is called while nobody else can note a head: two studies on one data set write in
        turn, and a head read before the other's note would look like a rollback.
        written: a row that was just written; it is noted without reading when it is beyond the one that was noted.
        """
        with self._book.transaction():
            receipt = written or head()
            query = "SELECT sequence, head FROM heads WHERE ledger = ?"
            found = self._connection.execute(query, (self._book.prefix + receipt.ledger,)).fetchone()
            if written is not None and found and written.sequence <= found[0]:
                receipt = head()
            if found and (receipt.sequence, receipt.head) != tuple(found) and receipt.sequence <= found[0]:
                raise StaleLedger(
                    f"expected a ledger beyond row {found[0]}, got row {receipt.sequence}. "
                    "Restore the newest copy of the ledger: an older one forgets what was spent."
                )
            self._connection.execute(
                "INSERT OR REPLACE INTO heads VALUES (?, ?, ?)",
                (self._book.prefix + receipt.ledger, receipt.sequence, receipt.head),
            )

    def noted_head(self) -> Receipt | None:
        """Return the head last noted, or None; `Ledger.open` refuses a ledger without it."""
        prefix = self._book.prefix
        query = "SELECT ledger, sequence, head FROM heads WHERE ledger BETWEEN ? AND ? ORDER BY rowid DESC"
        found = self._connection.execute(query, (prefix, f"{prefix}g")).fetchone()  # "g": after all hex
        return Receipt(found[0].removeprefix(prefix), found[1], bytes(found[2])) if found else None

    def close_cleanly(self) -> None:
        """Fold the log in, leave one file. The register can't be used afterwards."""
        self._book.close_cleanly()

    def _session(self, session: bytes) -> int:
        if len(session) != SESSION_BYTES:
            raise InvalidParameter(
                f"expected a session of {SESSION_BYTES} bytes, got {len(session)}. Pass the charter's session."
            )
        query, name = "SELECT number FROM sessions WHERE session = ?", self._name(session)
        found = self._connection.execute(query, (name,)).fetchone()
        if found is None:
            with self._book.transaction():
                self._connection.execute("INSERT OR IGNORE INTO sessions (session, epoch) VALUES (?, 0)", (name,))
            found = self._connection.execute(query, (name,)).fetchone()
        return int(found[0])


class _Seen:
    """In how many windows of one session each person was."""

    def __init__(self, before: int) -> None:
        """before: a key before that of the session's first window."""
        self.last = before
        self._people = np.zeros(0, dtype=np.uint64)  # ascending
        self._windows = np.zeros(0, dtype=np.int64)

    def windows_of(self, people: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return how many windows each was in, int64 [people]."""
        places, is_known = self._find(people)
        found = np.zeros(people.size, dtype=np.int64)
        found[is_known] = self._windows[places[is_known]]
        return found

    def add(self, sequence: int, people: NDArray[np.uint64]) -> None:
        """Count the people of the next window, each there once, ascending."""
        places, is_known = self._find(people)
        counted = self._windows.copy()
        counted[places[is_known]] += 1
        everybody = np.insert(self._people, places[~is_known], people[~is_known])
        counted = np.insert(counted, places[~is_known], 1)
        self._people, self._windows, self.last = everybody, counted, sequence  # all at once, or nothing where it breaks

    def _find(self, people: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return where each stands, or would stand, and whether it is there."""
        places = np.searchsorted(self._people, people)
        is_known = np.zeros(people.size, dtype=np.bool_)
        inside = places < self._people.size
        is_known[inside] = self._people[places[inside]] == people[inside]
        return places, is_known


class SessionStages:
    """What a site answered under one charter. Implements `secure_sum.StageRegister`."""

    def __init__(self, book: Book, number: int) -> None:
        """Use `Register.stage_register`."""
        self._book, self._connection, self._number = book, book.connection, number

    def last_epoch(self) -> int:
        """Return the number of the last epoch joined, 0 before the first."""
        query = "SELECT epoch FROM sessions WHERE number = ?"
        return int(self._connection.execute(query, (self._number,)).fetchone()[0])

    def note_epoch(self, epoch: int) -> None:
        """Write an epoch down; synced. Raises AlreadyAnswered unless it is greater than the last one."""
        _check_counts(epoch, 0)
        with self._book.transaction():
            changed = self._connection.execute(
                "UPDATE sessions SET epoch = ? WHERE number = ? AND epoch < ?", (epoch, self._number, epoch)
            )
            if changed.rowcount != 1:
                raise AlreadyAnswered(f"expected an epoch after {self.last_epoch()}, got {epoch}. Open the next epoch.")

    def last_stage(self) -> tuple[int, int, str] | None:
        """Return (round, attempt, stage) of the last answer, or None."""
        found = self._connection.execute(
            """SELECT round, attempt, stage FROM answers WHERE session = ?
               ORDER BY round DESC, attempt DESC, rank DESC LIMIT 1""",
            (self._number,),
        ).fetchone()
        return None if found is None else (found[0], found[1], found[2])

    def record(self, round_number: int, attempt: int, stage: str, digest: bytes) -> None:
        """Write an answer down before it leaves; synced.

        digest: SHA-256 of the answer, 32 bytes.
        Raises AlreadyAnswered unless (round, attempt, stage) is greater than the last one, and for another attempt of
        a round in which survivors were confirmed: two survivor sets must never both get an answer.
        """
        _check_counts(round_number, attempt)
        if stage not in STAGES or len(digest) != 32:
            raise InvalidParameter(
                f"expected a stage of {', '.join(STAGES)} and a digest of 32 bytes, got {stage[:20]!r} and "
                f"{len(digest)} bytes. Record what a site answers, by its name in the protocol."
            )
        rank = STAGES.index(stage)
        with self._book.transaction():
            last = self.last_stage()
            if last is not None:
                self._check_newer(last, (round_number, attempt, rank), stage)
            self._connection.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                (self._number, round_number, attempt, rank, stage, digest),
            )

    def _check_newer(self, last: tuple[int, int, str], asked: tuple[int, int, int], stage: str) -> None:
        round_number, attempt, _ = asked
        last_rank = STAGES.index(last[2])
        confirmed = round_number == last[0] and attempt != last[1] and last_rank >= STAGES.index("R3b")
        if confirmed or asked <= (last[0], last[1], last_rank):
            raise AlreadyAnswered(
                f"expected a stage after {last[2]} of round {last[0]}, attempt {last[1]}, got {stage} of round "
                f"{round_number}, attempt {attempt}. Go on with the next round."
            )


def _check_counts(number: int, attempt: int) -> None:
    if not 1 <= number < 2**63 or not 0 <= attempt < 2**63:
        raise InvalidParameter(
            f"expected rounds and epochs from 1 and attempts from 0, got {number} and {attempt}. Count from there."
        )
