"""The journal of a blind coordinator: tags that come late, published sums, parcels; and rows that contradict it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pytest
from hex_values import misspelt

from secure_frl.errors import LedgerCorrupt, UnexpectedState
from secure_frl.records import chain
from secure_frl.records.journal import Journal
from secure_frl.records.journal_state import JournalState
from secure_frl.wire.canonical import canonical_json

CHARTER = bytes(32)
FIRST, SECOND = bytes([1]) * 32, bytes([2]) * 32


def open_journal(path: Path) -> Journal:
    return Journal.open(path, charter_hash=CHARTER, code_version="0.1.0")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "j.sqlite"


@pytest.fixture
def journal(path: Path) -> Journal:
    """Round 1 is begun, as a blind coordinator comes to it."""
    journal = open_journal(path)
    journal.open_epoch(1)
    journal.start(FIRST, b"")
    journal.begin_round(1, 0, ["a", "b", "c"])
    return journal


def test_the_first_tag_may_come_inside_the_first_epoch_and_without_a_policy(path: Path) -> None:
    with open_journal(path) as journal:
        journal.open_epoch(1)
        assert not journal.is_started
        with pytest.raises(UnexpectedState, match="started study"):
            journal.begin_round(1, 0, ["a"])
    with open_journal(path) as journal:
        journal.open_epoch(2)
        journal.start(FIRST, b"")

    point = open_journal(path).resume_point()
    assert (point.tag, point.model, point.last_closed_round) == (FIRST, b"", 0)


def test_an_empty_policy_that_is_gone_is_no_empty_policy(path: Path, journal: Journal) -> None:
    journal.close_cleanly()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM policy")
    connection.close()

    with pytest.raises(LedgerCorrupt, match="to hold the policy"):
        open_journal(path)


def test_a_published_round_is_open_with_its_survivors_and_details(journal: Journal) -> None:
    assert (journal.published_round, journal.last_closed_round) == (None, 0)
    journal.publish_round(["a", "b"], {"transcript_hash": "00"})

    found = journal.published_round
    assert found == journal.rounds()[-1]
    assert (found.outcome, found.survivors, found.details) == ("published", ("a", "b"), {"transcript_hash": "00"})
    assert (journal.last_closed_round, journal.resume_point().last_closed_round) == (0, 0)
    for number, attempt in ((1, 1), (2, 0)):
        with pytest.raises(UnexpectedState):
            journal.begin_round(number, attempt, ["a", "b"])
    with pytest.raises(UnexpectedState, match="once"):
        journal.publish_round(["a", "b"], {})


def test_an_epoch_opens_over_a_published_round_only(journal: Journal) -> None:
    with pytest.raises(UnexpectedState, match="under way"):
        journal.open_epoch(2)
    journal.publish_round(["a", "b"], {})
    journal.open_epoch(2)

    assert journal.last_epoch == 2
    assert journal.published_round is not None
    assert journal.published_round.epoch == 1  # in which it was asked


def test_a_kill_after_publication_leaves_the_round_to_be_settled(path: Path) -> None:
    process = os.fork()
    if process == 0:  # killed between the row and the sites' tags: no close, no flush
        journal = open_journal(path)
        journal.open_epoch(1)
        journal.start(FIRST, b"")
        journal.begin_round(1, 0, ["a", "b"])
        journal.publish_round(["a"], {"transcript_hash": "00"})
        os._exit(9)
    os.waitpid(process, 0)

    journal = open_journal(path)
    found = journal.published_round

    assert found is not None
    assert (found.round, found.survivors, found.details) == (1, ("a",), {"transcript_hash": "00"})
    journal.open_epoch(2)
    journal.sum_round(found.survivors, SECOND, b"parcel")
    assert (journal.published_round, journal.last_closed_round, journal.resume_point().tag) == (None, 1, SECOND)
    journal.begin_round(2, 0, ["a", "b"])


def test_a_published_sum_keeps_its_survivors_and_new_details_stand_over_the_old(journal: Journal) -> None:
    journal.publish_round(["a", "b"], {"transcript_hash": "00", "settled": False})
    before = journal.head()
    for others in (["a"], ["a", "b", "c"], ["b", "a"]):
        with pytest.raises(UnexpectedState, match="published sum"):
            journal.sum_round(others, SECOND, b"parcel")
    assert journal.head() == before

    journal.sum_round(["a", "b"], SECOND, b"parcel", {"settled": True})

    (one,) = journal.rounds()
    assert (one.outcome, one.survivors, one.next_tag) == ("summed", ("a", "b"), SECOND)
    assert one.details == {"transcript_hash": "00", "settled": True}


def test_a_published_round_may_be_lost_and_the_policy_stays(journal: Journal) -> None:
    journal.publish_round(["a", "b"], {"transcript_hash": "00", "settled": False})
    journal.lose_round("TagsDiffer", {"settled": True})

    (one,) = journal.rounds()
    assert (one.outcome, one.reason, one.survivors, one.next_tag) == ("lost", "TagsDiffer", (), FIRST)
    assert one.details == {"transcript_hash": "00", "settled": True}
    assert (journal.published_round, journal.last_closed_round, journal.resume_point().tag) == (None, 1, FIRST)


def test_a_parcel_that_comes_later_replaces_the_empty_one_and_is_in_the_chain(path: Path, journal: Journal) -> None:
    journal.publish_round(["a", "b"], {})
    journal.sum_round(["a", "b"], SECOND, b"")
    journal.keep_parcel(b"sealed")
    journal.close_cleanly()

    with open_journal(path) as again:
        assert (again.resume_point().model, again.resume_point().tag) == (b"sealed", SECOND)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT tag, model FROM policy").fetchall() == [(SECOND, b"sealed")]
        connection.execute("UPDATE policy SET model = x'00'")
    connection.close()
    with pytest.raises(LedgerCorrupt):
        open_journal(path)


# --- rows that no journal of ours would write, their chain whole ------------------------------------------------------

HASH = bytes(32).hex()
BEGINNING: list[tuple[str, Mapping[str, object]]] = [
    ("opened", {"charter": CHARTER.hex(), "code_version": "0.1.0", "format": 1}),
    ("epoch", {"epoch": 1}),
    ("started", {"model_hash": HASH, "tag": FIRST.hex()}),
    ("begun", {"attempt": 0, "cohort": ["a", "b"], "policy_tag": FIRST.hex(), "round": 1}),
]
PUBLISHED = ("published", {"details": {}, "survivors": ["a"]})


def summed(*survivors: str) -> tuple[str, Mapping[str, object]]:
    plain = {"details": {}, "model_hash": HASH, "next_tag": SECOND.hex(), "survivors": list(survivors)}
    return "summed", plain


def folded(rows: list[tuple[str, Mapping[str, object]]]) -> JournalState:
    state = JournalState("j.sqlite")
    for kind, plain in rows:
        state.fold(chain.next_row(state.last, kind, canonical_json(dict(plain))))
    return state


def test_rows_in_order_are_read() -> None:
    state = folded([*BEGINNING, PUBLISHED, ("epoch", {"epoch": 2}), summed("a"), ("kept", {"model_hash": "11" * 32})])

    assert (state.tag, state.last_epoch, state.model_hash) == (SECOND, 2, bytes([0x11]) * 32)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([*BEGINNING[:2], BEGINNING[3]], id="begun before the first tag"),
        pytest.param([*BEGINNING[:3], BEGINNING[2]], id="started twice"),
        pytest.param([*BEGINNING, BEGINNING[2]], id="started inside a round"),
        pytest.param([BEGINNING[1]], id="an epoch in a journal that was not opened"),
        pytest.param([*BEGINNING[:2], BEGINNING[0]], id="opened twice"),
        pytest.param([*BEGINNING[:2], BEGINNING[1]], id="an epoch that was opened before"),
        pytest.param([*BEGINNING, ("epoch", {"epoch": 2})], id="an epoch inside a round"),
        pytest.param([*BEGINNING[:3], PUBLISHED], id="published without a round"),
        pytest.param([*BEGINNING, PUBLISHED, PUBLISHED], id="published twice"),
        pytest.param([*BEGINNING, ("published", {"details": {}, "survivors": "a"})], id="survivors that are no names"),
        pytest.param([*BEGINNING, ("published", {"details": [], "survivors": ["a"]})], id="details without names"),
        pytest.param([*BEGINNING, PUBLISHED, summed("b")], id="summed over others than were published"),
        pytest.param(
            [*BEGINNING, PUBLISHED, ("begun", {**BEGINNING[3][1], "round": 2})], id="begun over a published round"
        ),
        pytest.param([*BEGINNING[:2], ("kept", {"model_hash": HASH})], id="kept before the first tag"),
        pytest.param([*BEGINNING, ("stored", {"model_hash": HASH})], id="a kind that nobody knows"),
    ],
)
def test_a_row_that_contradicts_the_rows_before_it_is_named(rows: list[tuple[str, Mapping[str, object]]]) -> None:
    folded(rows[:-1])
    with pytest.raises(LedgerCorrupt, match=f"row {len(rows) - 1} of j.sqlite"):
        folded(rows)


LETTERS = "ab" * 32
SPELT: list[tuple[str, dict[str, object], str]] = [
    ("opened", {"charter": LETTERS, "code_version": "0.1.0", "format": 1}, "charter"),
    ("started", {"model_hash": LETTERS, "tag": LETTERS}, "tag"),
    ("begun", {"attempt": 0, "cohort": ["a"], "policy_tag": LETTERS, "round": 1}, "policy_tag"),
    ("kept", {"model_hash": LETTERS}, "model_hash"),
    ("summed", {"details": {}, "model_hash": LETTERS, "next_tag": LETTERS, "survivors": ["a"]}, "next_tag"),
]


@pytest.mark.parametrize("place", range(len(SPELT)), ids=[field for _, _, field in SPELT])
def test_a_row_with_a_value_in_another_spelling_is_refused(place: int) -> None:
    rows: list[tuple[str, Mapping[str, object]]] = [(kind, plain) for kind, plain, _ in SPELT]
    rows.insert(1, BEGINNING[1])
    folded(rows)
    kind, plain, field = SPELT[place]
    place += place > 0  # the epoch's row stands behind the first

    for value in misspelt(LETTERS):
        with pytest.raises(LedgerCorrupt, match=f"row {place} "):
            folded([*rows[:place], (kind, plain | {field: value})])
