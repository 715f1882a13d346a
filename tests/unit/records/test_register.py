"""The participation register: stages answered once, people counted, heads noted."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_frl.errors import AlreadyAnswered, InvalidParameter, LedgerCorrupt, StaleLedger, UnexpectedState
from secure_frl.records.chain import Receipt
from secure_frl.records.register import STAGES, Register
from secure_frl.secure_sum import StageRegister

SESSION, OTHER = bytes(32), bytes([1]) * 32
DIGEST = bytes(32)


def people(*numbers: int) -> NDArray[np.uint64]:
    return np.array(numbers, dtype=np.uint64)


@pytest.fixture
def register(tmp_path: Path) -> Register:
    return Register.open(tmp_path / "register.sqlite")


# --- stages ----------------------------------------------------------------------------------------------------------


def test_it_is_a_stage_register(register: Register) -> None:
    stages: StageRegister = register.stage_register(SESSION)

    assert (stages.last_epoch(), stages.last_stage()) == (0, None)


def test_a_stage_is_answered_once_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "register.sqlite"
    with Register.open(path) as register:
        register.stage_register(SESSION).record(1, 0, "R2", DIGEST)

    stages = Register.open(path).stage_register(SESSION)

    assert stages.last_stage() == (1, 0, "R2")
    for stage in ("R1", "R2"):
        with pytest.raises(AlreadyAnswered):
            stages.record(1, 0, stage, bytes([9]) * 32)
    with sqlite3.connect(path) as connection:
        written = connection.execute("SELECT round, attempt, stage, digest FROM answers").fetchall()
    connection.close()
    assert written == [(1, 0, "R2", DIGEST)]


def test_another_attempt_is_possible_only_before_survivors_are_confirmed(register: Register) -> None:
    stages = register.stage_register(SESSION)
    stages.record(1, 0, "R2", DIGEST)
    stages.record(1, 1, "R1", DIGEST)
    stages.record(1, 1, "R3b", DIGEST)

    for stage in STAGES:
        with pytest.raises(AlreadyAnswered):
            stages.record(1, 2, stage, DIGEST)
    stages.record(2, 0, "R1", DIGEST)


ASKED = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), st.sampled_from(STAGES)), max_size=25)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(asked=ASKED)
def test_no_schedule_gets_two_confirmations_or_unmaskings_of_one_round(register: Register, asked: list) -> None:  # type: ignore[type-arg]
    stages = register.stage_register(np.random.default_rng().bytes(32))  # a session of its own
    answered = []
    for number, attempt, stage in asked:
        try:
            stages.record(number, attempt, stage, DIGEST)
            answered.append((number, attempt, STAGES.index(stage)))
        except AlreadyAnswered:
            pass

    assert answered == sorted(set(answered))
    for stage in ("R3b", "R4"):
        rounds = [number for number, _, rank in answered if rank == STAGES.index(stage)]
        assert len(rounds) == len(set(rounds))


def test_the_database_itself_refuses_a_second_confirmation(register: Register) -> None:
    register.stage_register(SESSION).record(1, 0, "R3b", DIGEST)

    with pytest.raises(sqlite3.IntegrityError):  # with the check above it gone
        register._book.connection.execute("INSERT INTO answers VALUES (1, 1, 1, 2, 'R3b', zeroblob(32))")


def test_sessions_do_not_touch_each_other(register: Register) -> None:
    register.stage_register(SESSION).record(5, 0, "R4", DIGEST)

    register.stage_register(OTHER).record(1, 0, "R1", DIGEST)

    assert register.stage_register(SESSION).last_stage() == (5, 0, "R4")


def test_epochs_only_grow(register: Register) -> None:
    stages = register.stage_register(SESSION)
    stages.note_epoch(3)

    for epoch in (1, 3):
        with pytest.raises(AlreadyAnswered):
            stages.note_epoch(epoch)
    assert stages.last_epoch() == 3


@pytest.mark.parametrize(
    ("number", "attempt", "stage", "digest"),
    [
        (0, 0, "R1", DIGEST),
        (1, -1, "R1", DIGEST),
        (1, 0, "R9", DIGEST),
        (1, 0, "R1", b"short"),
        (2**63, 0, "R1", DIGEST),
    ],
)
def test_an_answer_outside_its_ranges_is_refused(
    register: Register, number: int, attempt: int, stage: str, digest: bytes
) -> None:
    with pytest.raises(InvalidParameter):
        register.stage_register(SESSION).record(number, attempt, stage, digest)


# --- people ----------------------------------------------------------------------------------------------------------


def test_a_person_over_the_cap_contributes_nothing_and_nobody_hears_of_it(register: Register) -> None:
    first = register.admit(SESSION, 1, 0, b"w1", people(1, 2), cap=1)
    second = register.admit(SESSION, 2, 0, b"w2", people(2, 3), cap=1)

    assert first.tolist() == [True, True]
    assert second.tolist() == [False, True]


def test_a_cap_of_two_admits_twice(register: Register) -> None:
    answers = [register.admit(SESSION, n, 0, b"w%d" % n, people(7), cap=2).tolist() for n in (1, 2, 3)]

    assert answers == [[True], [True], [False]]


def test_units_of_one_person_share_one_answer_and_count_once(register: Register) -> None:
    first = register.admit(SESSION, 1, 0, b"w1", people(7, 8, 7), cap=2)
    second = register.admit(SESSION, 2, 0, b"w2", people(7, 7), cap=2)
    third = register.admit(SESSION, 3, 0, b"w3", people(7, 9, 7), cap=2)

    assert (first.tolist(), second.tolist(), third.tolist()) == ([True] * 3, [True] * 2, [False, True, False])


def test_the_cap_holds_over_a_restart(tmp_path: Path) -> None:
    with Register.open(tmp_path / "r.sqlite") as register:
        register.admit(SESSION, 1, 0, b"w1", people(2**64 - 1, 2**63), cap=1)

    again = Register.open(tmp_path / "r.sqlite").admit(SESSION, 2, 0, b"w2", people(2**64 - 1, 2**63, 5), cap=1)

    assert again.tolist() == [False, False, True]


def test_the_cap_counts_what_another_study_on_the_data_set_wrote_meanwhile(register: Register, tmp_path: Path) -> None:
    register.admit(SESSION, 1, 0, b"w1", people(1), cap=2)
    other = Register.open(tmp_path / "register.sqlite")
    other.admit(OTHER, 1, 0, b"w2", people(1), cap=2)
    other.admit(SESSION, 2, 0, b"w3", people(9, 1), cap=2)

    assert register.admit(SESSION, 3, 0, b"w4", people(1, 9), cap=2).tolist() == [False, True]


def test_a_window_that_was_not_written_does_not_count(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Register, "_root", lambda *_: b"too long for a root, and no blob".decode())  # refused by STRICT
        with pytest.raises(LedgerCorrupt):
            register.admit(SESSION, 1, 0, b"w1", people(1), cap=1)

    assert register.admit(SESSION, 1, 1, b"w2", people(1), cap=1).tolist() == [True]
    assert register.admit(SESSION, 1, 2, b"w3", people(1), cap=1).tolist() == [False]


def test_a_count_that_broke_off_leaves_everybody_counted_as_before(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of windows that no longer stand beside their people would be read for others."""
    register.admit(SESSION, 1, 0, b"w1", people(5), cap=2)
    register.admit(SESSION, 2, 0, b"w2", people(5), cap=2)
    register.admit(SESSION, 3, 0, b"w3", people(1), cap=2)
    own, calls = np.insert, []

    def out_of_memory(*given: NDArray[np.generic]) -> NDArray[np.generic]:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return own(*given)

    with monkeypatch.context() as small:
        small.setattr(np, "insert", out_of_memory)
        with pytest.raises(MemoryError):
            register.admit(SESSION, 4, 0, b"w4", people(9), cap=2)

    assert register.admit(SESSION, 4, 1, b"w5", people(1, 5, 9), cap=2).tolist() == [True, False, True]
    assert register.admit(SESSION, 5, 0, b"w6", people(1, 5, 9), cap=2).tolist() == [False, False, True]


