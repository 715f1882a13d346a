"""Federated training with malicious sites, over the production machines and without books.

Real: rounds of `masking` (keys, shares, masks, ring, range check, tags), roll-outs, each site's own training, clip,
rounding, and the step. Left out: charter, ledgers, registers, captures, restarts, and how sites hear a sum: here the
coordinator's outcome is stepped by the laboratory. What a site sends in a round is what it sends in a rehearsal of the
same study, to the bit.

Every update of a round is made before the first one is sent, so colluders choose with all honest ones in hand.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secure_frl.consortium.identity import Identity
from secure_frl.encoding.lanes import to_ring_vector
from secure_frl.errors import AlreadyAnswered, ModelMissing
from secure_frl.federation.carriers.in_process import InProcessCarrier
from secure_frl.federation.optimisers import initial_state, step
from secure_frl.federation.policy_keepers import Drivable
from secure_frl.federation.simulated_patients import PatientSource
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training import Trainer
from secure_frl.federation.training_state import TrainingState
from secure_frl.learning.trajectories import Trajectories
from secure_frl.masking.contexts import config_hash, model_tag, session_id
from secure_frl.masking.coordinator_states import CoordinatorEpoch, EpochOpening, MaskedSum
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.privacy.planning import sum_constants
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import RingVector, RoundContext, SiteId, Sum, SumConstants, SumTerms
from secure_frl.study import Study
from threat_models.adversaries.byzantine import Seen, within
from threat_models.defences import changed
from threat_models.robust_rules import Rule, check_rows
from threat_models.threat import Vector

_NOW_S, _EPOCH_S = 1_800_000_000.0, 3600.0  # no time passes in here
Formula = Callable[[Seen], Vector]
People = Callable[[int], PatientSource]


@dataclass(frozen=True, slots=True)
class Plot:
    """Who is malicious, and what they send: their honest code's update where `formula` is None."""

    attackers: tuple[int, ...] = ()
    formula: Formula | None = None
    keeps_bound: bool = True  # cut at the clip, as the protocol asks of everybody


@dataclass(frozen=True, slots=True)
class Groups:
    """Sites in groups whose sums a robust rule chooses among. Raises InvalidParameter for too few groups."""

    members: tuple[tuple[int, ...], ...]
    rule: Rule
    bad: int  # malicious sites that the rule counts on

    def __post_init__(self) -> None:
        check_rows(len(self.members), self.bad)


@dataclass(slots=True)
class Trained:
    """What came out of one training."""

    returns: list[float] = field(default_factory=list)  # mean of the honest sites' people, a round
    lengths: list[float] = field(default_factory=list)  # of each round's sum, over the number of sites, in clips


class Seat:
    """The rest of a site around its protocol half."""

    def __init__(self, constants: SumConstants) -> None:
        self._constants = constants
        self.integers = np.zeros(constants.length, dtype=np.int64)  # what it sends in this round
        self.held = b""  # tag of the policy

    def policy_tag(self, announced_tag: bytes, model: bytes | None) -> bytes:
        """Return the tag of the policy that it holds."""
        return self.held

    def contribute(self, context: RoundContext) -> RingVector:
        """Return what was made before the round."""
        return to_ring_vector(self.integers, self._constants)

    def next_tag(self, total: Sum) -> bytes:
        """Return the tag of the policy that it holds: nobody steps it here."""
        return self.held

    def release(self) -> None:
        """Book nothing: nobody is real."""

    def close(self, outcome: str) -> None:
        """Book nothing."""

    def held_tag(self) -> bytes:
        """Return the tag of the policy that it holds."""
        return self.held

    def site_secret(self) -> None:
        """Return None: nothing is encrypted."""

    def offer_secret(self, secret: bytes) -> None:
        """Keep nothing."""

    def sealed_policy(self, tag: bytes) -> bytes:
        """Hand nothing over."""
        raise ModelMissing("expected no request for a policy, got one. Report this.")


