"""One record on disk: a file of its own, or a part of a file that simulated sites share. The same code writes both.

A part has a range of the keys that a file of its own would have, and a prefix before the names, so statements are the
same too: in a file of its own the first key is 0 and the prefix is empty. Chained records keep their rows here.
"""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from secure_frl.errors import LedgerCorrupt
from secure_frl.records import database
from secure_frl.records.chain import Row, check_follows, next_row
from secure_frl.records.group_commit import APPLICATION, GroupCommit, part_number, shared_file

ROWS_TABLE = """CREATE TABLE rows (
  sequence INTEGER PRIMARY KEY, kind TEXT NOT NULL, payload BLOB NOT NULL, previous BLOB NOT NULL, hash BLOB NOT NULL
) STRICT"""
_KEYS_OF_A_PART = 1 << 40  # more rows than any book will have; 8 million parts fit into SQLite's keys


@dataclass(frozen=True, slots=True)
class Book:
    """An open record's place. Raises what `database` raises."""

    connection: sqlite3.Connection
    path: Path  # as callers name it, also where the rows are a part of another file
    first: int = 0  # key of the first row
    last: int = 2**63 - 1
    prefix: str = ""  # of names
    group: GroupCommit | None = None  # whose file this is a part of
    is_alone: bool = False  # nobody else drives the group: each transaction is synced

    @property
    def name(self) -> str:
        """Return what messages call it."""
        return (
            self.path.name if self.group is None else f"{self.path.name} of {self.path.parent.name} in {self.file.name}"
        )

    @property
    def file(self) -> Path:
        """Return the file that holds it."""
        return self.path if self.group is None else self.group.path

    def transaction(self) -> Transaction:
        """Return one transaction: nobody else writes in it, an error leaves no change.

        On its end it is synced, or waits for the sync of its group. There an error after a write takes all of the
        stage back and ends the group: books check first and write last, so none is to be expected.
        """
        return Transaction(self)

    def translated(self) -> AbstractContextManager[None]:
        """Turn SQLite's errors into ours."""
        return database.translated(self.file)

    def sync(self) -> None:
        """Put on disk what waits for its group; a file of its own has nothing that waits."""
        if self.group is not None:
            self.group.sync()

    def set_format(self, version: int) -> None:
        """Write the format down, inside the caller's transaction; the rows of a part say it themselves."""
        if self.group is None:
            database.set_format(self.connection, version)

    def close_cleanly(self) -> None:
        """Fold the log into the file and close it; a part is closed with its group."""
        if self.group is None:
            database.close_cleanly(self.connection, self.path)
        elif self.is_alone:
            self.group.close_cleanly()

    def abandon(self) -> None:
        """Close after an error; what is on disk stays as it is."""
        if self.group is None or self.is_alone:
            self.connection.close()

    # --- chained rows ------------------------------------------------------------------------------------------------

    def append_row(self, previous: Row | None, kind: str, payload: bytes) -> Row:
        """Write the row that follows `previous`, inside the caller's transaction."""
        row = next_row(previous, kind, payload)
        self.connection.execute(
            "INSERT INTO rows VALUES (?, ?, ?, ?, ?)",
            (self.first + row.sequence, row.kind, row.payload, row.previous, row.hash),
        )
        return row

    def read_rows_after(self, last: Row | None) -> tuple[Row, ...]:
        """Return the rows after `last`, checked against it; `last` itself must still be as it was.

        Raises LedgerCorrupt naming row and file.
        """
        start = 0 if last is None else last.sequence
        found = self.connection.execute(
            """SELECT sequence - ?, kind, payload, previous, hash FROM rows
               WHERE sequence BETWEEN ? AND ? ORDER BY sequence""",
            (self.first, self.first + start, self.last),
        )
        rows = [Row(*fields) for fields in found]
        if last is not None:
            if not rows or rows[0] != last:
                raise LedgerCorrupt(
                    f"row {last.sequence} of {self.name} changed while it was open. Restore it from a copy."
                )
            rows = rows[1:]
        previous = last
        for row in rows:
            check_follows(previous, row, self.name)
            previous = row
        return tuple(rows)


