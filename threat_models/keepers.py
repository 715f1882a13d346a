"""Parties that are not honest: coordinators that plant policies or ask twice, and sites without the checks against it.

Each is a subclass of the production one that leaves out or adds a single thing, so whatever else holds still holds.
A site without a check is the control: it shows that the attack works, and that this check is what stops it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from secure_frl.errors import RoundAborted
from secure_frl.federation.coordinator import CoordinatorParts
from secure_frl.federation.enrolment import Enrolled
from secure_frl.federation.optimisers import initial_state
from secure_frl.federation.policy_keepers import Concluded, Drive, OpenKeeper, Ties
from secure_frl.federation.simulated_patients import PatientSource
from secure_frl.federation.site import StudySite
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training_state import TrainingState
from secure_frl.learning.acting import Acting
from secure_frl.learning.trajectories import Trajectories
from secure_frl.masking.contexts import config_hash, model_tag
from secure_frl.masking.coordinator_epoch import CoordinatorEpoch
from secure_frl.masking.coordinator_memory import AttemptView
from secure_frl.masking.coordinator_states import MaskedSum, SumMachine
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.secure_sum import RingVector, RoundContext, SiteId, StageRegister, Sum, SumTerms
from threat_models.threat import Summed, Vector

MakeKeeper = Callable[[Enrolled, CoordinatorParts], OpenKeeper]


def keeper(kind: type[OpenKeeper], **given: Any) -> MakeKeeper:  # Any: what the kind takes beside an OpenKeeper's own
    """Return what makes a coordinator's keeper of some kind, for `laboratory.rehearse`."""

    def make(enrolled: Enrolled, parts: CoordinatorParts) -> OpenKeeper:
        rule = optimiser_rule(enrolled.study, parts.terms.constants)
        ties = Ties(parts.terms, parts.names, parts.journal, parts.random, parts.log)
        return kind(ties, initial_state(rule), rule, lambda state: {}, **given)

    return make


# --- coordinators ----------------------------------------------------------------------------------------------------


class PlantingKeeper(OpenKeeper):
    """Sends a planted policy to every site but one. All are told the same tag."""

    def __init__(self, *own: Any, planted: Vector, victim: int, tells_planted_tag: bool = False) -> None:
        """own: an OpenKeeper's. planted: parameters. tells_planted_tag: the one tag is theirs, else the victim's."""
        super().__init__(*own)
        self._planted, self._victim, self._tells_planted = planted, SiteId(victim), tells_planted_tag

    def machine(self, epoch: CoordinatorEpoch, number: int, attempt: int, cohort: tuple[SiteId, ...]) -> SumMachine:
        """Return an attempt whose announcements differ between sites."""
        ties, held = self._ties, self._state.to_bytes()
        other = replace(self._state, parameters=self._planted).to_bytes()
        models = {site: held if site == self._victim else other for site in cohort}
        tag = model_tag(other if self._tells_planted else held)
        return MaskedSum(ties.terms, epoch, number, attempt, cohort, tag, models, ties.random)


class AskingTwiceKeeper(OpenKeeper):
    """Asks for each round's sum once more, without one site, before it publishes anything."""

    def __init__(self, *own: Any, victim: int, opened: dict[int, Summed], refused: list[str]) -> None:
        """own: an OpenKeeper's. opened: where the first sums are put when a second one opened; refused: codes."""
        super().__init__(*own)
        self._victim, self._opened, self._refusals = SiteId(victim), opened, refused

    def conclude(self, machine: SumMachine, drive: Drive, details: Mapping[str, object]) -> Concluded:
        """Ask again; publish the second sum if there is one, for its sites have left the first attempt."""
        again = self._ask_again(machine, drive)
        if again is None:
            return super().conclude(machine, drive, details)
        total = machine.outcome()
        assert isinstance(total, Sum)  # in clear: this keeper makes no other machine
        self._opened[machine.context.round] = Summed(total.integers.copy(), tuple(map(int, total.contributors)))
        return super().conclude(again, drive, details)

    def _ask_again(self, machine: SumMachine, drive: Drive) -> MaskedSum | None:
        context, epoch, ties = machine.context, machine.epoch, self._ties
        epoch.survivors_named_in = context.round - 1  # its own memory of it, which an honest one keeps
        cohort = tuple(site for site in context.cohort if site != self._victim)
        models: dict[SiteId, bytes | None] = dict.fromkeys(cohort)
        again = MaskedSum(
            ties.terms,
            epoch,
            context.round,
            context.attempt + 1,
            cohort,
            context.policy_tag,
            models,
            ties.random,
        )
        try:
            drive(again)
            again.outcome()
        except RoundAborted:
            self._refusals += again.refusals.values()
            return None
        return again