class Stages:
    """A stage register in memory."""

    def __init__(self) -> None:
        self._epoch = 0
        self._last: tuple[int, int, str] | None = None

    def last_epoch(self) -> int:
        """Return the last epoch."""
        return self._epoch

    def note_epoch(self, epoch: int) -> None:
        """Note a newer epoch."""
        self._epoch = epoch

    def last_stage(self) -> tuple[int, int, str] | None:
        """Return the last answer."""
        return self._last

    def record(self, round_number: int, attempt: int, stage: str, digest: bytes) -> None:
        """Note an answer. Raises AlreadyAnswered for the same one again."""
        if self._last == (round_number, attempt, stage):
            raise AlreadyAnswered(f"expected a stage that is not answered, got {stage} again. Begin a later round.")
        self._last = (round_number, attempt, stage)


class MaskedSums:
    """Rounds of one set of sites under masking: production machines on both sides."""

    def __init__(self, constants: SumConstants, seed: int, purpose: str) -> None:
        self.seats = [Seat(constants) for _ in range(constants.sites)]
        self._cohort = tuple(map(SiteId, range(constants.sites)))
        keys = [Identity.generate(rehearsal_source(seed, purpose, "key", str(site))) for site in self._cohort]
        coordinator = Identity.generate(rehearsal_source(seed, purpose, "key", "coordinator"))
        self._random = rehearsal_source(seed, purpose, "coordinator")
        self._terms = SumTerms(
            session=session_id(purpose.encode() + config_hash(constants)),
            constants=constants,
            site_public_keys=tuple(key.public_key for key in keys),
            coordinator_public_key=coordinator.public_key,
            roster_hash=hashlib.sha256(purpose.encode()).digest(),
            epoch_rounds=64,
        )
        machines = {
            site: SiteProtocol(
                terms=self._terms,
                me=site,
                signing_key=keys[site].private_key,
                register=Stages(),
                random=rehearsal_source(seed, purpose, "site", str(site)),
                clock=_now,
                host=self.seats[site],
            )
            for site in self._cohort
        }
        self._carrier = InProcessCarrier(machines)
        opening = EpochOpening(
            self._terms, coordinator.private_key, self._random, _now, epoch=1, first_round=1, expiry_s=_now() + _EPOCH_S
        )
        self._drive(opening)
        self._epoch: CoordinatorEpoch = opening.outcome()

    def sum(self, number: int, tag: bytes) -> tuple[Sum, MaskedSum]:
        """Return a round's sum, and its machine. Raises RoundAborted, SumOutOfRange among others."""
        for seat in self.seats:
            seat.held = tag
        machine = MaskedSum(self._terms, self._epoch, number, 0, self._cohort, tag, {}, self._random)
        self._drive(machine)
        return machine.outcome(), machine

    def publish(self, machine: MaskedSum, tag: bytes) -> None:
        """Tell every site the sum and the policy that follows."""
        machine.publish(tag)
        self._drive(machine)

    def _drive(self, machine: Drivable) -> None:
        while requests := list(machine.requests()):
            for site, reply in self._carrier.exchange(requests, math.inf):
                machine.receive(site, reply)
            machine.close_stage()


