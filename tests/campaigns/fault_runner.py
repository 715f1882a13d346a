"""Seeded fault schedules over real protocol frames.

A schedule is a few rounds with faults at chosen stages: by the carrier, by the coordinator or a peer with valid keys,
restarts, failing hosts, the clock. fault_oracle.py demands of each:
  - never a wrong sum: what comes out is the sum over the survivors of what each one really sent;
  - every abort and every refusal has a name of the package; SiteFailed is our own bug;
  - in a round in which no insider lied, an attempt completes exactly when enough sites answered each stage;
  - no site gives both kinds of share for one peer or a share of its own key, confirms or unmasks twice in a round;
    sites that unmask have confirmed one set; no key of a site seals two messages; register rows only grow.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from typing import Any

from fault_bending import Fault
from fault_deliveries import Deliveries, Shape
from fault_oracle import can_go_on
from fault_tally import Tally, Violation
from fault_world import next_model, remembered_signatures, small_graphs
from seal_watch import SealWatch

from secure_frl.errors import SecureFrlError, UnexpectedState
from secure_frl.masking.contexts import model_tag

SPARSE: Shape = (101, 0, 24, 2)  # cross_device


class Schedule(Deliveries):
    """One schedule from its seed to its end."""

    def run(self) -> None:
        done = 0
        for number in range(1, self.rounds + 1):
            self.tally.rounds += 1
            done += self.round(number)
        self.tally.schedules += 1
        self.tally.complete += done == self.rounds
        self.check_registers()
        if self.watch.reused:
            raise Violation(f"{self.watch.reused} keys sealed two messages")

    def round(self, number: int) -> bool:
        """One round in one to three attempts. True when it gave its sum and published it."""
        world = self.world
        self.has_insider = self.is_epoch_false
        missing = set(range(self.n)) - self.in_epoch
        for site in self.failing:
            world.hosts[site].failure = None
        self.failing.clear()
        is_due = (
            world.epoch is None
            or world.now > self.expiry_s
            or number in self.turnovers
            or (missing and self.r.random() < 0.7)
        )
        if is_due and not self.open_epoch(number):
            return False
        machine: Any = None
        for attempt in range(3):
            epoch, least = world.epoch, self.charter.constants.min_survivors
            is_whole = self.charter.constants.profile == "cross_device"  # whose cohort has exactly n sites
            if epoch is None or len(epoch.members) < (self.n if is_whole else least):
                return False
            cohort = epoch.members
            if len(cohort) > least and not is_whole and self.r.random() < 0.1:
                left_out = self.r.choice(cohort)
                cohort = tuple(site for site in cohort if site != left_out)
            if machine is not None and machine.next_cohort and self.r.random() < 0.7:
                cohort = machine.next_cohort
            lacking = {site: self.model for site in cohort if site not in self.holders}
            machine = world.attempt(number, attempt, cohort, self.model, lacking)
            if self.attempt(machine, number, attempt, cohort):
                return True
            if world.epoch is None or world.epoch.survivors_named_in >= number or self.r.random() < 0.4:
                return False
        return False

    def open_epoch(self, number: int) -> bool:
        self.has_insider = self.is_epoch_false = False
        self.epoch_number += 1
        self.expiry_s = self.world.now + 3600
        machine = self.world.opening(self.epoch_number, number)
        answered = set(range(self.n))
        for stage in self.charter.opening_stages:
            if self.crash(number, stage, machine):
                return False
            if stage == "E0":
                self.in_epoch = set(range(self.n))  # a restart before E0 forgets nothing of the new epoch
            if self.world.now > self.expiry_s:
                answered = set()
            if stage == "E1" and answered & self.world.ended:
                answered = set()  # nobody takes a list with a site that is enrolled no more
            answered = self.stage(machine, number, stage, answered & self.in_epoch)
            if stage == "E0":
                answered -= self.world.ended
            constants = self.charter.constants
            is_whole = constants.profile == "cross_device"
            foretold = len(answered) >= (self.n if is_whole else constants.min_survivors)
            abort = self.close(machine)
            self.foretell(foretold, abort)
            if abort:
                self.world.epoch = None
                return False
        self.world.epoch = machine.outcome()
        self.probe_opened(machine)
        if not self.has_insider and set(self.world.epoch.members) != answered:
            raise Violation(f"epoch of {self.world.epoch.members}, not of {answered}")
        self.in_epoch = set(self.world.epoch.members)
        return True

    def attempt(self, machine: Any, number: int, attempt: int, cohort: Iterable[int]) -> bool:
        constants = self.charter.constants
        self.sent.clear()
        counted = handled = set(cohort)
        for stage in ("R0", "R1P", "R3A", "R3C"):
            if self.crash(number, stage, machine):
                return False
            if stage == "R0":
                counted -= self.failing if self.world.now < self.expiry_s else counted
            counted = self.stage(machine, number, stage, counted & self.in_epoch)
            if stage == "R0" and constants.profile == "cross_device" and self.r.random() < 0.5:
                self.lose_a_neighbourhood(machine, number)
            if stage == "R0":
                beside = {site: set(machine._view.graph.neighbours(site)) for site in cohort}
                members = counted
            foretold = can_go_on(stage, counted, members, handled, beside, constants)
            abort = self.close(machine)
            self.foretell(foretold, abort)
            if stage == "R1P":
                handled = counted
            if abort:
                return False
        self.check_sum(machine, handled)
        following = next_model(self.model, machine.outcome())
        with suppress(UnexpectedState):
            machine.publish(b"short")
            raise Violation("a tag of five bytes")
        machine.publish(model_tag(following))
        if self.crash(number, "R5", machine):
            self.holders = set()
            return False
        self.stage(machine, number, "R5", set(cohort))
        self.close(machine)
        self.model, self.holders = following, set(machine.followers)
        self.probe_end(machine)
        return True

    def lose_a_neighbourhood(self, machine: Any, number: int) -> None:
        """Lose the input of a site and of so many around it that nobody, or too few, could rebuild its key."""
        site = self.r.randrange(self.n)
        near = list(machine._view.graph.neighbours(site))
        lost = [site, *self.r.sample(near, len(near) - self.r.randrange(self.charter.constants.threshold + 2))]
        self.plan.setdefault((number, "R2"), []).extend(Fault("drop", "R2", "carrier", one) for one in lost[:11])


def run_schedules(first: int, count: int, shape: Shape | None = None) -> Tally:
    """Run the schedules with seeds first, first + 1, …; a violation is noted with its seed."""
    tally, watch = Tally(), SealWatch()
    with remembered_signatures(), small_graphs(), watch.watching():
        for seed in range(first, first + count):
            watch.reused = 0
            try:
                Schedule(seed, tally, watch, shape).run()
            except Violation as error:
                tally.violations.append(f"seed {seed}: {error}")
            except SecureFrlError as error:  # an error of ours where none belongs
                tally.violations.append(f"seed {seed}: {type(error).__name__}: {error}")
    return tally


def show(seed: int) -> None:
    """Print one schedule: its faults, what the coordinator refused, and each site's log."""
    tally, watch = Tally(), SealWatch()
    with remembered_signatures(), small_graphs(), watch.watching():
        schedule = Schedule(seed, tally, watch)
        print(schedule.charter.constants)
        print({key: [(fault.kind, fault.role, fault.site) for fault in found] for key, found in schedule.plan.items()})
        try:
            schedule.run()
        finally:
            print(tally.report())
            print(*enumerate(schedule.world.logs), sep="\n")


def run_campaign(first: int, count: int, jobs: int) -> Tally:
    """The same over processes, in pieces."""
    piece = max(1, min(2_000, count // jobs))
    starts = range(first, first + count, piece)
    total = Tally()
    with ProcessPoolExecutor(jobs) as pool:
        for tally in pool.map(run_schedules, starts, [min(piece, first + count - start) for start in starts]):
            total.add(tally)
    return total


__all__ = ["Tally", "run_campaign", "run_schedules", "show"]
