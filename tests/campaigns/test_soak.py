"""Two hundred rounds with faults in one process: no growth of memory, descriptors or time a round.

Real registers on disk; a fault or two a round, restarts included; an epoch turns over after at most forty rounds.
"""

from __future__ import annotations

import gc
import os
import time
import tracemalloc
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from fault_bending import CELLS, UP
from fault_runner import Schedule
from fault_tally import Tally
from fault_world import World
from seal_watch import SealWatch

from secure_frl.records.register import Register

SEED = 11
EPOCH_ROUNDS = 40
SLACK_BYTES = 100_000  # the first use of caches that are bounded; 50,000 bytes a round are seen (the control)
KEPT_FRAMES = 40  # older ones that a fault may replay


@dataclass(frozen=True)
class Round:
    seconds: float
    memory_bytes: int
    descriptors: int


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
        kind, stage, role = self.r.choice(CELLS)
        if (role, kind) == ("clock", "expired") or stage.startswith("E") or role == "coordinator":
            kind, stage, role = "drop", self.r.choice([up for up in UP if up.startswith("R")]), "carrier"
        self.rounds, rounds = number, self.rounds
        first, self.r.randint = self.r.randint, lambda low, high: high  # this round, not an earlier one
        try:
            self._add(kind, stage, role)
        finally:
            self.r.randint, self.rounds = first, rounds

    def one(self, number: int) -> Round:
        """One round with what it took; the test's own memories are cut back first."""
        began = time.process_time()
        self.round(number)
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
        return Round(seconds, held, len(os.listdir("/proc/self/fd")))


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
    return median(getattr(r, name) for r in early), median(getattr(r, name) for r in late)


def report(rounds: list[Round], tally: Tally) -> str:
    figures = {name: growth(rounds, name) for name in ("seconds", "memory_bytes", "descriptors")}
    return f"soak of {len(rounds)} rounds, seed {SEED}, {tally.sums} sums: {figures}; aborts {dict(tally.aborts)}"


def check(rounds: list[Round], tally: Tally, slack_bytes: int) -> None:
    before, after = growth(rounds, "memory_bytes")
    assert after - before <= slack_bytes
    few, many = growth(rounds, "descriptors")
    assert many <= few
    assert tally.sums >= 0.4 * len(rounds)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors where the system lists them")
def test_twenty_rounds_leave_no_descriptors_and_no_memory_behind(tmp_path: Path) -> None:
    rounds, tally = soak(20, tmp_path)

    print(report(rounds, tally))
    check(rounds, tally, slack_bytes=SLACK_BYTES)


@pytest.mark.campaign
def test_two_hundred_rounds_do_not_grow(tmp_path: Path) -> None:
    rounds, tally = soak(200, tmp_path)

    print(report(rounds, tally))
    check(rounds, tally, slack_bytes=SLACK_BYTES)
    early, late = growth(rounds, "seconds")
    assert late <= 1.3 * early


@pytest.mark.campaign
def test_control_a_register_that_is_opened_each_round_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, kept = LongSchedule.one, []

    def leaking(self: LongSchedule, number: int) -> Round:
        kept.append((open(tmp_path / f"{number}", "wb"), bytearray(50_000)))  # noqa: SIM115
        return genuine(self, number)

    monkeypatch.setattr(LongSchedule, "one", leaking)
    rounds, tally = soak(30, tmp_path)

    with pytest.raises(AssertionError):
        check(rounds, tally, slack_bytes=SLACK_BYTES)
    for file, _ in kept:
        file.close()