class Federation:
    """The sites of one study that train together, some of them malicious."""

    def __init__(self, study: Study, people: People, plot: Plot, groups: Groups | None = None) -> None:
        """people: whom each site meets. groups: None for one masked sum of all and its mean."""
        self._study, self._plot, self._groups = study, plot, groups
        self._constants = sum_constants(study)
        self._rule = optimiser_rule(study, self._constants)
        self._sites = range(study.sites.count)
        self._people = [people(site) for site in self._sites]
        self._trainers = [Trainer(study, self._constants, SiteId(site)) for site in self._sites]
        names = [f"site-{site + 1:02d}" for site in self._sites]
        self._random = [rehearsal_source(study.study.seed, name) for name in names]  # of a rehearsal's sites
        self._state = initial_state(self._rule)
        self._last = np.zeros(self._constants.length)  # what the robust rule said in the round before
        self.people: dict[int, Trajectories] = {}  # of the last round
        self.sent: dict[int, NDArray[np.int64]] = {}  # the same

    def train(self, rounds: int) -> Trained:
        """Run rounds. Raises RoundAborted where malicious sites end one."""
        found = Trained()
        for number in range(1, rounds + 1):
            total = self.train_round(number)
            honest = [people for site, people in self.people.items() if site not in self._plot.attackers]
            returns = [np.where(one.steps, one.rewards, 0).sum(axis=1).mean() for one in honest]
            found.returns.append(float(np.mean(returns)))
            found.lengths.append(float(np.linalg.norm(total.integers)) / total.scale / len(self._sites))
        return found

    def train_round(self, number: int) -> Sum:
        """Run one round and return the sum that the policy was stepped by. Raises as `train`."""
        self._prepare(number)
        total = self._one_sum(number) if self._groups is None else self._grouped(number, self._groups)
        self._state = step(self._state, total, self._rule)
        return total

    def acts(self, observations: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return what the last policy does at some observations, int64 [n]. observations: float32 [n, D]."""
        acting, count = self._trainers[0].acting(self._state), len(observations)
        acting.begin(count)
        uniform = np.random.default_rng(self._study.study.seed).random(count)
        return acting.act(np.arange(count), observations, uniform)[0]

    def _prepare(self, number: int) -> None:
        """Let every site make its update; then the malicious ones choose."""
        context, acting = self._context(number), self._trainers[0].acting(self._state)
        for site in self._sites:
            people = self._people[site].collect(acting, context)
            everybody = np.ones(people.count, dtype=np.bool_)
            update = self._trainers[site].update(self._state, people, everybody, self._random[site], 0)
            self.people[site], self.sent[site] = people, update.integers
        formula, scale = self._plot.formula, self._constants.scale
        if formula is None:
            return
        honest = np.array([self.sent[site] for site in self._sites if site not in self._plot.attackers]) / scale
        for site in self._plot.attackers:
            rng = np.random.default_rng([self._study.study.seed, number, site])
            vector = formula(Seen(honest, self.sent[site] / scale, rng))
            kept = within(vector, 1.0) if self._plot.keeps_bound else vector  # 1: the clip, in units of the message
            self.sent[site] = np.rint(kept * scale).astype(np.int64)

    def _one_sum(self, number: int) -> Sum:
        for site, seat in enumerate(self._masked.seats):
            seat.integers = self.sent[site]
        return self._masked.sum(number, self._tag(self._state))[0]

    def _grouped(self, number: int, groups: Groups) -> Sum:
        """Return what a robust rule makes of the groups' masked sums, as if it were a sum of all sites."""
        rows, scale, tag = [], self._constants.scale, self._tag(self._state)
        for members, masked in zip(groups.members, self._group_sums, strict=True):
            for site, seat in zip(members, masked.seats, strict=True):
                seat.integers = self.sent[site]
            total, _ = masked.sum(number, tag)
            rows.append(total.integers / scale / len(members))
        self._last = groups.rule(np.array(rows), groups.bad, self._last)
        count = len(self._sites)
        return Sum(np.rint(self._last * scale * count).astype(np.int64), scale, tuple(map(SiteId, self._sites)))

    @cached_property
    def _masked(self) -> MaskedSums:
        return MaskedSums(self._constants, self._study.study.seed, "all")

    @cached_property
    def _group_sums(self) -> list[MaskedSums]:
        assert self._groups is not None
        seed = self._study.study.seed
        sizes = [len(members) for members in self._groups.members]
        return [
            MaskedSums(sum_constants(study_of_group(self._study, size)), seed, f"{n}") for n, size in enumerate(sizes)
        ]

    @staticmethod
    def _tag(state: TrainingState) -> bytes:
        return model_tag(state.to_bytes())

    def _context(self, number: int) -> RoundContext:
        """Return what a source of people asks of a context: round and attempt."""
        cohort = tuple(map(SiteId, self._sites))
        return RoundContext(b"", b"", b"", 1, number, 0, b"", cohort)


def study_of_group(study: Study, size: int) -> Study:
    """Return the study of a group's own sum: everybody of it must be there, and one may collude."""
    own = {"sites.count": size, "sites.min_survivors": size, "sites.max_colluders": 1, "protection.threshold": 0}
    found: Study = changed(study, own)
    return found


def groups_of(sites: Sequence[int], size: int) -> tuple[tuple[int, ...], ...]:
    """Return the sites in groups of a size, in the order given."""
    return tuple(tuple(sites[start : start + size]) for start in range(0, len(sites), size))


def _now() -> float:
    return _NOW_S
