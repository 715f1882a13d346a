"""How files of records are opened, where SQLite by itself would not do."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from secure_frl.errors import UnexpectedState
from secure_frl.records.database import close_cleanly, open_database

SCHEMA = ("CREATE TABLE rows (number INTEGER) STRICT",)


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_file_that_another_program_is_just_opening_is_waited_for_unless_it_must_be_ours_alone(
    exclusive: bool, tmp_path: Path
) -> None:
    path = tmp_path / "rows.sqlite"
    close_cleanly(open_database(path, 7, SCHEMA), path)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")  # the lock of a change to WAL: SQLite refuses a second one at once
        done = threading.Timer(0.2, other.execute, ["COMMIT"])
        done.start()
        try:
            if exclusive:
                with pytest.raises(UnexpectedState, match="another program holds it"):
                    open_database(path, 7, SCHEMA, exclusive=True)
            else:
                open_database(path, 7, SCHEMA).close()
        finally:
            done.join()
