"""protections.jsonl against rounds and charter; and what verify says that a protection leaves open."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import build, named, read_lines, resign, write_lines

from secure_frl.evidence.verify import verify

FILE = "protections.jsonl"


def changed(run: Path, number: int, **changes: object) -> None:
    lines = read_lines(run / FILE)
    lines[number] |= changes
    write_lines(run / FILE, lines)
    resign(run)


def test_an_ended_run_without_the_file_does_not_hold(run: Path) -> None:
    (run / FILE).unlink()
    resign(run)

    assert named(verify(run)) == {FILE}


@pytest.mark.parametrize(
    "changes",
    [
        {"protection": "ckks+masking"},
        {"noise": "local"},
        {"honest_shares_assumed": 3},
        {"round": 4},
        {"attempt": 1},
        {"epoch": 2},
        {"key_held_by": "every site"},  # under masking no key opens a sum
        {"rehearsal": "no"},
        {"readable_by": None},
    ],
)
def test_a_line_that_says_otherwise_than_charter_or_rounds_is_found(run: Path, changes: dict[str, object]) -> None:
    changed(run, 1, **changes)

    assert named(verify(run)) == {FILE}


def test_a_blind_run_names_who_holds_the_key(blind: Path) -> None:
    assert verify(blind).holds
    changed(blind, 1, key_held_by="")

    assert named(verify(blind)) == {FILE}


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1, 2], [1, 0, 2], [0, 1, 2, 2]])
def test_each_attempt_has_one_line_in_the_order_of_the_rounds(run: Path, order: list[int]) -> None:
    lines = read_lines(run / FILE)
    write_lines(run / FILE, [lines[number] for number in order])
    resign(run)

    assert named(verify(run)) == {FILE}


def test_a_line_of_a_rehearsal_marks_the_run(run: Path) -> None:
    changed(run, 0, rehearsal=True)

    assert not verify(run).holds
    allowed = verify(run, allow_rehearsal=True)
    assert (allowed.holds, allowed.is_rehearsal) == (True, True)


@pytest.mark.parametrize(
    ("protection", "said"),
    [
        ("masking", set()),
        ("ckks", {"one site", "blind", "keyed tag"}),
        ("ckks+masking", {"blind", "keyed tag"}),
        ("unsafe-plain", {"every single update"}),
    ],
)
def test_what_a_protection_leaves_open_is_said_of_that_one_only(
    tmp_path: Path, protection: str, said: set[str]
) -> None:
    marks = {
        "one site": "hidden from the coordinator together with one site",
        "blind": "that the coordinator was blind",
        "keyed tag": "that a keyed tag belongs to the policy",
        "every single update": "it read every single update",
    }
    text = " ".join(verify(build(tmp_path / "run", protection=protection)).not_proved)

    assert {name for name, mark in marks.items() if mark in text} == said
