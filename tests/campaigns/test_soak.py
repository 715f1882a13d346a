"""Two hundred rounds with faults in one process: no growth of memory, descriptors or time a round.

Real registers on disk; a fault or two a round, of every kind, stage and role but those below; an epoch turns over after
at most forty rounds. Memory is counted twice: what Python and NumPy allocate, to a byte, and the pages of the process,
in which SQLite's and OpenSSL's memory is, too.
"""

from __future__ import annotations

import gc
import mmap
import os
import time
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from fault_bending import CELLS
from fault_deliveries import _CELL_WEIGHTS
from fault_runner import Schedule
from fault_tally import Tally
from fault_world import SeededBytes, World
from seal_watch import SealWatch

from secure_frl.masking.keys import KeyPair, derive
from secure_frl.records.register import Register

SEED = 11
EPOCH_ROUNDS = 40
SLACK_BYTES = 100_000  # the first use of caches that are bounded
SLACK_PAGES = 500  # 2 MB: what allocators keep for themselves
KEPT_FRAMES = 40  # older ones that a fault may replay
WORK = SeededBytes(SEED)
PROCESS = Path("/proc/self")
# a site whose enrolment has ended is out of every later round: of these charters none would be left
FAULTS = [cell for cell, weight in zip(CELLS, _CELL_WEIGHTS, strict=True) if weight and cell[2] != "roster"]

pytestmark = pytest.mark.skipif(not (PROCESS / "fd").exists(), reason="counts what the system lists of a process")


@dataclass(frozen=True)
class Round:
    is_complete: bool  # gave its sum: only such rounds have like work in them
    time: float  # CPU time over that of the reference work beside it: other processes slow both
    memory_bytes: int
    resident_pages: int
    descriptors: int


def reference() -> float:
    """CPU seconds of a fixed piece of a round's kind of work: exchanges, derived keys, small objects."""
    own, other, began = KeyPair.draw(WORK), KeyPair.draw(WORK), time.process_time()
    for number in range(60):
        for step in range(4):
            derive(own.exchange(other.public), bytes(32), "reference", [number, step], str(number))
    return time.process_time() - began


class LongSchedule(Schedule):
    """A schedule of many rounds whose own books do not grow."""

    def __init__(self, rounds: int, folder: Path, tally: Tally, watch: SealWatch, stack: ExitStack) -> None:
        super().__init__(SEED, tally, watch)
        self.rounds = rounds
        self.plan.clear()
        self.world = World(self.charter, SEED, template=False)
        self.world.epoch = None
        session = self.charter.terms.session
        registers = [stack.enter_context(Register.open(folder / f"{site}.sqlite")) for site in range(self.n)]
        self.world.registers = [register.stage_register(session) for register in registers]
        for site in range(self.n):
            self.world.restart(site)
        self.turnovers = set(range(1, rounds + 1, EPOCH_ROUNDS))
        for number in range(1, rounds + 1):
            for _ in range(self.r.choice((1, 1, 2))):
                self.add_fault(number)

    def add_fault(self, number: int) -> None:
        kind, stage, role = self.r.choice(FAULTS)
        self.rounds, rounds = number, self.rounds
        first, self.r.randint = self.r.randint, lambda low, high: high  # this round, not an earlier one
        try:
            self._add(kind, stage, role)
        finally:
            self.r.randint, self.rounds = first, rounds

    def one(self, number: int) -> Round:
        """One round with what it took; the test's own memories are cut back first."""
        began = time.process_time()
        is_complete = self.round(number)
        seconds = time.process_time() - began
        for frames in self.past.values():
            del frames[:-KEPT_FRAMES]
        for site in range(self.n):
            self.world.logs[site].clear()
            self.world.hosts[site].outcomes.clear()
            self.world.hosts[site].asked.clear()
        for memory in (self.kinds, self.answers, self.unmasked, self.watch.sealed):
            memory.clear()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0
        pages = int((PROCESS / "statm").read_text().split()[1])
        return Round(is_complete, seconds / reference(), held, pages, len(os.listdir(PROCESS / "fd")))