def test_a_register_without_a_window_that_a_ledger_released_is_an_old_copy(register: Register) -> None:
    register.admit(SESSION, 1, 0, b"w1", people(1), cap=1)
    first = register.participation_root()
    register.admit(SESSION, 2, 0, b"w2", people(2), cap=1)

    register.check_holds({first, register.participation_root()})
    with pytest.raises(StaleLedger, match=r"register\.sqlite .*1 missing.*newest copy"):
        register.check_holds({first, bytes(32)})


def test_a_register_of_format_1_is_counted_on_and_no_longer_opened_by_what_would_not_count(tmp_path: Path) -> None:
    """The file was written by the version that kept people in a table of their own."""
    path = Path(shutil.copy(Path(__file__).parent / "formats/register_v1.sqlite", tmp_path))

    with Register.open(path) as register:  # 1 and 3 were in one window, the last person in two
        assert register.stage_register(SESSION).last_stage() == (2, 0, "R2")
        assert register.admit(SESSION, 3, 0, b"w3", people(1, 3, 2**64 - 1), cap=2).tolist() == [True, True, False]

    with sqlite3.connect(path) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()
    assert "persons" not in tables
    assert Register.open(path).admit(SESSION, 4, 0, b"w4", people(1, 8), cap=2).tolist() == [False, True]