class Transaction:
    """One transaction of one book. As a class it costs a tenth of a generator's, for each of a thousand sites."""

    __slots__ = ("_book", "_changes")

    def __init__(self, book: Book) -> None:
        """Use `Book.transaction`."""
        self._book = book

    def __enter__(self) -> None:
        book = self._book
        try:
            if book.group is None:
                book.connection.execute("BEGIN IMMEDIATE")
            else:
                book.group.begin()
                self._changes = book.connection.total_changes
        except sqlite3.Error as error:
            raise database.translation(error, book.file) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        book = self._book
        if error is None:
            if book.group is not None:
                if book.is_alone:
                    book.group.sync()
                return
            try:
                book.connection.execute("COMMIT")
            except sqlite3.Error as failure:
                self._take_back(failure)
                raise database.translation(failure, book.file) from None
            return
        self._take_back(error)
        if isinstance(error, sqlite3.Error):
            raise database.translation(error, book.file) from None

    def _take_back(self, error: BaseException) -> None:
        """Undo this transaction's changes; SQLite may have rolled back by itself, for instance on a full disk."""
        book = self._book
        if book.group is None:
            if book.connection.in_transaction:
                book.connection.execute("ROLLBACK")
        elif not book.connection.in_transaction or book.connection.total_changes != self._changes:
            book.group.fail(error)


def open_book(
    path: Path,
    application: int,
    schema: tuple[str, ...],
    *,
    newest: int = 1,
    exclusive: bool = False,
    group: GroupCommit | None = None,
) -> Book:
    """Open or create a record: a file of its own at `path`, or a part of the file that simulated sites share.

    group: the shared file, for a record without a file of its own; it may have a part there. None finds a shared file
    by itself where there is one with such a part, and syncs each transaction.
    Other arguments and errors: see `database.open_database`.
    """
    home, is_alone = path.absolute().parent.name, group is None
    if group is None and not path.exists() and shared_file(path).is_file():
        group = GroupCommit.open(shared_file(path).parent)  # to write: a reader can't recover what a kill left
        if part_number(group.connection, home, application) is None:
            group.close_cleanly()
            group = None
    if group is None or path.exists():
        return Book(database.open_database(path, application, schema, newest=newest, exclusive=exclusive), path)
    return _part(group, path, group.part(home, application, schema), is_alone=is_alone)


def open_book_read_only(path: Path, application: int, newest: int = 1) -> Book:
    """Open an existing record without writing to it. Raises LedgerCorrupt, UnexpectedState."""
    if path.is_file() or not shared_file(path).is_file():
        return Book(database.open_read_only(path, application, newest), path)
    shared = shared_file(path)
    connection = database.open_read_only(shared, APPLICATION, check_pages=False)
    try:
        with database.translated(shared):
            number = part_number(connection, path.absolute().parent.name, application)
    except BaseException:
        connection.close()
        raise
    if number is None:
        connection.close()
        raise LedgerCorrupt(f"expected {path.parent.name} in {shared.name}, found none. Check the name of the site.")
    return _part(GroupCommit(shared, connection), path, number, is_alone=True)


def _part(group: GroupCommit, path: Path, number: int, *, is_alone: bool) -> Book:
    first = number * _KEYS_OF_A_PART
    return Book(group.connection, path, first, first + _KEYS_OF_A_PART - 1, f"{number}/", group, is_alone)


def is_there(path: Path, application: int) -> bool:
    """Return whether a record is there, in a file of its own or as a part. Raises LedgerCorrupt for a damaged file."""
    if path.is_file():
        return True
    shared = shared_file(path)
    if not shared.is_file():
        return False
    connection = database.open_read_only(shared, APPLICATION, check_pages=False)
    try:
        with database.translated(shared):
            return part_number(connection, path.absolute().parent.name, application) is not None
    finally:
        connection.close()
