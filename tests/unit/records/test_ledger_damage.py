"""Ledgers that were changed, replaced by an older copy, deleted, or are none: each is refused, nothing is booked."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from open_books import event, open_ledger

from secure_frl.errors import LedgerCorrupt, NewerFormat, StaleLedger
from secure_frl.records import chain
from secure_frl.records.ledger import read_ledger_state
from secure_frl.records.ledger_state import replay


def damaged(path: Path, statement: str) -> None:
    ledger = open_ledger(path)
    for number in (1, 2, 3):
        ledger.release(ledger.reserve(event(number)))
    ledger.close_cleanly()
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("UPDATE rows SET kind = 'cancelled' WHERE sequence = 4", 4),
        ("UPDATE rows SET payload = CAST(replace(payload, '2', '5') AS BLOB) WHERE sequence = 3", 3),
        ("DELETE FROM rows WHERE sequence = 2", 3),
        ("UPDATE rows SET hash = zeroblob(32) WHERE sequence = 0", 0),
    ],
)
def test_a_changed_row_is_named_when_the_ledger_opens(tmp_path: Path, statement: str, row: int) -> None:
    damaged(tmp_path / "ledger.sqlite", statement)

    with pytest.raises(LedgerCorrupt, match=rf"row {row} of ledger\.sqlite"):
        open_ledger(tmp_path / "ledger.sqlite")
    with pytest.raises(LedgerCorrupt, match=rf"row {row} of ledger\.sqlite"):
        read_ledger_state(tmp_path / "ledger.sqlite")


def test_a_row_changed_behind_an_open_ledger_is_caught_before_the_next_one(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    ledger.reserve(event(1))
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        connection.execute("UPDATE rows SET payload = x'7b7d' WHERE sequence = 1")

    with pytest.raises(LedgerCorrupt, match="changed while it was open"):
        ledger.reserve(event(2))


def test_rows_that_chain_but_contradict_each_other_are_refused() -> None:
    opening = chain.next_row(
        None,
        "opened",
        b'{"code_version":"0","dataset_id":"d","delta":1e-06,"epsilon":4.0,"format":1,"holder":"h","nonce":""}',
    )
    release = chain.next_row(opening, "released", b'{"of":1}')

    with pytest.raises(LedgerCorrupt, match="row 1 of x"):
        replay([opening, release], "x")


def test_random_bytes_are_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"\x00not a database" * 100)

    with pytest.raises(LedgerCorrupt, match=r"ledger\.sqlite"):
        open_ledger(tmp_path / "ledger.sqlite")


def test_a_format_from_the_future_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    damaged(path, "PRAGMA user_version = 3")
    before = path.read_bytes()

    with pytest.raises(NewerFormat, match=r"format 3.*newer secure_frl"):
        open_ledger(path)

    assert path.read_bytes() == before


def test_another_kind_of_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE someone_elses (x)")
    before = path.read_bytes()

    with pytest.raises(LedgerCorrupt, match="another kind"):
        open_ledger(path)

    assert path.read_bytes() == before


def test_an_older_copy_is_refused_through_the_noted_head(tmp_path: Path) -> None:
    path, copy = tmp_path / "ledger.sqlite", tmp_path / "older.sqlite"
    ledger = open_ledger(path)
    ledger.reserve(event(1))
    ledger.close_cleanly()
    shutil.copy(path, copy)
    ledger = open_ledger(path)
    ledger.release(ledger.reserve(event(2)))
    noted = ledger.head()
    ledger.close_cleanly()
    shutil.copy(copy, path)

    with pytest.raises(StaleLedger, match="older one forgets"):
        open_ledger(path, noted_head=noted)
    open_ledger(path)  # control: without the noted head the old copy passes, so the head is what catches it


def test_a_deleted_ledger_is_refused_through_the_noted_head(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    noted = ledger.head()
    ledger.close_cleanly()
    (tmp_path / "ledger.sqlite").unlink()

    with pytest.raises(StaleLedger):
        open_ledger(tmp_path / "ledger.sqlite", noted_head=noted)
    assert not (tmp_path / "ledger.sqlite").exists()