def test_the_cap_counts_within_one_charter(register: Register) -> None:
    register.admit(SESSION, 1, 0, b"w1", people(1), cap=1)

    # different charters on one data set add up in the accountant, so each has its own count
    assert register.admit(OTHER, 1, 0, b"w2", people(1), cap=1).tolist() == [True]


def test_a_window_is_admitted_once(register: Register) -> None:
    register.admit(SESSION, 1, 0, b"w1", people(1), cap=1)
    before = register.participation_root()

    with pytest.raises(UnexpectedState, match="never admitted"):
        register.admit(OTHER, 1, 1, b"w1", people(2), cap=1)

    assert register.participation_root() == before
    assert register.admit(OTHER, 1, 1, b"w2", people(2), cap=1).tolist() == [True]  # 2 was not counted


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(windows=st.lists(st.lists(st.integers(0, 12), max_size=10), max_size=8), cap=st.integers(1, 3))
def test_nobody_is_ever_admitted_to_more_than_the_cap(register: Register, windows: list, cap: int) -> None:  # type: ignore[type-arg]
    session = np.random.default_rng().bytes(32)
    counted: dict[int, int] = {}
    for number, window in enumerate(windows, start=1):
        answers = register.admit(session, number, 0, session + bytes([number]), people(*window), cap)
        allowed = {person for person, may in zip(window, answers, strict=True) if may}
        for person in window:  # the obvious reference: count by hand
            assert (person in allowed) == (counted.get(person, 0) < cap)
        for person in allowed:
            counted[person] = counted.get(person, 0) + 1


def test_an_empty_window_is_a_window(register: Register) -> None:
    before = register.participation_root()

    assert register.admit(SESSION, 1, 0, b"w1", people(), cap=1).shape == (0,)
    assert register.participation_root() != before


def test_the_root_depends_on_a_key_that_differs_between_sites(tmp_path: Path) -> None:
    roots = []
    for name in ("a.sqlite", "b.sqlite"):
        register = Register.open(tmp_path / name)
        register.admit(SESSION, 1, 0, b"w1", people(1, 2), cap=1)
        roots.append(register.participation_root())

    assert roots[0] != roots[1]  # so nobody without the key can test a guess of who took part


