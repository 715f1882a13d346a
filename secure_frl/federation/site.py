"""One site: bytes in, bytes out. It answers only what its signed charter allows, and its books come first.

The protocol half (`masking/`) decides whether a request is right and calls back at the points where data or policy is
touched; this file is those callbacks: reserve, collect, update, release, step, close. Nothing that a caller can see
depends on a patient's data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.consortium.identity import Identity
from secure_frl.encoding.lanes import to_ring_vector
from secure_frl.errors import CharterViolation, DataRefused, LocalProtocolError
from secure_frl.federation.held_policy import HeldPolicy
from secure_frl.federation.logs import close_log
from secure_frl.federation.optimisers import initial_state, released_figures, step
from secure_frl.federation.personal import OwnWindows, fit_personal, personal_path, wants_personal
from secure_frl.federation.simulated_patients import PatientSource
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training import Trainer
from secure_frl.federation.training_state import TrainingState
from secure_frl.federation.value_sums import check_round
from secure_frl.federation.windows import window_event, window_name
from secure_frl.files import write_durably
from secure_frl.learning.trajectories import Trajectories
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.records.chain import Receipt
from secure_frl.records.ledger import Ledger
from secure_frl.records.register import Register
from secure_frl.secure_sum import RandomSource, RingVector, RoundContext, SiteId, Sum, SumTerms
from secure_frl.study import Study
from secure_frl.wire.hashing import lp


@dataclass(frozen=True, slots=True)
class SiteParts:
    """What a site brings: its own keys, books, data and sources. None of it is shared with another party."""

    me: SiteId
    name: str
    identity: Identity
    dataset_id: str  # whose lifetime budget this site's ledger keeps
    terms: SumTerms
    study: Study  # as the signed charter has it
    ledger: Ledger
    register: Register
    patients: PatientSource
    random: RandomSource  # dither, sampling and privacy noise
    protocol_random: (
        RandomSource  # keys, seeds and shares: apart, so that a rehearsal's noise is that of any protection
    )
    clock: Callable[[], float]  # Unix seconds
    home: Path  # this site's own folder
    exports: Path  # where this site's exported ledger goes
    held_heads: Path  # where the coordinator keeps the last head that this site signed for it
    log: logging.Logger  # stays at the site: it may count what its own data did


@dataclass(slots=True)
class _Window:
    """The round that is open at this site, and the reservation that pays for it."""

    receipt: Receipt
    is_released: bool = False
    register_root: bytes = b""  # once its people are admitted
    survivors: tuple[SiteId, ...] | None = None  # once a sum is published


class StudySite:
    """A site of one study, in memory from one restart to the next."""

    def __init__(self, parts: SiteParts) -> None:
        """Build what is checked before a site joins. Raises InvalidParameter, DataRefused, CharterViolation."""
        self._parts = parts
        constants = parts.terms.constants
        self._rule = optimiser_rule(parts.study, constants)
        self._held = self._first_policy()
        self._window: _Window | None = None
        self._is_shut = False
        keeps = wants_personal(parts.study) and not parts.study.is_logged
        self._own = OwnWindows(parts.home, parts.terms.session) if keeps else None
        self._trainer = Trainer(parts.study, constants, parts.me)
        self._check_before_joining()
        self._protocol = self._machine(
            terms=parts.terms,
            me=parts.me,
            signing_key=parts.identity.private_key,
            register=parts.register.stage_register(parts.terms.session),
            random=parts.protocol_random,
            clock=parts.clock,
            host=self,
            log=self._refused,
        )

    def _check_before_joining(self) -> None:
        patients = self._parts.patients
        self._trainer.check_before_joining(self._held.state, patients.probe(), patients.records())

    def _first_policy(self) -> HeldPolicy:
        return HeldPolicy(initial_state(self._rule), self._rule, self._parts.log)

    def _machine(self, **given: Any) -> SiteProtocol:  # Any: exactly SiteProtocol's arguments
        return SiteProtocol(**given)

    @property
    def state(self) -> TrainingState:
        """Return the policy and optimiser state that this site holds."""
        return self._held.state

    def handle(self, request: bytes) -> bytes:
        """Answer one frame: a reply, or a signed refusal of constant size."""
        return self._protocol.handle(request)

    def _refused(self, name: str, text: str) -> None:
        self._parts.log.warning("refused: %s: %s", name, text)

    # --- the callbacks of the protocol half --------------------------------------------------------------------------

    def policy_tag(self, announced_tag: bytes, model: bytes | None) -> bytes:
        """Return the tag of the policy this site holds, taking `model` only for steps that this site missed."""
        return self._held.announced(announced_tag, model)

    def contribute(self, context: RoundContext) -> RingVector:
        """Reserve, collect, sample, clip, quantise, add noise, in this order."""
        parts, constants = self._parts, self._parts.terms.constants
        if personal_path(parts.home, parts.terms.session).exists():
            raise CharterViolation(
                "expected a round before this site fitted its own policy, got one after it: whom it treats by that "
                "policy would carry its records into a sum. Begin another study; nothing was sampled."
            )
        check_round(parts.study, self._held.state, context.round)
        root = parts.register.participation_root()
        event = window_event(
            parts.study, parts.terms, parts.dataset_id, context.round, context.attempt, parts.random, root
        )
        receipt = parts.ledger.reserve(event.canonical())
        self._window = _Window(receipt)
        trajectories = parts.patients.collect(self._trainer.acting(self._held.state), context)
        if self._own is not None:
            self._own.keep(trajectories, window_name(context.round, context.attempt))
        admitted = self._admitted(trajectories, context)
        self._window.register_root = parts.register.participation_root()
        update = self._trainer.update(self._held.state, trajectories, admitted, parts.random, receipt.sequence)
        parts.log.info("round %d: %d units count as zero", context.round, update.dropped)
        return to_ring_vector(update.integers, constants)

    def _admitted(self, trajectories: Trajectories, context: RoundContext) -> NDArray[np.bool_]:
        """Open the window in the register, for ever, and return who may contribute, bool [B].

        Records may always: every release is charged to all of them. Who of them is drawn is written nowhere, for the
        sample's secrecy is part of the proof.
        """
        parts = self._parts
        is_logged = parts.study.is_logged
        admitted = parts.register.admit(
            parts.terms.session,
            context.round,
            context.attempt,
            lp(parts.terms.session, window_name(context.round, context.attempt)),
            trajectories.persons[:0] if is_logged else trajectories.persons,
            parts.study.privacy.max_rounds_per_person,
        )
        return np.ones(trajectories.count, dtype=np.bool_) if is_logged else admitted

    def release(self) -> None:
        """Write the spend down, synced: the next bytes that leave are made from data."""
        if self._window is None or self._window.is_released:
            raise LocalProtocolError("expected an open window that is not released yet. Report this; nothing was sent.")
        released = self._parts.ledger.release(self._window.receipt, self._window.register_root)
        self._window.is_released = True
        self._parts.register.follow(self._parts.ledger.head, released)

    def next_tag(self, total: Sum) -> bytes:
        """Run the optimiser on the published sum."""
        following = step(self._held.state, total, self._rule)
        if self._window is not None:
            self._window.survivors = total.contributors
        return self._held.follow(following, released_figures(following, total, self._rule))

    def close(self, outcome: str) -> None:
        """End the round: a released window is committed, an unreleased one is given back, nothing else changes."""
        window, self._window = self._window, None
        try:
            self._held.concluded(outcome)
        finally:  # a policy that cannot be written leaves no window open in the ledger
            if window is not None:
                self._conclude_window(window, outcome)

    def _conclude_window(self, window: _Window, outcome: str) -> None:
        if window.is_released:
            self._parts.ledger.commit(window.receipt, outcome, window.survivors if outcome == "summed" else None)
        else:
            self._parts.ledger.cancel(window.receipt, "the round ended before release")

    def _personalise(self) -> None:
        """Fit this site's own policy, then forget the windows that were kept for it; at most once a charter."""
        parts = self._parts
        if not personal_path(parts.home, parts.terms.session).exists():  # a kill may have come between fit and manifest
            own = parts.patients.records() if self._own is None else self._own.all()
            try:
                fit_personal(parts.study, self._trainer, self._held.state, own, parts.home, parts.terms.session)
            except DataRefused as refused:  # for this site's own eyes; its books close as any other's
                parts.log.warning("no policy of its own: %s", refused)
        if self._own is not None:
            self._own.forget()

    # --- the end of a run --------------------------------------------------------------------------------------------

    def shut_down(self, *, export: bool = False) -> None:
        """Close the books; a second call does nothing.

        export: the study is done, so the ledger is exported with its signed head, and the site's own policy fitted.
        A round whose end this site never heard of is committed as unknown. The signed head is handed over in any case:
        whoever holds it sees when all of this site's files are replaced by an older copy.
        """
        if self._is_shut:
            return
        self._is_shut = True
        self.close("unknown")
        parts = self._parts
        parts.register.follow(parts.ledger.head)
        if export and wants_personal(parts.study):
            self._personalise()
        if export:
            parts.ledger.export(parts.exports / f"{parts.name}.jsonl", parts.exports / f"{parts.name}.head")
        write_durably(parts.held_heads / f"{parts.name}.head", parts.ledger.signed_head().encode())
        parts.register.close_cleanly()
        parts.ledger.close_cleanly()
        close_log(parts.log)
