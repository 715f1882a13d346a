"""The ledger: order, refusal, crashes and races. What is damaged, stale or foreign stands in test_ledger_damage.py."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from open_books import CHARTER, OTHER, at_most, event, open_ledger

from secure_frl.errors import BudgetExhausted, InvalidParameter, UnexpectedState, WrongLedger
from secure_frl.records import chain
from secure_frl.records.ledger import read_ledger_state
from secure_frl.records.ledger_state import replay
from secure_frl.secure_sum import Budget


def test_events_count_as_spent_from_reservation_on_and_stay_spent(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    for number, outcome in enumerate(("summed", "aborted", "unknown"), start=1):
        receipt = ledger.reserve(event(number))
        ledger.release(receipt)
        ledger.commit(receipt, outcome)
    ledger.reserve(event(4))

    assert ledger.events() == (event(1), event(2), event(3), event(4))


def test_a_reservation_cancelled_before_release_spends_nothing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")

    ledger.cancel(ledger.reserve(event(1)), "round lost before masked input")

    assert ledger.events() == ()


def test_nothing_released_can_be_cancelled(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    receipt = ledger.reserve(event(1))
    ledger.release(receipt)

    with pytest.raises(UnexpectedState, match="it is released"):
        ledger.cancel(receipt, "regret")

    assert ledger.events() == (event(1),)


# Every status with every call; what isn't listed as legal must raise and leave the file unchanged.
LEGAL = {("reserved", "release"), ("reserved", "cancel"), ("released", "commit")}


@pytest.mark.parametrize("call", ["release", "cancel", "commit"])
@pytest.mark.parametrize("status", ["reserved", "released", "cancelled", "summed"])
def test_only_the_stated_order_is_possible(tmp_path: Path, status: str, call: str) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    receipt = ledger.reserve(event(1))
    for step in {"released": ["release"], "cancelled": ["cancel"], "summed": ["release", "commit"]}.get(status, []):
        getattr(ledger, step)(receipt, *{"cancel": ["why"], "commit": ["summed"]}.get(step, []))
    before = ledger.head()
    arguments = {"cancel": ["why"], "commit": ["summed"]}.get(call, [])

    if (status, call) in LEGAL:
        getattr(ledger, call)(receipt, *arguments)
        assert ledger.head().sequence == before.sequence + 1
    else:
        with pytest.raises(UnexpectedState):
            getattr(ledger, call)(receipt, *arguments)
        assert ledger.head() == before


def test_an_exhausted_budget_leaves_the_file_unchanged(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite", at_most(1))
    ledger.reserve(event(1))
    before = ledger.head()

    with pytest.raises(BudgetExhausted):
        ledger.reserve(event(2))

    assert (ledger.head(), ledger.events()) == (before, (event(1),))


def test_the_guard_sees_the_lifetime_budget_and_every_study(tmp_path: Path) -> None:
    seen: list[tuple[Budget, tuple[bytes, ...], bytes]] = []
    ledger = open_ledger(tmp_path / "l.sqlite", lambda budget, old, new: seen.append((budget, tuple(old), new)))

    ledger.reserve(event(1, OTHER))
    ledger.reserve(event(1))

    assert seen[1] == (Budget(4.0, 1e-6), (event(1, OTHER),), event(1))
    assert ledger.events(CHARTER) == (event(1),)


def test_a_later_study_cannot_raise_the_lifetime_budget(tmp_path: Path) -> None:
    open_ledger(tmp_path / "ledger.sqlite").close_cleanly()

    later = open_ledger(tmp_path / "ledger.sqlite", budget=Budget(100.0, 1e-6))

    assert later.budget == Budget(4.0, 1e-6)


def test_an_unlimited_budget_survives_the_file(tmp_path: Path) -> None:
    open_ledger(tmp_path / "ledger.sqlite", budget=Budget(float("inf"), 1e-6)).close_cleanly()

    assert open_ledger(tmp_path / "ledger.sqlite").budget == Budget(float("inf"), 1e-6)


@pytest.mark.parametrize("change", [{"holder": "site-01"}, {"dataset_id": "other"}])
def test_a_ledger_serves_one_holder_and_data_set(tmp_path: Path, change: dict[str, str]) -> None:
    open_ledger(tmp_path / "ledger.sqlite").close_cleanly()

    with pytest.raises(WrongLedger, match="belongs to"):
        open_ledger(tmp_path / "ledger.sqlite", **change)


@pytest.mark.parametrize("bad", [b"", b"[]", b"{}", b"\xff", b'{"charter_hash":"00","round":"1"}', b"x" * 70_000])
def test_an_event_without_its_plain_keys_is_refused(tmp_path: Path, bad: bytes) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")

    with pytest.raises(InvalidParameter):
        ledger.reserve(bad)

    assert ledger.events() == ()


def test_a_receipt_of_another_ledger_moves_nothing(tmp_path: Path) -> None:
    one, other = open_ledger(tmp_path / "one.sqlite"), open_ledger(tmp_path / "other.sqlite")
    one.reserve(event(1))

    with pytest.raises(UnexpectedState, match="another record"):
        one.release(other.reserve(event(1)))


def test_export_and_head_read_back_to_the_same_events(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    ledger.release(ledger.reserve(event(1)))

    ledger.export(tmp_path / "a.jsonl", tmp_path / "a.head")

    rows = chain.decode_export((tmp_path / "a.jsonl").read_bytes(), "a.jsonl")
    chain.check_ends_at(rows, chain.decode_head((tmp_path / "a.head").read_bytes(), "a.head"), "a.jsonl")
    assert replay(rows, "a.jsonl").events() == (event(1),)


def test_a_clean_end_leaves_one_file(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    ledger.reserve(event(1))

    ledger.close_cleanly()

    assert [path.name for path in tmp_path.iterdir()] == ["ledger.sqlite"]
    assert (tmp_path / "ledger.sqlite").stat().st_mode & 0o777 == 0o600


def test_it_runs_with_full_sync_and_write_ahead_log(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")

    settings = [
        ledger._book.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")
    ]

    assert settings == [2, "wal"]  # 2 = FULL, https://sqlite.org/pragma.html#pragma_synchronous


# --- crashes and races -----------------------------------------------------------------------------------------------

CHILD = """
import json, sys
from pathlib import Path
from secure_frl.consortium.identity import Identity
from secure_frl.errors import BudgetExhausted
from secure_frl.records.ledger import Ledger
from secure_frl.secure_sum import Budget

