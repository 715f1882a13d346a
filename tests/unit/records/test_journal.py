"""The coordinator's journal: rounds, policies, resume, exclusiveness."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secure_frl.errors import InvalidParameter, LedgerCorrupt, UnexpectedState
from secure_frl.records.journal import Journal, read_journal

CHARTER = bytes(32)
FIRST, SECOND = bytes([1]) * 32, bytes([2]) * 32


def open_journal(path: Path, charter_hash: bytes = CHARTER) -> Journal:
    return Journal.open(path, charter_hash=charter_hash, code_version="0.1.0")


def started(path: Path) -> Journal:
    journal = open_journal(path)
    journal.start(FIRST, b"first policy")
    journal.open_epoch(1)
    return journal


def test_a_study_resumes_after_its_last_closed_round(tmp_path: Path) -> None:
    with started(tmp_path / "j.sqlite") as journal:
        journal.begin_round(1, 0, ["a", "b"])
        journal.sum_round(["a"], SECOND, b"second policy", {"return": 0.5})

    journal = open_journal(tmp_path / "j.sqlite")

    point = journal.resume_point()
    assert (point.last_closed_round, point.model, point.tag) == (1, b"second policy", SECOND)
    assert (journal.last_closed_round, journal.last_epoch) == (1, 1)


def test_a_round_that_was_begun_is_lost_after_a_restart(tmp_path: Path) -> None:
    process = os.fork()
    if process == 0:  # killed inside the round: no close, no flush
        journal = started(tmp_path / "j.sqlite")
        journal.begin_round(1, 0, ["a", "b"])
        os._exit(9)
    os.waitpid(process, 0)

    journal = open_journal(tmp_path / "j.sqlite")

    assert [(one.round, one.outcome, one.reason) for one in journal.rounds()] == [(1, "lost", "restart")]
    point = journal.resume_point()
    assert (point.last_closed_round, point.model, point.tag) == (1, b"first policy", FIRST)


def test_two_coordinators_cannot_hold_one_folder(tmp_path: Path) -> None:
    with started(tmp_path / "j.sqlite"), pytest.raises(UnexpectedState, match="another program holds it"):
        open_journal(tmp_path / "j.sqlite")
    open_journal(tmp_path / "j.sqlite")


def test_a_journal_belongs_to_one_charter(tmp_path: Path) -> None:
    started(tmp_path / "j.sqlite").close_cleanly()

    with pytest.raises(InvalidParameter, match="second folder"):
        open_journal(tmp_path / "j.sqlite", charter_hash=SECOND)


def test_a_lost_round_keeps_the_policy_and_its_details(tmp_path: Path) -> None:
    journal = started(tmp_path / "j.sqlite")
    journal.begin_round(1, 0, ["a", "b"])
    journal.lose_round("TooFewSurvivors", {"left": 1})

    (one,) = journal.rounds()

    assert (one.outcome, one.reason, one.details, one.next_tag) == ("lost", "TooFewSurvivors", {"left": 1}, FIRST)


def test_every_step_out_of_order_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j.sqlite")
    refused = [
        lambda: journal.begin_round(1, 0, ["a"]),
        lambda: journal.lose_round("x"),
        lambda: journal.publish_round(["a"], {}),
        lambda: journal.sum_round(["a"], SECOND, b""),
        lambda: journal.keep_parcel(b"x"),
        lambda: journal.resume_point(),
    ]
    for step in refused:
        with pytest.raises(UnexpectedState):
            step()
    journal.start(FIRST, b"first policy")
    for step in (lambda: journal.start(FIRST, b""), lambda: journal.begin_round(1, 0, ["a"])):
        with pytest.raises(UnexpectedState):
            step()
    assert journal.head().sequence == 1


@pytest.mark.parametrize(("number", "attempt"), [(1, 0), (1, 1), (0, 0), (2, -1)])
def test_a_round_with_a_sum_is_never_begun_again(tmp_path: Path, number: int, attempt: int) -> None:
    journal = started(tmp_path / "j.sqlite")
    journal.begin_round(1, 0, ["a"])
    journal.sum_round(["a"], SECOND, b"second policy")

    with pytest.raises(UnexpectedState):
        journal.begin_round(number, attempt, ["a"])


def test_a_lost_round_may_have_another_attempt(tmp_path: Path) -> None:
    journal = started(tmp_path / "j.sqlite")
    journal.begin_round(1, 0, ["a"])
    journal.lose_round("deadline")

    journal.begin_round(1, 1, ["a"])

    assert journal.rounds()[-1].outcome == "begun"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rows SET hash = zeroblob(32) WHERE sequence = 3",
        "DELETE FROM rows WHERE sequence = 2",
        "UPDATE policy SET model = x'00'",
        "DELETE FROM policy",
    ],
)
def test_a_damaged_journal_is_not_resumed(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "j.sqlite"
    with started(path) as journal:
        journal.begin_round(1, 0, ["a"])
        journal.sum_round(["a"], SECOND, b"second policy")
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()

    with pytest.raises(LedgerCorrupt, match=r"j\.sqlite"):
        open_journal(path)


def test_reading_a_closed_journal_leaves_the_folder_as_it_is(tmp_path: Path) -> None:
    with started(tmp_path / "j.sqlite") as journal:
        journal.begin_round(1, 0, ["a"])
        journal.sum_round(["a"], SECOND, b"second policy")
    before = (tmp_path / "j.sqlite").read_bytes()

    state = read_journal(tmp_path / "j.sqlite")

    assert (state.tag, state.last_closed_round) == (SECOND, 1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"j.sqlite": before}


def test_a_journal_from_the_future_is_refused(tmp_path: Path) -> None:
    started(tmp_path / "j.sqlite").close_cleanly()
    with sqlite3.connect(tmp_path / "j.sqlite") as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()

    with pytest.raises(LedgerCorrupt, match="newer secure_frl"):
        open_journal(tmp_path / "j.sqlite")


STEPS = st.lists(st.sampled_from(["begin", "publish", "sum", "lose", "keep", "epoch", "restart"]), max_size=15)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(steps=STEPS)
def test_any_history_with_restarts_reads_back_and_its_policies_chain(tmp_path: Path, steps: list[str]) -> None:
    path = tmp_path / f"{os.urandom(8).hex()}.sqlite"
    journal, number = started(path), 0
    for step in steps:
        try:
            if step == "begin":
                journal.begin_round(number + 1, 0, ["a"])
                number += 1
            elif step == "sum":
                tag = bytes([number]) * 32
                journal.sum_round(["a"], tag, tag)
            elif step == "lose":
                journal.lose_round("deadline")
            elif step == "epoch":
                journal.open_epoch(journal.last_epoch + 1)
            elif step == "publish":
                journal.publish_round(["a"], {})
            elif step == "keep":
                journal.keep_parcel(os.urandom(8))
            else:
                journal.close_cleanly()
                journal = open_journal(path)
        except UnexpectedState:
            pass

    tag = FIRST
    for one in journal.rounds():
        assert one.policy_tag == tag
        tag = one.next_tag if one.outcome == "summed" else tag
    assert journal.resume_point().tag == tag
    journal.close_cleanly()