def test_people_changed_in_the_file_are_found_when_it_opens(tmp_path: Path) -> None:
    with Register.open(tmp_path / "r.sqlite") as register:
        register.admit(SESSION, 1, 0, b"w1", people(1), cap=1)
    with sqlite3.connect(tmp_path / "r.sqlite") as connection:
        connection.execute("UPDATE windows SET persons = zeroblob(8)")

    with pytest.raises(LedgerCorrupt, match=r"window 1 of r\.sqlite"):
        Register.open(tmp_path / "r.sqlite")


@pytest.mark.parametrize(
    ("persons", "window", "cap"),
    [
        (np.array([1], dtype=np.int64), b"w", 1),
        (np.array([[1]], dtype=np.uint64), b"w", 1),
        (people(1), b"", 1),
        (people(1), b"w", 0),
    ],
)
def test_a_window_outside_its_ranges_is_refused(register: Register, persons, window: bytes, cap: int) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidParameter):
        register.admit(SESSION, 1, 0, window, persons, cap)


# --- heads -----------------------------------------------------------------------------------------------------------


def test_the_noted_head_is_the_last_one_over_a_restart(tmp_path: Path) -> None:
    last = Receipt("aa", 4, bytes([4]) * 32)
    with Register.open(tmp_path / "r.sqlite") as register:
        assert register.noted_head() is None
        register.follow(lambda: Receipt("aa", 3, bytes([3]) * 32))
        register.follow(lambda: last)

    assert Register.open(tmp_path / "r.sqlite").noted_head() == last


@pytest.mark.parametrize("stale", [Receipt("aa", 3, bytes(32)), Receipt("aa", 4, bytes([5]) * 32)])
def test_a_head_that_does_not_go_on_from_the_noted_one_is_refused(register: Register, stale: Receipt) -> None:
    register.follow(lambda: Receipt("aa", 4, bytes([4]) * 32))

    with pytest.raises(StaleLedger):
        register.follow(lambda: stale)


def test_a_head_is_read_while_no_other_study_can_note_one(register: Register, tmp_path: Path) -> None:
    """Two studies on one data set: a head read before the other's note would be taken for a rollback."""
    last = Receipt("aa", 4, bytes([4]) * 32)

    def head() -> Receipt:
        other = sqlite3.connect(tmp_path / "register.sqlite", timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()
        return last

    register.follow(head)

    assert register.noted_head() == last
    with pytest.raises(StaleLedger):
        register.follow(lambda: Receipt("aa", 3, bytes(32)))


def test_closing_waits_for_no_other_study_and_loses_nothing(register: Register, tmp_path: Path) -> None:
    last = Receipt("aa", 4, bytes([4]) * 32)
    other = Register.open(tmp_path / "register.sqlite")
    other.follow(lambda: last)
    started = time.monotonic()

    other.close_cleanly()

    assert time.monotonic() - started < 2.0
    assert register.noted_head() == last
    register.close_cleanly()
    assert [path.name for path in tmp_path.iterdir()] == ["register.sqlite"]


def test_a_register_from_the_future_is_refused(tmp_path: Path) -> None:
    Register.open(tmp_path / "r.sqlite").close_cleanly()
    with sqlite3.connect(tmp_path / "r.sqlite") as connection:
        connection.execute("PRAGMA user_version = 9")

    with pytest.raises(LedgerCorrupt, match="format 9"):
        Register.open(tmp_path / "r.sqlite")


def test_person_hashes_have_a_key_of_the_sites_own_that_outlives_a_restart(tmp_path: Path) -> None:
    with Register.open(tmp_path / "a.sqlite") as one, Register.open(tmp_path / "b.sqlite") as other:
        key = one.person_key()
        assert len(key) == 32
        assert key != other.person_key()

    assert Register.open(tmp_path / "a.sqlite").person_key() == key


def test_its_key_is_in_no_repr(register: Register) -> None:
    assert register._root_key.hex() not in repr(register)
    assert repr(register) == "Register(register.sqlite)"
