"""Ledgers of format 1 are read and, when a study opens them, upgraded under their own chain; newer ones are refused.

The files beside this one hold what each version wrote, byte by byte: a site's export, head and database of the tiny
study.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from secure_frl.consortium.identity import Identity
from secure_frl.errors import LedgerCorrupt, NewerFormat
from secure_frl.privacy.events import decode_event
from secure_frl.records import chain
from secure_frl.records.ledger import Ledger, read_ledger_state, read_rows
from secure_frl.records.ledger_state import replay
from secure_frl.secure_sum import Budget

FORMATS = Path(__file__).parent / "formats"


def opened(path: Path, clock: float = 1_900_000_000.0) -> Ledger:
    old = read_ledger_state(path)
    return Ledger.open(
        path,
        holder=old.holder,
        dataset_id=old.dataset_id,
        budget=Budget(4.0, 1e-3),
        guard=lambda *_: None,
        signer=Identity(bytes([1]) * 32),
        code_version="later",
        clock=lambda: clock,
    )


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", ["jsonl", "sqlite"])
def test_what_each_version_wrote_is_read(version: int, kind: str, tmp_path: Path) -> None:
    path = Path(shutil.copy(FORMATS / f"ledger_v{version}.{kind}", tmp_path))

    state = read_ledger_state(path)

    assert (state.holder, state.format) == ("site-01", version)
    assert [kept.status for kept in state.reservations.values()] == ["summed", "summed"]
    assert [decode_event(event).round for event in state.events()] == [1, 2]


def test_only_format_2_has_times_roots_and_survivors() -> None:
    old, new = (read_ledger_state(FORMATS / f"ledger_v{version}.jsonl").reservations.values() for version in (1, 2))

    assert [(one.time, one.register_root_after, one.survivors) for one in old] == [(None, "", None)] * 2
    assert [one.survivors for one in new] == [(0, 1, 2)] * 2
    first, second = new
    assert first.time is not None
    assert second.time is not None
    assert first.time <= second.time
    # with one study alone on a register, a window begins where the one before it ended
    before = [decode_event(one.event).register_root_before for one in new]
    assert len(set(before)) == 2
    assert before[1] == first.register_root_after != second.register_root_after


def test_a_ledger_of_format_1_is_upgraded_under_its_own_chain(tmp_path: Path) -> None:
    path = Path(shutil.copy(FORMATS / "ledger_v1.sqlite", tmp_path))
    before = read_rows(path)

    ledger = opened(path)
    ledger.reserve(ledger.events()[0])
    ledger.close_cleanly()
    opened(path).close_cleanly()  # again: nothing is left to upgrade

    rows = read_rows(path)
    assert rows[: len(before)] == before
    assert [row.kind for row in rows[len(before) :]] == ["upgraded", "reserved"]
    state = replay(rows, "it")
    assert (state.format, len(state.events())) == (2, 3)
    assert [kept.time for kept in state.reservations.values()] == [None, None, 1_900_000_000]
    head = chain.decode_head((FORMATS / "ledger_v1.head").read_bytes(), "old.head")
    assert chain.check_extends(rows, head, "it") == 2


def _exported(payloads: Sequence[tuple[str, dict[str, object]]]) -> bytes:
    rows, last = [], None
    for kind, payload in payloads:
        last = chain.next_row(last, kind, json.dumps(payload, sort_keys=True, separators=(",", ":")).encode())
        rows.append(last)
    return chain.encode_export(rows)


def _first(version: int) -> dict[str, object]:
    row = read_rows(FORMATS / f"ledger_v{min(version, 2)}.jsonl")[0]
    return row.fields() | {"format": version}


@pytest.mark.parametrize(
    "rows",
    [
        [("opened", _first(3) | {"something": "new"})],
        [("opened", _first(2)), ("upgraded", {"format": 3})],
        [("opened", _first(1)), ("upgraded", {"format": 3, "more": 1})],
    ],
)
def test_rows_of_a_newer_version_are_refused_with_what_to_do(
    rows: list[tuple[str, dict[str, object]]], tmp_path: Path
) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(_exported(rows))

    with pytest.raises(NewerFormat, match=r"format 3, this version reads up to 2. Use a newer secure_frl"):
        read_ledger_state(tmp_path / "ledger.jsonl")


@pytest.mark.parametrize(
    "rows",
    [
        [("opened", _first(1)), ("clock", {"time": 5})],  # a row of format 2 before the upgrade
        [("opened", _first(2)), ("upgraded", {"code_version": "x", "format": 2, "time": 2**40})],
        [("opened", _first(1)), ("upgraded", {"code_version": "x", "format": 1, "time": 2**40})],
        [("opened", _first(2) | {"more": 1})],
        [("opened", _first(2)), ("clock", {"time": 5, "more": 1})],
        [("opened", _first(2)), ("clock", {"time": "5"})],
        [("opened", _first(2)), ("reserved", {"event": '{"charter_hash":"00","round":1}', "time": 5})],  # time ran back
    ],
)
def test_rows_that_do_not_fit_their_own_format_are_refused(
    rows: list[tuple[str, dict[str, object]]], tmp_path: Path
) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(_exported(rows))

    with pytest.raises(LedgerCorrupt, match="contradicts"):
        read_ledger_state(tmp_path / "ledger.jsonl")
