"""An audit's rounds, in a rehearsal: canaries through clip, quantise, noise, ring, mask and unmask.

Made-up units go through the code that patients go through, at sites that hold nothing else. The audited case is the
one that the claim is about: exactly `min_survivors` sites in the sum, and those that the claim counts as colluders
known, so that h honest shares of noise protect what is left. The auditor knows everything but the canaries' coins and
those shares. No patient, ledger or file is touched, and nothing is spent.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.ckks.coordinator_epoch import BlindEpochOpening
from secure_frl.ckks.coordinator_states import blind_sum
from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.ckks.epoch_cipher import SiteWorkers
from secure_frl.ckks.site_states import blind_site
from secure_frl.ckks.worker import Worker, limits_for
from secure_frl.consortium.identity import Identity
from secure_frl.encoding.lanes import to_ring_vector
from secure_frl.errors import AlreadyAnswered, ModelMissing, UnexpectedState
from secure_frl.federation.carriers.in_process import DropSchedule, InProcessCarrier
from secure_frl.federation.policy_keepers import Drivable, Drive
from secure_frl.learning.trajectories import Trajectories
from secure_frl.masking.contexts import ENCRYPTED, chunk_plan, session_id
from secure_frl.masking.coordinator_states import CoordinatorEpoch, EpochOpening, MaskedSum
from secure_frl.masking.next_attempt import first_cohort
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.privacy.canaries import Canaries
from secure_frl.privacy.events import DISTRIBUTED, GaussianSumEvent
from secure_frl.privacy.update import private_update
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import RandomSource, RingVector, RoundContext, SiteId, Sum, SumConstants, SumTerms
from secure_frl.study import Study

_EPOCH_S = 3600.0
_NOW_S = 1_800_000_000.0  # a rehearsal in one process: no time passes
_TAG = hashlib.sha256(b"secure_frl/audit").digest()  # of the one policy there is


@dataclass(frozen=True, slots=True)
class AuditParts:
    """What the honest sites are made of. Correct code leaves everything as it is; a control replaces a part."""

    constants_at: Callable[[int, SumConstants], SumConstants] = lambda rank, constants: constants  # rank: 0..h-1
    window: Callable[[Trajectories], Trajectories] = lambda trajectories: trajectories


class AuditSite:
    """The rest of a site around its protocol half: a window of canaries instead of patients."""

    def __init__(self, canaries: Canaries, constants: SumConstants, unit: str, random: RandomSource) -> None:
        self._canaries, self._charter, self._unit, self._random = canaries, constants, unit, random
        self._own = constants
        self._window = canaries.nobody()
        self._turn = 0
        self.integers = np.zeros(0, dtype=np.int64)  # of the last round: what a colluder knows of itself
        self.total: Sum | None = None  # of the last round, as this site read it
        self._secret: bytes | None = None  # where sums are encrypted

    def prepare(self, turn: int, window: Trajectories, own: SumConstants) -> None:
        """Take the window of the next round. own: the constants that this site clips and draws noise by."""
        self._turn, self._window, self._own = turn, window, own

    def policy_tag(self, announced_tag: bytes, model: bytes | None) -> bytes:
        """Return the one tag there is."""
        return _TAG

    def contribute(self, context: RoundContext) -> RingVector:
        """Clip, quantise, add noise and enter the ring, as every site does."""
        update = private_update(
            self._canaries.policy,
            self._canaries.losses(self._turn),
            self._window,
            unit=self._unit,
            usable=np.ones(self._window.count, dtype=np.bool_),
            segments=self._canaries.segments,
            constants=self._own,
            random=self._random,
            receipt=0,  # no ledger: a canary spends nothing
        )
        self.integers = update.integers
        return to_ring_vector(update.integers, self._charter)

    def release(self) -> None:
        """Book nothing: no patient is in the window."""

    def next_tag(self, total: Sum) -> bytes:
        """Note the sum; return the one tag there is."""
        self.total = total
        return _TAG

    def site_secret(self) -> bytes | None:
        """Return what the steward's package brought."""
        return self._secret

    def offer_secret(self, secret: bytes) -> None:
        """Keep it for as long as the audit lasts."""
        self._secret = secret

    def held_tag(self) -> bytes:
        """Return the one tag there is."""
        return _TAG

    def sealed_policy(self, tag: bytes) -> bytes:
        """Hand nothing over: every site has the one policy there is."""
        raise ModelMissing("expected no request for a policy in an audit, got one. Report this.")

    def close(self, outcome: str) -> None:
        """Let nothing go: nothing is held."""


