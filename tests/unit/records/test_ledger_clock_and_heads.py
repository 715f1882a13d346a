"""The ledger's times, what its rows say beside the event, and heads that others hold."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from open_books import event, open_ledger

from secure_frl.errors import ClockMovedBack, StaleLedger
from secure_frl.records import ledger as ledger_module
from secure_frl.records.ledger import read_ledger_state

NOW = 1_900_000_000.0


def test_a_clock_behind_the_books_books_nothing_and_the_account_goes_on_without_it(tmp_path: Path) -> None:
    clock = [NOW]
    ledger = open_ledger(tmp_path / "ledger.sqlite", clock=lambda: clock[0])
    kept = ledger.reserve(event(1))
    clock[0] = NOW - ledger_module.CLOCK_TOLERANCE_S - 1
    before = ledger.head()

    with pytest.raises(ClockMovedBack, match="set the clock right"):
        ledger.reserve(event(2))

    assert ledger.head() == before
    ledger.release(kept)  # what was sampled is never held up by a clock
    ledger.commit(kept, "summed")
    assert ledger.events() == (event(1),)


def test_times_never_run_back_within_the_tolerance(tmp_path: Path) -> None:
    clock = [NOW]
    ledger = open_ledger(tmp_path / "ledger.sqlite", clock=lambda: clock[0])
    for seconds in (10, 5, 200):
        clock[0] = NOW + seconds
        ledger.reserve(event(seconds))
    ledger.close_cleanly()

    found = read_ledger_state(tmp_path / "ledger.sqlite").reservations.values()

    assert [kept.time for kept in found] == [NOW + 10, NOW + 10, NOW + 200]


def test_a_clock_that_was_ahead_can_be_accepted_and_the_row_stays(tmp_path: Path) -> None:
    clock = [NOW + 10**9]
    ledger = open_ledger(tmp_path / "ledger.sqlite", clock=lambda: clock[0])
    clock[0] = NOW

    assert ledger.accept_clock() == NOW
    ledger.reserve(event(1))
    ledger.close_cleanly()

    state = read_ledger_state(tmp_path / "ledger.sqlite")
    assert [kept.time for kept in state.reservations.values()] == [NOW]
    assert [row.kind for row in ledger_module.read_rows(tmp_path / "ledger.sqlite")] == ["opened", "clock", "reserved"]


def test_only_rows_from_before_data_was_touched_carry_a_time(tmp_path: Path) -> None:
    """How long a site worked on its data is a query: it must not be readable from its books."""
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    receipt = ledger.reserve(event(1))
    ledger.release(receipt, bytes(32))
    ledger.commit(receipt, "summed", (0, 2))
    ledger.cancel(ledger.reserve(event(2)), "why")
    ledger.close_cleanly()

    timed = [row.kind for row in ledger_module.read_rows(tmp_path / "ledger.sqlite") if "time" in row.fields()]

    assert timed == ["opened", "reserved", "reserved"]


def test_roots_survivors_and_reasons_read_back(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    receipt = ledger.reserve(event(1))
    ledger.release(receipt, bytes([7]) * 32)
    ledger.commit(receipt, "summed", (0, 2))
    ledger.cancel(ledger.reserve(event(2)), "the round ended")
    ledger.close_cleanly()

    kept, gone = read_ledger_state(tmp_path / "ledger.sqlite").reservations.values()

    assert (kept.register_root_after, kept.survivors, kept.reason) == ("07" * 32, (0, 2), "")
    assert (gone.register_root_after, gone.survivors, gone.reason) == ("", None, "the round ended")


def test_a_head_that_others_hold_refuses_an_older_copy_and_passes_a_longer_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = open_ledger(path)
    ledger.reserve(event(1))
    held = ledger.signed_head().receipt
    ledger.reserve(event(2))
    ledger.close_cleanly()

    open_ledger(path, held_head=held).close_cleanly()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM rows WHERE sequence > 0")
    connection.close()

    with pytest.raises(StaleLedger, match="coordinator holds"):
        open_ledger(path, held_head=held)
    open_ledger(path).close_cleanly()  # control: nothing else sees it
