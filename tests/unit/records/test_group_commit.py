"""Books of many simulated sites in one file: each a chain of its own; a stage is on disk at one sync, or none of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import open_books
import pytest
from open_books import event

from secure_frl.errors import BudgetExhausted, LedgerCorrupt, StaleLedger, UnexpectedState
from secure_frl.records.group_commit import FILE, GroupCommit
from secure_frl.records.ledger import Ledger, has_ledger, read_ledger_state, read_rows
from secure_frl.records.register import Register

SESSION = bytes([7]) * 32


def of(folder: Path, number: int) -> Path:
    return folder / f"site-{number}" / "ledger.sqlite"


def open_ledger(folder: Path, number: int, group: GroupCommit | None, **changes) -> Ledger:  # type: ignore[no-untyped-def]
    return open_books.open_ledger(of(folder, number), holder=f"site-{number}", group=group, **changes)


def reserve_many(ledger: Ledger, count: int) -> None:
    for number in range(1, count):
        ledger.reserve(event(number))


def open_register(folder: Path, number: int, group: GroupCommit | None) -> Register:
    return Register.open(of(folder, number).with_name("register.sqlite"), group=group)


def test_each_site_has_a_chain_and_a_register_of_its_own_in_one_file(tmp_path: Path) -> None:
    group = GroupCommit.open(tmp_path)
    ledgers = [open_ledger(tmp_path, number, group) for number in (1, 2)]
    registers = [open_register(tmp_path, number, group) for number in (1, 2)]
    people = np.array([3, 4], dtype=np.uint64)
    for number, (ledger, register) in enumerate(zip(ledgers, registers, strict=True), start=1):
        for _ in range(number):
            receipt = ledger.reserve(event(number))
        register.follow(ledger.head, ledger.release(receipt, bytes(32)))
        assert register.admit(SESSION, 1, 0, b"window", people, 1).all()  # the same window and people at another site
        assert not register.admit(SESSION, 2, 0, b"second", people, 1).any()
        register.stage_register(SESSION).record(1, 0, "R1", bytes(32))
    group.close_cleanly()

    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert [len(read_ledger_state(of(tmp_path, number)).events()) for number in (1, 2)] == [1, 2]
    assert [[row.sequence for row in read_rows(of(tmp_path, number))] for number in (1, 2)] == [[0, 1, 2], [0, 1, 2, 3]]
    again = GroupCommit.open(tmp_path)
    for number in (1, 2):
        register = open_register(tmp_path, number, again)
        open_ledger(tmp_path, number, again, noted_head=register.noted_head())
        assert register.stage_register(SESSION).last_stage() == (1, 0, "R1")
        with pytest.raises(UnexpectedState, match="never admitted"):
            register.admit(SESSION, 3, 0, b"window", people, 9)
    assert registers[0].person_key() != registers[1].person_key()


def test_rows_are_on_disk_when_the_group_is_synced_and_not_before(tmp_path: Path) -> None:
    group = GroupCommit.open(tmp_path)
    ledger = open_ledger(tmp_path, 1, group)
    group.sync()
    ledger.reserve(event(1))

    before = read_ledger_state(of(tmp_path, 1)).events()  # as another process would
    group.sync()

    assert (before, read_ledger_state(of(tmp_path, 1)).events()) == ((), (event(1),))
    assert group.connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL: a commit waits for the disk


def test_a_head_is_signed_and_exported_only_when_its_rows_are_on_disk(tmp_path: Path) -> None:
    group = GroupCommit.open(tmp_path)
    ledger = open_ledger(tmp_path, 1, group)
    ledger.reserve(event(1))
    signed = ledger.signed_head().receipt
    first = len(read_rows(of(tmp_path, 1)))

    ledger.reserve(event(2))
    exported = ledger.export(tmp_path / "x.jsonl", tmp_path / "x.head").receipt

    assert (first, len(read_rows(of(tmp_path, 1)))) == (signed.sequence + 1, exported.sequence + 1) == (2, 3)


def test_a_kill_takes_a_whole_stage_from_all_books_at_once(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            group = GroupCommit.open(tmp_path)
            ledger, register = open_ledger(tmp_path, 1, group), open_register(tmp_path, 1, group)
            receipt = ledger.reserve(event(1))
            group.sync()
            register.follow(ledger.head, ledger.release(receipt))  # of a stage that never ended: nothing of it left
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    group = GroupCommit.open(tmp_path)
    register = open_register(tmp_path, 1, group)
    ledger = open_ledger(tmp_path, 1, group, noted_head=register.noted_head())

    assert [kept.status for kept in ledger.settle_unfinished()] == ["reserved"]
    assert register.noted_head() is None


def test_what_one_site_is_refused_takes_nothing_from_the_others(tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise BudgetExhausted("spent")

    group = GroupCommit.open(tmp_path)
    first, second = open_ledger(tmp_path, 1, group), open_ledger(tmp_path, 2, group, guard=refuse)
    first.reserve(event(1))
    with pytest.raises(BudgetExhausted):
        second.reserve(event(1))
    first.reserve(event(2))
    group.close_cleanly()

    assert [read_ledger_state(of(tmp_path, number)).events() for number in (1, 2)] == [(event(1), event(2)), ()]


def test_an_error_after_a_write_takes_the_stage_back_and_ends_the_group(tmp_path: Path) -> None:
    group = GroupCommit.open(tmp_path)
    first, second = open_ledger(tmp_path, 1, group), open_ledger(tmp_path, 2, group)
    group.sync()
    second.reserve(event(1))
    with pytest.raises(ZeroDivisionError), first._book.transaction():
        first._append("clock", {"time": 1 // 0 if first._append("clock", {"time": 0}) else 0})
    with pytest.raises(LedgerCorrupt, match="undone"):
        second.reserve(event(2))
    group.close_cleanly()

    assert [len(read_rows(of(tmp_path, number))) for number in (1, 2)] == [1, 1]


def test_a_disk_that_cannot_take_a_stage_ends_the_group(tmp_path: Path) -> None:
    group = GroupCommit.open(tmp_path)
    ledger = open_ledger(tmp_path, 1, group)
    group.sync()
    pages = group.connection.execute("PRAGMA page_count").fetchone()[0]
    group.connection.execute(f"PRAGMA max_page_count={pages}")

    with pytest.raises(LedgerCorrupt, match="disk"):
        reserve_many(ledger, 1000)
    for action in (lambda: ledger.reserve(event(1000)), ledger.signed_head, group.sync):
        with pytest.raises(LedgerCorrupt, match="disk"):
            action()
    group.close_cleanly()

    assert read_ledger_state(of(tmp_path, 1)).events() == ()  # what was on disk before still holds


def test_a_site_with_a_file_of_its_own_goes_on_with_it(tmp_path: Path) -> None:
    of(tmp_path, 1).parent.mkdir()
    open_ledger(tmp_path, 1, None).close_cleanly()

    group = GroupCommit.open(tmp_path)
    open_ledger(tmp_path, 1, group).reserve(event(1))  # synced by itself

    assert read_ledger_state(of(tmp_path, 1)).events() == (event(1),)
    assert of(tmp_path, 1).is_file()


def test_a_part_is_found_and_written_without_a_group(tmp_path: Path) -> None:
    group = GroupCommit.open(tmp_path)
    open_ledger(tmp_path, 1, group)
    group.close_cleanly()

    ledger = open_ledger(tmp_path, 1, None)
    ledger.reserve(event(1))

    assert read_ledger_state(of(tmp_path, 1)).events() == (event(1),)  # on disk at once
    ledger.close_cleanly()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (has_ledger(of(tmp_path, 1)), has_ledger(of(tmp_path, 2))) == (True, False)
    with pytest.raises(LedgerCorrupt, match="site-2"):
        read_ledger_state(of(tmp_path, 2))


def test_an_older_copy_of_the_shared_file_is_refused_by_a_head_that_others_hold(tmp_path: Path) -> None:
    group = GroupCommit.open(tmp_path)
    open_ledger(tmp_path, 1, group)
    group.close_cleanly()
    shutil.copy(tmp_path / FILE, tmp_path / "older")
    group = GroupCommit.open(tmp_path)
    ledger = open_ledger(tmp_path, 1, group)
    ledger.reserve(event(1))
    held = ledger.signed_head().receipt
    group.close_cleanly()

    shutil.copy(tmp_path / "older", tmp_path / FILE)
    with pytest.raises(StaleLedger, match="coordinator holds"):
        open_ledger(tmp_path, 1, GroupCommit.open(tmp_path), held_head=held)
    (tmp_path / FILE).unlink()
    for _ in range(2):  # the first try leaves no new ledger behind
        group = GroupCommit.open(tmp_path)
        with pytest.raises(StaleLedger, match="found none"):
            open_ledger(tmp_path, 1, group, held_head=held)
        group.close_cleanly()