class _Memory:
    """A register in memory: an audit that is killed begins again from nothing."""

    def __init__(self) -> None:
        self._epoch = 0
        self._answered: set[tuple[int, int, str]] = set()
        self._last: tuple[int, int, str] | None = None

    def last_epoch(self) -> int:
        return self._epoch

    def note_epoch(self, epoch: int) -> None:
        if epoch <= self._epoch:
            raise AlreadyAnswered(f"expected an epoch after {self._epoch}, got {epoch}. Open a newer one.")
        self._epoch = epoch

    def last_stage(self) -> tuple[int, int, str] | None:
        return self._last

    def record(self, round_number: int, attempt: int, stage: str, digest: bytes) -> None:
        answer = (round_number, attempt, stage)
        if answer in self._answered or (self._last is not None and answer[:2] < self._last[:2]):
            raise AlreadyAnswered(f"expected a stage that is not answered, got {answer}. Begin a later round.")
        self._answered.add(answer)
        self._last = answer


class AuditFederation:
    """Sites with canaries and a coordinator, around one charter's constants; everything is seeded. Close it."""

    def __init__(self, study: Study, constants: SumConstants, canaries: Canaries, release: GaussianSumEvent) -> None:
        """release: what is audited; it says how many shares protect a sum."""
        seed, count = study.study.seed, constants.sites
        self._constants, self._canaries = constants, canaries
        self._random = rehearsal_source(seed, "audit", "coordinator")
        identities = [Identity.generate(rehearsal_source(seed, "audit key", str(site))) for site in range(count)]
        self._coordinator = Identity.generate(rehearsal_source(seed, "audit key", "coordinator"))
        self._terms = SumTerms(
            session=session_id(b"audit" + study.canonical()),
            constants=constants,
            site_public_keys=tuple(identity.public_key for identity in identities),
            coordinator_public_key=self._coordinator.public_key,
            roster_hash=hashlib.sha256(b"audit").digest(),
            epoch_rounds=study.protection.epoch_rounds,
        )
        self.shares = constants.honest_shares if release.mechanism == DISTRIBUTED else 1
        self._hosts: dict[SiteId, AuditSite] = {}
        self._blind = _Blind(constants) if constants.protection in ENCRYPTED else None
        machine_of = SiteProtocol if self._blind is None else self._blind.site
        machines: dict[SiteId, SiteProtocol] = {}
        for site in map(SiteId, range(count)):
            random, own = (rehearsal_source(seed, what, f"site {site}") for what in ("audit", "audit protocol"))
            host = self._hosts[site] = AuditSite(canaries, constants, release.unit, random)
            key = identities[site].private_key
            machines[site] = machine_of(
                terms=self._terms,
                me=site,
                signing_key=key,
                register=_Memory(),
                random=own,
                clock=_now,
                host=host,
            )
        self._drops = DropSchedule(seed, count, before_masked=count - constants.min_survivors)
        self._carrier = InProcessCarrier(machines, self._drops)
        self._epoch: CoordinatorEpoch | None = None
        self._epochs = 0

    def sum(self, turn: int, windows: Sequence[Trajectories], parts: AuditParts) -> NDArray[np.float64]:
        """Run one round and return its sum without what colluders know of it, float64 [P], in units of the clips.

        turn: from 0. windows: of the honest sites, one a share; all others have nobody.

        Raises UnexpectedState when others than the expected sites are in the sum.
        """
        number = turn + 1
        epoch = self._open_epoch(number)
        lost, _ = self._drops.lost(number)
        present = [site for site in self._hosts if site not in lost]
        honest, colluders = present[: self.shares], present[self.shares :]
        for host in self._hosts.values():
            host.prepare(turn, self._canaries.nobody(), self._constants)
        for rank, (site, window) in enumerate(zip(honest, windows, strict=True)):
            self._hosts[site].prepare(turn, parts.window(window), parts.constants_at(rank, self._constants))
        cohort = first_cohort(epoch.members, (), number, self._constants)
        total = self._total(epoch, number, cohort, present[0])
        if list(total.contributors) != present:
            raise UnexpectedState(
                f"expected the {len(present)} sites {present} in the sum, got {list(total.contributors)}. "
                "Report this with the study."
            )
        known = sum((self._hosts[site].integers for site in colluders), np.zeros_like(total.integers))
        return np.asarray((total.integers - known) / total.scale, dtype=np.float64)

    def _total(self, epoch: CoordinatorEpoch, number: int, cohort: tuple[SiteId, ...], reader: SiteId) -> Sum:
        """Return the sum as whoever may read it has it: the coordinator, or a site."""
        if self._blind is None:
            machine = MaskedSum(self._terms, epoch, number, 0, cohort, _TAG, {}, self._random)
            self._drive(machine)
            return machine.outcome()
        blind = self._blind.kind(self._terms, epoch, number, 0, cohort, _TAG, {}, self._random, self._blind.empty_sum())
        self._drive(blind)
        blind.publish()
        self._drive(blind)
        total = self._hosts[reader].total
        if total is None:
            raise UnexpectedState(f"expected site {reader} to read the sum, it did not. Report this with the study.")
        return total

    def close(self) -> None:
        """End the workers that ciphertexts need; a second call does nothing."""
        if self._blind is not None:
            self._blind.close()

    def _open_epoch(self, number: int) -> CoordinatorEpoch:
        if self._epoch is not None and number < self._epoch.first_round + self._terms.epoch_rounds:
            return self._epoch
        self._epochs += 1
        key = self._coordinator.private_key
        opening = EpochOpening(
            self._terms, key, self._random, _now, epoch=self._epochs, first_round=number, expiry_s=_now() + _EPOCH_S
        )
        if self._blind is None:
            self._drive(opening)
            self._epoch = opening.outcome()
        else:
            self._epoch = self._blind.open(opening, self._terms, self._drive)
        return self._epoch

    def _drive(self, machine: Drivable) -> None:
        """Carry a machine through its stages. Here a peer that breaks the protocol ends the audit."""
        while requests := list(machine.requests()):
            for site, reply in self._carrier.exchange(requests, math.inf):
                machine.receive(site, reply)
            machine.close_stage()


class _Blind:
    """What encrypted sums need beside the rest: workers, and the epoch's key id."""

    def __init__(self, constants: SumConstants) -> None:
        self._plan = chunk_plan(constants)
        self._site, self.kind = blind_site(constants.protection), blind_sum(constants.protection)
        limits = limits_for(self._plan)
        self._workers, self._adder, self._key_id = SiteWorkers(limits), Worker(limits), b""

    def site(self, **given: Any) -> SiteProtocol:  # Any: exactly SiteProtocol's arguments
        return self._site(workers=self._workers, **given)

    def open(self, opening: EpochOpening, terms: SumTerms, drive: Drive) -> CoordinatorEpoch:
        blind = BlindEpochOpening(opening, terms)
        drive(blind)
        self._key_id = blind.outcome().key_id
        return blind.outcome().epoch

    def empty_sum(self) -> EncryptedSum:
        return EncryptedSum(self._plan, self._key_id, self._adder)

    def close(self) -> None:
        self._workers.close()
        self._adder.close()


def _now() -> float:
    return _NOW_S
