"""The books of many simulated sites in one file, and one sync for the rows of all: singly they would wait for seconds.

Each site keeps a chain and a register of its own, as parts of the file (see `book`). What is written is on disk when
`sync` returns; until then all of it is one open transaction. Whoever drives the sites hands nothing over before, so a
kill or a failed disk takes rows along from which nothing has left, and takes them from all books at once: a register
never remembers a row that its ledger lost. Real sites have files of their own and never use this.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Self

from secure_frl.errors import SecureFrlError, UnexpectedState
from secure_frl.records import database

FILE = "books.sqlite"
APPLICATION = 0x53464731  # "SFG1"
_SCHEMA = (
    """CREATE TABLE parts (number INTEGER PRIMARY KEY, home TEXT NOT NULL, kind INTEGER NOT NULL, UNIQUE (home, kind))
       STRICT""",
)
_CACHE_KIB = 1 << 16  # a stage touches a page of each book: none is written before the sync
_LOG_PAGES = 1 << 14  # before the log is folded in: those pages are the same in each round


def shared_file(book: Path) -> Path:
    """Return where the books of simulated sites lie when they share a file. book: state/sites/NAME/ledger.sqlite."""
    return book.absolute().parent.parent / FILE


class GroupCommit:
    """An open file of shared books. Made by `GroupCommit.open`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Use `GroupCommit.open`."""
        self.path, self.connection = path, connection
        self._failure: SecureFrlError | None = None

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open or create the file in the folder that holds the sites' own. Raises LedgerCorrupt, NewerFormat."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        connection = database.open_database(path, APPLICATION, _SCHEMA)
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        return cls(path, connection)

    def part(self, home: str, kind: int, schema: tuple[str, ...]) -> int:
        """Return the number of one book's part, from 1, made when it is new, with the tables of its kind.

        home: the name of its site; kind: the application id that a file of its own would have.
        """
        with database.translated(self.path):
            number = part_number(self.connection, home, kind)
            if number is None:
                self.begin()
                if not self.connection.execute("SELECT 1 FROM parts WHERE kind = ?", (kind,)).fetchone():
                    for statement in schema:
                        self.connection.execute(statement)
                self.connection.execute("INSERT OR IGNORE INTO parts (home, kind) VALUES (?, ?)", (home, kind))
                number = part_number(self.connection, home, kind)
        if number is None:
            raise UnexpectedState(f"expected a part for {home} in {self.path.name}, found none. Report this.")
        return number

    def begin(self) -> None:
        """Begin what the next sync ends, unless it has begun; nobody else writes until then."""
        if self._failure is not None:
            raise self._failure
        if not self.connection.in_transaction:
            self.connection.execute("BEGIN IMMEDIATE")

    def sync(self) -> None:
        """Put all that was written on disk. Raises LedgerCorrupt when the disk can't take it: nothing may leave."""
        if self._failure is not None:
            raise self._failure
        try:
            if self.connection.in_transaction:
                self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            self.fail(error)
            raise database.translation(error, self.path) from None

    def fail(self, error: BaseException) -> None:
        """Take back what was not synced and refuse whatever follows: books in memory are ahead of the file now."""
        cause = error if isinstance(error, sqlite3.Error) else sqlite3.OperationalError("the transaction was undone")
        self._failure = database.translation(cause, self.path)
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def close_cleanly(self) -> None:
        """Sync, fold the log in, leave one file. No book of it can be used afterwards."""
        try:
            if self._failure is None:
                self.sync()
        finally:
            database.close_cleanly(self.connection, self.path)


def part_number(connection: sqlite3.Connection, home: str, kind: int) -> int | None:
    """Return the number of one book's part, or None where there is none."""
    found = connection.execute("SELECT number FROM parts WHERE home = ? AND kind = ?", (home, kind)).fetchone()
    return None if found is None else int(found[0])