def soak(rounds: int, folder: Path) -> tuple[list[Round], Tally]:
    tally, watch = Tally(), SealWatch()
    with ExitStack() as stack:
        stack.enter_context(watch.watching())
        schedule = LongSchedule(rounds, folder, tally, watch, stack)
        tracemalloc.start(1)
        stack.callback(tracemalloc.stop)
        found = [schedule.one(number) for number in range(1, rounds + 1)]
    return found, tally


def growth(rounds: list[Round], name: str) -> tuple[Any, Any]:
    """The medians of the second fifth of the rounds and of the last one."""
    part = len(rounds) // 5
    early, late = rounds[part : 2 * part], rounds[-part:]
    early, late = ([r for r in fifth if r.is_complete or name != "time"] for fifth in (early, late))
    return median(getattr(r, name) for r in early), median(getattr(r, name) for r in late)


def report(rounds: list[Round], tally: Tally) -> str:
    figures = {name: growth(rounds, name) for name in LIMITS}
    met = sum(tally.cells[cell] > 0 for cell in FAULTS)
    return (
        f"soak of {len(rounds)} rounds, seed {SEED}, {tally.sums} sums, {tally.cells.total()} faults of {met} kinds: "
        f"{figures}; aborts {dict(tally.aborts)}"
    )


def grown(rounds: list[Round], with_time: bool = True) -> list[str]:
    """What has grown."""
    found = []
    for name, limit in LIMITS.items():
        before, after = growth(rounds, name)
        if after > limit(before) and (with_time or name != "time"):
            found.append(name)
    return found


LIMITS: dict[str, Callable[[float], float]] = {
    "time": lambda before: 1.3 * before,
    "memory_bytes": lambda before: before + SLACK_BYTES,
    "resident_pages": lambda before: before + SLACK_PAGES,
    "descriptors": lambda before: before,
}


def test_twenty_rounds_leave_no_descriptors_and_no_memory_behind(tmp_path: Path) -> None:
    rounds, tally = soak(20, tmp_path)

    print(report(rounds, tally))
    assert grown(rounds, with_time=False) == []
    assert tally.sums >= 0.4 * len(rounds)


@pytest.mark.campaign
def test_two_hundred_rounds_do_not_grow(tmp_path: Path) -> None:
    rounds, tally = soak(200, tmp_path)

    print(report(rounds, tally))
    assert grown(rounds) == []
    assert tally.sums >= 0.4 * len(rounds)
    assert tally.aborts["coordinator restarted"]  # faults of every party were met


def busy(number: int) -> None:
    """Take longer from round to round."""
    until = time.process_time() + 0.01 * number
    while time.process_time() < until:
        pass


def resident() -> mmap.mmap:
    """Return a megabyte that tracemalloc does not see."""
    memory = mmap.mmap(-1, 1 << 20)
    memory.write(bytes(1 << 20))
    return memory


LEAKS: dict[str, Callable[[Path, int], object]] = {
    "time": lambda folder, number: busy(number),
    "memory_bytes": lambda folder, number: bytearray(20_000),
    "resident_pages": lambda folder, number: resident(),
    "descriptors": lambda folder, number: os.open(folder / f"leak-{number}", os.O_CREAT),
}


@pytest.mark.campaign
@pytest.mark.parametrize("what", LEAKS)
def test_control_what_one_part_leaves_behind_is_seen_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    genuine, kept = LongSchedule.round, []

    def leaking(self: LongSchedule, number: int) -> bool:
        kept.append(LEAKS[what](tmp_path, number))
        return genuine(self, number)

    monkeypatch.setattr(LongSchedule, "round", leaking)
    rounds, _ = soak(30, tmp_path)

    assert grown(rounds, with_time=what == "time") == [what]
    for thing in kept:
        if what == "descriptors":
            os.close(thing)