def guard(budget, recorded, candidate):
    if len(recorded) >= int(sys.argv[2]):
        raise BudgetExhausted("no room")

ledger = Ledger.open(Path(sys.argv[1]), holder="site-00", dataset_id="ward", budget=Budget(4.0, 1e-6), guard=guard,
                     signer=Identity(bytes([1]) * 32), code_version="0.1.0")
receipts = {}
print("ready", flush=True)
for line in sys.stdin:
    step, number = line.split()
    try:
        if step == "reserve":
            event = json.dumps({"charter_hash": "00" * 32, "round": int(number)}, separators=(",", ":")).encode()
            receipts[number] = ledger.reserve(event)
        elif step == "release":
            ledger.release(receipts[number])
        else:
            ledger.commit(receipts[number], "summed")
        print("done", flush=True)
    except BudgetExhausted:
        print("exhausted", flush=True)
"""


def child(path: Path, count: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def tell(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_after_a_kill_nothing_released_is_forgotten_and_nothing_unreleased_is_spent(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    process = child(path, 1000)
    for line in ("reserve 1", "release 1", "commit 1", "reserve 2", "release 2", "reserve 3"):
        assert tell(process, line) == "done"

    process.send_signal(signal.SIGKILL)
    process.wait()
    process.communicate()

    ledger = open_ledger(path)
    assert ledger.events() == (event(1), event(2), event(3))  # booked until settled: never under-counted
    settled = ledger.settle_unfinished()
    assert [one.status for one in settled] == ["released", "reserved"]
    assert ledger.events() == (event(1), event(2))
    assert [one.status for one in read_ledger_state(path).reservations.values()] == ["summed", "unknown", "cancelled"]
    with pytest.raises(UnexpectedState):
        ledger.release(settled[1].receipt)  # why cancelling is safe: nobody can release it any more


def test_settling_one_study_leaves_the_others_alone(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    ledger.reserve(event(1))
    ledger.reserve(event(1, OTHER))

    ledger.settle_unfinished(OTHER)

    assert ledger.events() == (event(1),)


def test_two_processes_cannot_both_reserve_the_last_of_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    open_ledger(path).close_cleanly()
    process = child(path, 20)
    mine = open_ledger(path, at_most(20))
    theirs: list[str] = []
    racer = threading.Thread(target=lambda: theirs.extend(tell(process, f"reserve {i}") for i in range(1, 31)))
    racer.start()

    reserved = 0
    for number in range(101, 131):
        try:
            mine.reserve(event(number))
            reserved += 1
        except BudgetExhausted:
            pass
    racer.join()

    process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
    process.wait()
    process.stdout.close()  # type: ignore[union-attr]
    assert reserved + theirs.count("done") == 20
    assert len(mine.events()) == 20
