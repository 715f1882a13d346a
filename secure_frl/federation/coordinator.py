"""The coordinator: what a round is, and which comes next. It sees masked inputs and one sum a round.

Each step is in its journal before it is announced. A round that aborts is lost, its people stay spent, and the study
goes on with the next one; after `MAX_CONSECUTIVE_LOST` of them it stops and can be resumed. The coordinator's ledger is
a copy of claims: it refuses before anything is sampled, but each site's own ledger decides.

A round that dealers with bad shares made fail before its survivors were named gets another attempt without them, with
new people and an event of its own. The charter announces as many windows as rounds, and an attempt takes one: after
two attempts at one round the study ends one round earlier.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from secure_frl.consortium.identity import Identity
from secure_frl.errors import BudgetExhausted, NonceWithheld, PeerError, RoundAborted, StewardMissing, StudyStopped
from secure_frl.federation.policy_keepers import Drivable, PolicyKeeper
from secure_frl.federation.training_state import TrainingState
from secure_frl.federation.windows import window_event
from secure_frl.masking.coordinator_epoch import CoordinatorEpoch, EpochOpening
from secure_frl.masking.coordinator_states import SumMachine
from secure_frl.masking.next_attempt import MOST_ATTEMPTS, first_cohort, left_out
from secure_frl.records.chain import Receipt
from secure_frl.records.journal import Journal
from secure_frl.records.ledger import Ledger
from secure_frl.secure_sum import Addressed, Carrier, RandomSource, SiteId, SumTerms
from secure_frl.study import Study

MAX_CONSECUTIVE_LOST = 3  # then the study stops (exit 6): more rounds would only spend people for nothing
MOST_OPENINGS = 4  # of one epoch, each without the sites that withheld a nonce in the one before
EPOCH_LIFE_S = 23 * 3600.0  # channel keys live at most a day; an hour is left for clocks that differ


@dataclass(frozen=True, slots=True)
class CoordinatorParts:
    """What the coordinator holds: its own key, books and sources, and a way to reach the sites."""

    study: Study
    terms: SumTerms
    names: tuple[str, ...]  # of the sites, by SiteId
    dataset_id: str
    identity: Identity
    journal: Journal
    ledger: Ledger
    carrier: Carrier
    random: RandomSource
    clock: Callable[[], float]  # Unix seconds
    log: logging.Logger


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What became of one round, as the coordinator knows it."""

    round: int
    attempt: int
    epoch: int
    cohort: tuple[SiteId, ...]
    is_summed: bool
    reason: str  # the name of the error that ended it; empty when summed
    survivors: tuple[SiteId, ...]
    state: TrainingState | None  # the policy that this round made, where the coordinator may read it
    shown: Mapping[str, float]  # return and gap on the public simulator; empty when lost, or not known here