class LeavingOutKeeper(OpenKeeper):
    """Leaves one site out of every second round, which its charter lets it do."""

    def __init__(self, *own: Any, victim: int) -> None:
        """own: an OpenKeeper's."""
        super().__init__(*own)
        self._victim = SiteId(victim)

    def machine(self, epoch: CoordinatorEpoch, number: int, attempt: int, cohort: tuple[SiteId, ...]) -> SumMachine:
        """Return an attempt, in even rounds without the site."""
        chosen = tuple(site for site in cohort if number % 2 or site != self._victim)
        return super().machine(epoch, number, attempt, chosen)


class ShrinkingKeeper(OpenKeeper):
    """Announces a cohort of fewer sites than the charter's, as if the charter had smaller numbers."""

    def __init__(self, *own: Any, cohort: tuple[int, ...]) -> None:
        """own: an OpenKeeper's. cohort: ascending, three sites or more."""
        super().__init__(*own)
        self._cohort = tuple(map(SiteId, cohort))

    def machine(self, epoch: CoordinatorEpoch, number: int, attempt: int, cohort: tuple[SiteId, ...]) -> SumMachine:
        """Return an attempt under the true constants' hash with a cohort that only smaller numbers allow."""
        ties, size = self._ties, len(self._cohort)
        constants = replace(
            ties.terms.constants,
            sites=size,
            neighbours=size - 1,
            threshold=size,
            min_survivors=size,
            max_colluders=1,
            honest_shares=size - 1,
        )
        content = self._state.to_bytes()
        models: dict[SiteId, bytes | None] = dict.fromkeys(self._cohort)
        terms = replace(ties.terms, constants=constants)
        return _Disguised(
            terms, epoch, number, attempt, self._cohort, model_tag(content), models, ties.random, truth=ties.terms
        )


class _Disguised(MaskedSum):
    """An attempt under constants of its own that announces the hash of others."""

    def __init__(self, *given: Any, truth: SumTerms) -> None:
        self._truth = truth
        super().__init__(*given)

    def _begin(self, view: AttemptView) -> object:
        context = replace(view.context, config_hash=config_hash(self._truth.constants))
        self._view = replace(view, context=context)
        return super()._begin(self._view)


# --- sites without a check, and their people -------------------------------------------------------------------------


class UncheckedSite(StudySite):
    """Makes its message by whatever policy it is sent, and reports the announced tag as its own."""

    _planted: TrainingState | None = None

    def policy_tag(self, announced_tag: bytes, model: bytes | None) -> bytes:
        """Return what was announced, whatever came with it."""
        self._planted = None if model is None else TrainingState.from_bytes(model)
        return announced_tag

    def contribute(self, context: RoundContext) -> RingVector:
        """Make the message by the planted policy; its own steps go on from the true one."""
        held = self._held.state
        self._held.state = self._planted or held
        try:
            return super().contribute(context)
        finally:
            self._held.state = held


class ForgetfulSite(StudySite):
    """Remembers no stage that it answered, so it answers a round as often as it is asked."""

    def _machine(self, **given: Any) -> SiteProtocol:  # Any: exactly SiteProtocol's arguments
        return super()._machine(**{**given, "register": _NoStages(given["register"])})


class _NoStages:
    """A StageRegister that keeps epochs and nothing else."""

    def __init__(self, register: StageRegister) -> None:
        self._register = register

    def last_epoch(self) -> int:
        return self._register.last_epoch()

    def note_epoch(self, epoch: int) -> None:
        self._register.note_epoch(epoch)

    def last_stage(self) -> None:
        return None

    def record(self, round_number: int, attempt: int, stage: str, digest: bytes) -> None:
        """Write nothing."""


class SamePeople:
    """Gives every attempt at a round the same people, under other pseudonyms: no register can tell."""

    def __init__(self, source: PatientSource, site: int) -> None:
        """source: whose people they are."""
        self._source = source
        self._met: tuple[int, Trajectories] | None = None

    def probe(self) -> Trajectories:
        """Return what the source does."""
        return self._source.probe()

    def records(self) -> Trajectories | None:
        """Return what the source does."""
        return self._source.records()

    def collect(self, acting: Acting, context: RoundContext) -> Trajectories:
        """Return the people of the round's first attempt."""
        if self._met is None or self._met[0] != context.round:
            self._met = (context.round, self._source.collect(acting, context))
        people = self._met[1]
        return replace(people, persons=people.persons ^ np.uint64(context.attempt))
