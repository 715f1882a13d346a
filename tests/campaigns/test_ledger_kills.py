"""SIGKILL at random moments in a ledger, in a site, and in a site amid real rounds: no spend lost, none twice.

Real processes on real files. What has left is what the parent got through a pipe: all of it must be in the ledger that
is opened afterwards, and nothing leaves twice. The default suite takes a handful, `-m campaign` as many as `KILLS`
in the environment says (1,000): half of them hit a ledger, most others a site's callbacks, some a whole round.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from kill_children import Say, fork, kill, killed_after, moments_of
from round_contexts import round_context

from secure_frl.consortium.identity import Identity
from secure_frl.errors import BudgetExhausted, UnexpectedState
from secure_frl.evidence.verify import verify
from secure_frl.federation import run_folder, simulation
from secure_frl.federation.carriers.pipe import STUDY_DONE, read_frame, serve, write_frame
from secure_frl.federation.enrolment import Enrolled, enrol, open_site
from secure_frl.federation.run_folder import RunFolder, RunOptions
from secure_frl.records.group_commit import FILE, GroupCommit
from secure_frl.records.ledger import Ledger, read_ledger_state
from secure_frl.secure_sum import Budget, SiteId
from secure_frl.study import Study
from secure_frl.wire.envelope import read_header
from secure_frl.wire.messages import MessageType

pytestmark = pytest.mark.slow
FEW = 8
LIVES = 25  # kills on one set of files; every second set is a part of shared books
CONTROL = 40  # kills that must find what is out of order; the first few do
MANY_ROUNDS = {"training.rounds": 1000, "privacy.delta": 1e-6}
SITE, NAME = SiteId(0), "site-01"


few_or_many = pytest.mark.parametrize(
    "kills", [FEW, pytest.param(int(os.environ.get("KILLS", "1000")), marks=pytest.mark.campaign)]
)


@pytest.fixture
def generator() -> np.random.Generator:
    """Moments from a seed that is printed; SEED in the environment repeats them, as far as clocks can."""
    seed = int(os.environ.get("SEED", secrets.randbits(32)))
    print(f"SEED={seed}")  # shown when the test fails
    return np.random.default_rng(seed)


# --- a ledger alone --------------------------------------------------------------------------------------------------


def _event(number: int) -> bytes:
    return json.dumps({"charter_hash": "00" * 32, "round": number}, separators=(",", ":")).encode()


def _open(path: Path, group: GroupCommit | None = None) -> Ledger:
    return Ledger.open(
        path,
        holder=NAME,
        dataset_id="ward",
        budget=Budget(4.0, 1e-6),
        guard=lambda *_: None,
        signer=Identity(bytes([1]) * 32),
        code_version="0",
        group=group,
    )


def _release_for_ever(path: Path, is_shared: bool, sends_first: bool, say: Say) -> None:
    """Release and release. sends_first: what must never be, something leaves before it is booked."""
    group = GroupCommit.open(path.parent.parent) if is_shared else None
    ledger = _open(path, group)
    ledger.settle_unfinished()
    if group is not None:
        group.sync()
    number = max((json.loads(kept.event)["round"] for kept in read_ledger_state(path).reservations.values()), default=0)
    say("open")
    while True:
        number += 1
        if sends_first and number % 5:
            say(f"left {number}")
        receipt = ledger.reserve(_event(number))
        if number % 5 == 0:
            ledger.cancel(receipt, "nobody came")
            continue
        ledger.release(receipt)
        if group is not None:
            group.sync()
        if not sends_first:
            say(f"left {number}")
        ledger.commit(receipt, "summed" if number % 3 else "aborted")


def _numbers(lines: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.startswith("left ")]


def _kill_ledgers(kills: int, generator: np.random.Generator, folder: Path, *, sends_first: bool = False) -> int:
    """Kill a ledger so many times, check it after each, and return how many releases left."""
    left, opening_s, work_s = Counter[tuple[Path, int]](), 0.0, 0.0
    for number in range(kills):
        life = number // LIVES
        path, is_shared = folder / f"{life}" / NAME / "ledger.sqlite", bool(life % 2)
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % LIVES == 0:  # how long a child takes to open a ledger and release five times, in this hour
            measured = folder / f"measured-{life}" / NAME / "ledger.sqlite"
            measured.parent.mkdir(parents=True)
            begun = fork(lambda say, to=measured, is_shared=is_shared: _release_for_ever(to, is_shared, False, say))
            moments, _ = moments_of(*begun, said="", times=6)
            opening_s, work_s = moments[0], moments[5] - moments[0]

        child = fork(lambda say, path=path, is_shared=is_shared: _release_for_ever(path, is_shared, sends_first, say))
        lines = _killed(child, number, generator, opening_s, work_s)

        left.update((path, gone) for gone in _numbers(lines))
        ledger = _open(path)
        for kept in ledger.settle_unfinished():
            if kept.status == "reserved":
                with pytest.raises(UnexpectedState):  # given back for good: whoever held its receipt can't spend it
                    ledger.release(kept.receipt)
        booked = Counter(json.loads(event)["round"] for event in ledger.events())
        ledger.close_cleanly()
        seen = {gone for where, gone in left if where == path}
        assert seen <= set(booked), "a spend was lost"
        assert set(booked.values()) <= {1}, "a spend was booked twice"
        assert len(set(booked) - seen) <= number % LIVES + 1  # at most the one that a kill came between
    assert not left or set(left.values()) == {1}, "something left twice"
    return len(left)


def _killed(
    child: tuple[int, int], number: int, generator: np.random.Generator, opening_s: float, work_s: float
) -> list[str]:
    """Kill a child at a moment of its work; each tenth one while it opens its books."""
    if number % 10 == 9:
        return killed_after(*child, float(generator.uniform(0, opening_s)))
    return killed_after(*child, float(generator.uniform(0, work_s)), said="open")


@few_or_many
def test_a_ledger_killed_at_any_moment_loses_no_spend_and_spends_none_twice(
    kills: int, generator: np.random.Generator, tmp_path: Path
) -> None:
    kills = kills // 2
    left = _kill_ledgers(kills, generator, tmp_path)
    assert left > 0
    print(f"{kills} kills of a ledger: {left} releases left, all booked, none twice")


def test_kills_find_a_ledger_that_books_after_something_left(generator: np.random.Generator, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"a spend was lost|something left twice"):
        _kill_ledgers(CONTROL, generator, tmp_path, sends_first=True)


# --- a site's own steps ----------------------------------------------------------------------------------------------


def _windows(folder: RunFolder) -> list[tuple[int, bytes]]:
    """Return (round, people) of each window that the register of the one site has seen."""
    shared = folder.sites / FILE
    path = shared if shared.exists() else folder.site(NAME) / "register.sqlite"
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT round, persons FROM windows").fetchall()
    connection.close()
    return [(row[0], bytes(row[1])) for row in found]


def _rounds_for_ever(
    folder: RunFolder, enrolled: Enrolled, is_shared: bool, again: int, sends_first: bool, say: Say
) -> None:
    """Contribute round after round.

    again: the last round whose window was seen; a second time it must be refused.
    sends_first: what must never be, something leaves before it is booked.
    """
    group = GroupCommit.open(folder.sites) if is_shared else None
    sync = group.sync if group is not None else lambda: None
    site = open_site(folder, enrolled, SITE, group)
    try:
        site.contribute(round_context(enrolled.terms, again))
    except (UnexpectedState, BudgetExhausted):  # the register has seen the window, or the ledger has booked it
        site.close("aborted")
    else:
        say(f"failed: round {again} was contributed again")
    sync()
    say("open")
    for number in range(again + 1, 10_000):
        if sends_first:
            say(f"left {number} {secrets.token_hex(8)}")
        vector = site.contribute(round_context(enrolled.terms, number))
        site.release()
        sync()
        if not sends_first:
            say(f"left {number} {hash(vector.words.tobytes())}")
        site.close("summed")
        sync()
        say(f"closed {number}")


def _kill_sites(
    kills: int, generator: np.random.Generator, study: Study, tmp_path: Path, *, sends_first: bool = False
) -> tuple[int, int]:
    """Kill a site so many times, check it after each; return how many releases left, and kills inside a round."""
    left, inside, opening_s, work_s = Counter[tuple[Path, int]](), 0, 0.0, 0.0
    vectors: set[str] = set()
    for number in range(kills):
        life = number // LIVES
        root, is_shared = tmp_path / f"run-{life}", bool(life % 2)
        if number % LIVES == 0:
            folder = run_folder.begin(root, study, RunOptions(), None)
            enrolled = enrol(folder, study, rehearse=False)
            _first_round(folder, enrolled, is_shared)
            to = (folder, enrolled, is_shared, 1, False)
            moments, lines = moments_of(*fork(lambda say, to=to: _rounds_for_ever(*to, say)), said="closed", times=4)
            opening_s, work_s = moments[0], moments[3] - moments[0]
            left.update((root, gone) for gone in (1, *_numbers(lines)))
        again = max(window for window, _ in _windows(folder))

        to = (folder, enrolled, is_shared, again, sends_first)
        lines = _killed(fork(lambda say, to=to: _rounds_for_ever(*to, say)), number, generator, opening_s, work_s)

        inside += bool(lines)  # between rounds there is next to nothing to do
        left.update((root, gone) for gone in _numbers(lines))
        noised = [line.split()[2] for line in lines if line.startswith("left ")]
        assert not vectors & set(noised)
        assert len(set(noised)) == len(noised)
        vectors |= set(noised)
        _check_site(folder, enrolled, {gone for where, gone in left if where == root}, number % LIVES + 2)
    assert set(left.values()) <= {1}, "something left twice"
    return len(left), inside


def _first_round(folder: RunFolder, enrolled: Enrolled, is_shared: bool) -> None:
    """Contribute once in this process: what it imports is there in each child."""
    group = GroupCommit.open(folder.sites) if is_shared else None
    site = open_site(folder, enrolled, SITE, group)
    site.contribute(round_context(enrolled.terms, 1))
    site.release()
    site.close("summed")
    site.shut_down()
    if group is not None:
        group.close_cleanly()


@few_or_many
def test_a_site_killed_at_any_moment_loses_no_spend_and_meets_nobody_twice(
    kills: int, generator: np.random.Generator, tiny: Callable[..., Study], tmp_path: Path
) -> None:
    kills = 2 * kills // 5
    left, inside = _kill_sites(kills, generator, tiny(MANY_ROUNDS), tmp_path)
    assert inside > kills // 2
    print(f"{kills} kills of a site, {inside} of them inside a round: {left} releases left, all booked, none twice")


def test_kills_find_a_site_that_books_after_something_left(
    generator: np.random.Generator, tiny: Callable[..., Study], tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=r"a spend was lost|something left twice"):
        _kill_sites(CONTROL, generator, tiny(MANY_ROUNDS), tmp_path, sends_first=True)


def _check_site(folder: RunFolder, enrolled: Enrolled, seen: set[int], kills: int) -> None:
    site = open_site(folder, enrolled, SITE)  # settles, and refuses a ledger that is older than the register
    site.shut_down()
    kept = read_ledger_state(folder.site(NAME) / "ledger.sqlite").reservations.values()
    booked = Counter(json.loads(one.event)["round"] for one in kept if one.is_spent)
    assert seen <= set(booked), "a spend was lost"
    assert set(booked.values()) <= {1}, "a spend was booked twice"
    assert len(set(booked) - seen) <= kills
    people = [set(np.frombuffer(persons, dtype="<u8").tolist()) for _, persons in _windows(folder)]
    assert sum(map(len, people)) == len(set().union(*people)), "somebody was in two windows"
    assert set(booked) <= {window for window, _ in _windows(folder)}


# --- a site in the middle of real rounds -----------------------------------------------------------------------------

FOUR = {"sites.count": 4, "sites.min_survivors": 3, "privacy.delta": 1e-4}
KILLS_A_RUN = 10


class KilledSite:
    """A site in a forked process that is killed at work on some of the frames; the next frame finds a new process."""

    def __init__(self, folder: RunFolder, enrolled: Enrolled, generator: np.random.Generator, kills: int) -> None:
        self._parts, self._generator, self._kills_left = (folder, enrolled), generator, kills
        self._pid, self._slowest_s, self._next_kill = 0, 0.02, self._drawn_gap()
        self.left: list[tuple[int, int]] = []  # (round, attempt) of each masked input that left

    def _drawn_gap(self) -> int:
        """The frames until the next kill: drawn, but never more than the shortest run has."""
        return int(self._generator.integers(1, 13))

    def _begin(self) -> None:
        down, up = os.pipe(), os.pipe()
        pid = os.fork()
        if pid:
            os.close(down[0])
            os.close(up[1])
            self._pid, self._to, self._from = pid, os.fdopen(down[1], "wb"), os.fdopen(up[0], "rb")
            return
        try:
            os.close(down[1])
            os.close(up[0])
            site = open_site(*self._parts, SITE)
            with os.fdopen(down[0], "rb") as incoming, os.fdopen(up[1], "wb") as outgoing:
                site.shut_down(export=serve(site, incoming, outgoing))
        finally:
            os._exit(0)

    def handle(self, request: bytes) -> bytes:
        """Answer, or die in the middle of it."""
        if not self._pid:
            self._begin()
        self._next_kill -= 1
        doomed = self._kills_left > 0 and self._next_kill == 0
        start = time.monotonic()
        write_frame(self._to, request)
        if doomed:
            time.sleep(float(self._generator.uniform(0, 1.2 * self._slowest_s)))  # another process is at work meanwhile
            self._kills_left, self._next_kill = self._kills_left - 1, self._drawn_gap()
            kill(self._pid)
            self._pid = 0
        reply = read_frame(self._from)  # whole before the kill: then it had left
        if doomed:
            self._to.close()
            self._from.close()
        if reply is None:
            raise ConnectionError("the site was killed")
        self._slowest_s = max(self._slowest_s, min(time.monotonic() - start, 0.5))
        header = read_header(reply)
        if header.type == MessageType.R2:
            self.left.append((header.round, header.attempt))
        return reply

    def shut_down(self, *, export: bool = False) -> None:
        """End the process that is there, or one that is begun for it."""
        if self._pid == 0:
            self._begin()
        if self._pid > 0:
            if export:
                write_frame(self._to, STUDY_DONE)
            self._to.close()
            os.waitpid(self._pid, 0)
            self._from.close()
            self._pid = -1


@few_or_many
def test_a_site_killed_in_the_middle_of_rounds_loses_no_spend_and_sends_none_twice(
    kills: int, generator: np.random.Generator, tiny: Callable[..., Study], tmp_path: Path
) -> None:
    kills, done, sent = (kills + 9) // 10, 0, 0
    for number in range((kills + KILLS_A_RUN - 1) // KILLS_A_RUN):
        wanted = min(KILLS_A_RUN, kills - done)
        killed: list[KilledSite] = []

        def opened(
            folder: RunFolder, enrolled: Enrolled, group: object, wanted: int = wanted, killed: list = killed
        ) -> Mapping[SiteId, object]:
            killed.append(KilledSite(folder, enrolled, generator, wanted))
            others = {site: open_site(folder, enrolled, site) for site in map(SiteId, (1, 2, 3))}
            return {SITE: killed[0], **others}

        run = tmp_path / f"run-{number}"
        study = tiny(FOUR | {"training.rounds": 4 + 2 * wanted})
        simulation.run(study, run, open_sites=opened)  # type: ignore[arg-type]

        site = killed[0]
        happened = wanted - site._kills_left
        kept = read_ledger_state(run / f"state/sites/{NAME}/ledger.sqlite").reservations.values()
        booked = Counter(
            (json.loads(one.event)["round"], json.loads(one.event)["attempt"]) for one in kept if one.is_spent
        )
        assert set(site.left) <= set(booked), "a spend was lost"
        assert len(set(site.left)) == len(site.left), "a message was sent twice"
        assert set(booked.values()) <= {1}
        assert len(set(booked) - set(site.left)) <= happened
        assert verify(run).findings == ()
        done, sent = done + happened, sent + len(site.left)
    assert done > 0
    print(f"{done} kills of a site in its rounds: {sent} masked inputs left, all booked, none twice")