class Coordinator:
    """Runs the rounds of one study, from where the journal stands."""

    def __init__(self, parts: CoordinatorParts, keeper: PolicyKeeper) -> None:
        """keeper: what is held here of the policy, by protection."""
        self._parts, self._keeper = parts, keeper
        self._epoch_number = parts.journal.last_epoch
        self._epoch: CoordinatorEpoch | None = None
        self._epoch_first_round = 0
        self._windows = len(parts.journal.rounds())  # begun so far, attempts included
        self._left_out: frozenset[SiteId] = frozenset()  # of this epoch's cohorts, after complaints

    def settle(self) -> None:
        """Close a round that was interrupted between its published sum and the policy that sites made of it."""
        published = self._parts.journal.published_round
        if published is not None:
            self._open_epoch_if_needed(published.round + 1)

    def rounds(self) -> Iterator[RoundOutcome]:
        """Run the remaining rounds, yielding each when it is in the journal.

        Raises BudgetExhausted before a round that would overspend, StudyStopped when no sum can be had.
        """
        self.settle()
        consecutive_lost = 0
        announced = self._parts.study.training.rounds
        for number in range(self._parts.journal.last_closed_round + 1, announced + 1):
            if self._windows >= announced:
                break
            self._check_values_started(number)
            outcome = self._round(number)
            consecutive_lost = 0 if outcome.is_summed else consecutive_lost + 1
            yield outcome
            if consecutive_lost >= MAX_CONSECUTIVE_LOST:
                raise StudyStopped(
                    f"expected a sum from at least {self._parts.terms.constants.min_survivors} sites, but "
                    f"{consecutive_lost} rounds in a row were lost ({outcome.reason}). "
                    "Bring sites back, then `secure-frl resume`."
                )
        first = 2 if self._parts.study.sums_values else 1  # values that only started advise nothing
        if not any(record.outcome == "summed" and record.round >= first for record in self._parts.journal.rounds()):
            raise StudyStopped(
                f"expected a sum in at least one of rounds {first} to {announced}, but all were lost. "
                "Begin a new study when enough sites are back; what was released stays spent."
            )

    def _check_values_started(self, number: int) -> None:
        """Spend nothing on backups of values whose start was lost; every site refuses them too."""
        started = any(record.outcome == "summed" for record in self._parts.journal.rounds())
        if self._parts.study.sums_values and number > 1 and not started:
            raise StudyStopped(
                "expected the value start of round 1, but that round was lost, and its share of the budget stays "
                "spent. Nothing more is spent: begin another study with what is left."
            )

    # --- one round ---------------------------------------------------------------------------------------------------

    def _round(self, number: int) -> RoundOutcome:
        """Run attempts until one gives the sum, or none can be hoped for."""
        outcome, again = self._attempt(number, 0, self._reserve(number, 0), None)
        while again is not None and outcome.attempt + 1 < MOST_ATTEMPTS:
            attempt = outcome.attempt + 1
            try:
                receipt = self._reserve(number, attempt)
            except BudgetExhausted as error:  # no window more: the round stays lost, and the next one says why
                self._parts.log.warning("round %d gets no other attempt: %s", number, error)
                break
            outcome, again = self._attempt(number, attempt, receipt, again)
        return outcome

    def _reserve(self, number: int, attempt: int) -> Receipt:
        """Claim a window in the books. Raises BudgetExhausted, before anything is sent to a site."""
        parts = self._parts
        event = window_event(parts.study, parts.terms, parts.dataset_id, number, attempt, parts.random)
        return parts.ledger.reserve(event.canonical())

    def _attempt(
        self, number: int, attempt: int, receipt: Receipt, cohort: tuple[SiteId, ...] | None
    ) -> tuple[RoundOutcome, tuple[SiteId, ...] | None]:
        """Return what became of one attempt, with the cohort that another one may ask, if any may.

        cohort: None for the first attempt.
        """
        parts = self._parts
        try:
            epoch = self._open_epoch_if_needed(number)
        except StudyStopped:
            parts.ledger.cancel(receipt, "no epoch could be opened")
            raise
        cohort = cohort or first_cohort(epoch.members, self._left_out, number, parts.terms.constants)
        parts.journal.begin_round(number, attempt, [parts.names[site] for site in cohort])
        self._windows += 1
        parts.ledger.release(receipt)  # sites release on their own; the claim is booked before the first of them can
        machine = self._keeper.machine(epoch, number, attempt, cohort)
        try:
            self._drive(machine, parts.study.sites.deadline_s.train)
            machine.outcome()
        except RoundAborted as error:
            return self._lose(machine, epoch, receipt, error)
        return self._publish(machine, epoch, receipt), None

    def _publish(self, machine: SumMachine, epoch: CoordinatorEpoch, receipt: Receipt) -> RoundOutcome:
        """Let the keeper publish the sum and write down what follows; a sum that nobody agrees about waits for that."""
        parts, context = self._parts, machine.context
        details = {"transcript_hash": machine.transcript_hash.hex(), "excluded": self._excluded(machine)}
        concluded = self._keeper.conclude(machine, self._drive_stages, details)
        if concluded is None:
            self._epoch = None
            self._open_epoch_if_needed(context.round + 1)
        closed = parts.journal.rounds()[-1]
        is_summed = closed.outcome == "summed"
        parts.ledger.commit(receipt, "summed" if is_summed else "aborted")
        if self._epoch is epoch:
            self._leave_epoch_if_broken(machine)
        return RoundOutcome(
            context.round,
            context.attempt,
            epoch.epoch,
            context.cohort,
            is_summed,
            closed.reason,
            machine.survivors if is_summed else (),
            concluded.state if concluded is not None else None,
            concluded.shown if concluded is not None else {},
        )

    def _lose(
        self, machine: SumMachine, epoch: CoordinatorEpoch, receipt: Receipt, error: RoundAborted
    ) -> tuple[RoundOutcome, tuple[SiteId, ...] | None]:
        parts, context = self._parts, machine.context
        reason = type(error).__name__
        exhausted = [site for site, code in machine.excluded.items() if code == BudgetExhausted.__name__]
        complaints = {
            parts.names[site]: [parts.names[dealer] for dealer in dealers]
            for site, dealers in sorted(machine.complaints.items())
        }
        parts.journal.lose_round(reason, {"excluded": self._excluded(machine), "complaints": complaints})
        parts.ledger.commit(receipt, "aborted")
        self._leave_epoch_if_broken(machine)
        parts.log.warning("round %d, attempt %d is lost: %s", context.round, context.attempt, error)
        again = machine.next_cohort
        self._left_out |= left_out(machine.complaints, parts.terms.constants.max_colluders)
        if len(parts.names) - len(exhausted) < parts.terms.constants.min_survivors:
            raise BudgetExhausted(
                f"{len(exhausted)} of {len(parts.names)} sites refuse to spend more. "
                "End the study here, or ask those hospitals for a larger budget."
            )
        lost = RoundOutcome(context.round, context.attempt, epoch.epoch, context.cohort, False, reason, (), None, {})
        return lost, again if self._epoch is epoch else None

    def _drive_stages(self, machine: Drivable) -> None:
        self._drive(machine, self._parts.study.sites.deadline_s.stage)

    def _drive(self, machine: Drivable, first_deadline_s: float) -> None:
        """Carry one machine through its stages; a request is made when the carrier takes it, never n at once."""
        deadline_s = first_deadline_s
        while (requests := _unless_empty(machine.requests())) is not None:
            for site, reply in self._parts.carrier.exchange(requests, deadline_s):
                try:
                    machine.receive(site, reply)
                except PeerError as error:  # this site is out, the others go on
                    name = self._parts.names[site]
                    self._parts.log.warning("%s is out: %s: %s", name, type(error).__name__, error)
            machine.close_stage()
            deadline_s = self._parts.study.sites.deadline_s.stage

    # --- epochs ------------------------------------------------------------------------------------------------------

    def _open_epoch_if_needed(self, number: int) -> CoordinatorEpoch:
        parts = self._parts
        if self._epoch is not None and number < self._epoch_first_round + parts.terms.epoch_rounds:
            return self._epoch
        self._epoch = None
        without: set[SiteId] = set()
        for opened in range(1, MOST_OPENINGS + 1):
            self._epoch_number += 1
            parts.journal.open_epoch(self._epoch_number)
            opening = self._keeper.opening(
                EpochOpening(
                    parts.terms,
                    parts.identity.private_key,
                    parts.random,
                    parts.clock,
                    epoch=self._epoch_number,
                    first_round=number,
                    expiry_s=parts.clock() + EPOCH_LIFE_S,
                    without=without,
                )
            )
            try:
                self._drive_stages(opening)
                self._epoch = self._keeper.opened(opening, self._drive_stages)
                break
            except RoundAborted as error:
                if isinstance(error, NonceWithheld | StewardMissing) and opened < MOST_OPENINGS:
                    without |= set(map(SiteId, error.sites))
                    continue
                raise StudyStopped(
                    f"expected {parts.terms.constants.min_survivors} sites in epoch {self._epoch_number}: {error} "
                    "Bring sites back, then `secure-frl resume`."
                ) from error
        if self._epoch is None:
            raise StudyStopped(f"expected an open epoch after {MOST_OPENINGS} tries, got none. See the sites' logs.")
        self._epoch_first_round, self._left_out = number, frozenset()  # fresh keys: whoever was blamed is back
        return self._epoch

    def _leave_epoch_if_broken(self, machine: SumMachine) -> None:
        """Open a new epoch at the next round when a site is outside this one, or restarted and lost its keys.

        In cross_device there is always such a site: only when they are half of what a round may lose.
        """
        constants = self._parts.terms.constants
        members = self._epoch.members if self._epoch is not None else ()
        refused = sum(code != BudgetExhausted.__name__ for code in machine.refusals.values())
        outside = refused + len(self._parts.names) - len(members)
        bearable = (constants.sites - constants.min_survivors) // 2 if constants.profile == "cross_device" else 0
        if outside > bearable:
            self._epoch = None

    def _excluded(self, machine: SumMachine) -> dict[str, str]:
        return {self._parts.names[site]: code for site, code in sorted(machine.excluded.items())}


def _unless_empty(requests: Iterator[Addressed]) -> Iterator[Addressed] | None:
    first = next(requests, None)
    return None if first is None else chain((first,), requests)
