"""How this room opens SQLite: durable, versioned, private to its owner, closed without a trace of a log.

While running: WAL with synchronous=FULL, so a committed transaction is on disk when COMMIT returns. At a clean end the
log is folded in and the journal mode set to DELETE, so one file holds everything and can be hashed whole. The format's
version stands in `user_version`; a version from the future is refused whole. What a record does with its file is in
`book`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secure_frl.errors import LedgerCorrupt, NewerFormat, SecureFrlError, UnexpectedState
from secure_frl.files import sync_directory

BUSY_TIMEOUT_S = 20.0  # longer than any transaction here by three orders of magnitude
_RETRY_S = 0.01


def open_database(
    path: Path,
    application: int,
    schema: tuple[str, ...],
    *,
    newest: int = 1,
    exclusive: bool = False,
) -> sqlite3.Connection:
    """Open or create a database; transactions are explicit.

    application: a constant per kind of record; a file of another kind is refused.
    newest: the format of a new file; older ones are opened as they are, for the caller to read or to migrate.
    exclusive: hold the file until it is closed. The operating system frees it when a process is killed.
    Raises LedgerCorrupt for a damaged file or another kind, NewerFormat, UnexpectedState if somebody holds it.
    """
    created = not path.exists()
    if created:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    connection = sqlite3.connect(path, timeout=0.0 if exclusive else BUSY_TIMEOUT_S, isolation_level=None)
    try:
        with translated(path):
            if exclusive:
                connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            _check_format(connection, path, application, newest)  # before a write: a foreign file stays as it is
            _enter_wal(connection, 0.0 if exclusive else BUSY_TIMEOUT_S)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN IMMEDIATE")  # in exclusive mode the lock is kept from here on
            if not _check_format(connection, path, application, newest):
                for statement in schema:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id={application}")
                set_format(connection, newest)
            connection.execute("COMMIT")
            _check_pages(connection, path)
        if created:
            sync_directory(path.parent)
    except BaseException:
        connection.close()
        raise
    return connection


def _enter_wal(connection: sqlite3.Connection, patience_s: float) -> None:
    """Change to WAL. SQLite does not wait by itself while another program makes, or ends, the same change."""
    give_up = time.monotonic() + patience_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= give_up:
                raise
        time.sleep(_RETRY_S)


def set_format(connection: sqlite3.Connection, version: int) -> None:
    """Write a database's format down, inside the caller's transaction."""
    connection.execute(f"PRAGMA user_version={version}")


def open_read_only(path: Path, application: int, newest: int = 1, *, check_pages: bool = True) -> sqlite3.Connection:
    """Open an existing database without writing to it. Raises LedgerCorrupt, UnexpectedState.

    check_pages: False where many readers open one large file, each for few rows that it checks by itself.
    """
    if not path.is_file():
        raise LedgerCorrupt(f"expected a file {path.name}, found none. Restore the file from a copy.")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0, isolation_level=None)
    try:
        with translated(path):
            if not _check_format(connection, path, application, newest):
                raise LedgerCorrupt(f"{path.name} is empty, expected rows. Restore the file from a copy.")
            if check_pages:
                _check_pages(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, naming the file and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise translation(error, path) from None


def translation(error: sqlite3.Error, path: Path) -> SecureFrlError:
    """Return what an error of SQLite is called here."""
    if not isinstance(error, sqlite3.OperationalError):
        return LedgerCorrupt(f"expected {path.name} to be whole, SQLite said: {error}. Restore the file from a copy.")
    if "locked" in str(error) or "busy" in str(error):
        return UnexpectedState(
            f"expected to be alone with {path.name}, another program holds it. "
            "Wait until it ends, or stop it, before starting again on this folder."
        )
    return LedgerCorrupt(
        f"expected to read and write {path.name}, SQLite said: {error}. Check disk space and permissions."
    )


def close_cleanly(connection: sqlite3.Connection, path: Path) -> None:
    """Fold the log into the file, leave WAL, close. While another connection is open the log stays, harmlessly."""
    try:
        connection.execute("PRAGMA busy_timeout=0")  # who else has it open may keep it for a whole study: don't wait
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            with translated(path):
                raise
    finally:
        connection.close()


def _check_format(connection: sqlite3.Connection, path: Path, application: int, newest: int) -> bool:
    """Return False for a new file. Raises LedgerCorrupt for another kind or version."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    kind = connection.execute("PRAGMA application_id").fetchone()[0]
    if (version, kind) == (0, 0) and not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        return False
    if kind != application:
        raise LedgerCorrupt(f"expected {path.name} to be of another kind, got application id {kind}. Check the path.")
    if version > newest:
        raise NewerFormat(
            f"{path.name} has format {version}, this version reads up to {newest}. Use a newer secure_frl."
        )
    if version < 1:
        raise LedgerCorrupt(f"{path.name} has format {version}, expected 1 or more. Restore the file from a copy.")
    return True


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    report = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if report != "ok":
        raise LedgerCorrupt(f"expected {path.name} to be whole, SQLite found: {report}. Restore the file from a copy.")
