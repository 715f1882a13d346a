"""One small federation for the fault campaigns: real sites and coordinator, doubles for register, host and clock.

A world is cheap: keys and an opened first epoch are made once for each set of constants and shared by all its worlds.
The random bytes of a world come from its seed, so a schedule is repeated by its seed alone. Nothing here injects
faults; fault_deliveries.py does.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secure_frl.encoding.lanes import to_ring_vector
from secure_frl.errors import AlreadyAnswered, ModelMissing
from secure_frl.masking import contexts
from secure_frl.masking.contexts import model_tag, session_id
from secure_frl.masking.coordinator_states import CoordinatorEpoch, EpochOpening, MaskedSum
from secure_frl.masking.keys import Channels
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.secure_sum import Block, RingVector, RoundContext, SiteId, Sum, SumConstants, SumTerms
from secure_frl.wire import registry, signatures

STAGES = ("R1", "R2", "R3b", "R4", "closed")
FIRST_MODEL = b"first model"
NOW = 1_000_000.0
BOUND = 100
ENROLMENT_S = NOW + 5.0  # until then, for a site whose enrolment ends during a schedule
FEW_DEVICES = -1  # in place of an index into thresholds(n): cross_device


class SeededBytes:
    """Repeatable random bytes, quick to make: one generator a party and world."""

    is_rehearsal = True

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def take(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def words(self, count: int) -> np.ndarray:
        return np.frombuffer(self._random.randbytes(8 * count), "<u8").astype(np.uint64)


@dataclass
class Register:
    """Durable memory: survives SiteProtocol objects. Refuses a row that is not newer, as the one on disk does."""

    epoch: int = 0
    rows: list[tuple[int, int, str]] = field(default_factory=list)

    def last_epoch(self) -> int:
        return self.epoch

    def note_epoch(self, epoch: int) -> None:
        if epoch <= self.epoch:
            raise AlreadyAnswered("expected a newer epoch, got an older one. Open another.")
        self.epoch = epoch

    def last_stage(self) -> tuple[int, int, str] | None:
        return self.rows[-1] if self.rows else None

    def record(self, round_number: int, attempt: int, stage: str, digest: bytes) -> None:
        assert len(digest) == 32
        new = (round_number, attempt, STAGES.index(stage))
        if self.rows and new <= (*self.rows[-1][:2], STAGES.index(self.rows[-1][2])):
            raise AlreadyAnswered("expected a newer stage, got an older one. Go on.")
        self.rows.append((round_number, attempt, stage))


@dataclass
class Host:
    """The rest of a site: fixed values, a chain of models, and a memory of what it was told."""

    constants: SumConstants
    values: np.ndarray
    model: bytes = FIRST_MODEL
    outcomes: list[str] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)
    released: int = 0
    failure: Exception | str | None = None  # what is raised; or "short", "wide": a vector that is not the charter's

    def policy_tag(self, announced_tag: bytes, model: bytes | None) -> bytes:
        if model is not None:
            self.model = model
        tag = model_tag(self.model)
        if tag != announced_tag and model is None:
            raise ModelMissing("expected the policy held here, got another tag. Send it.")
        return tag

    def contribute(self, context: RoundContext) -> RingVector:
        self.asked.append((context.round, context.attempt))
        if isinstance(self.failure, Exception):
            raise self.failure
        vector = to_ring_vector(self.values, self.constants)
        if self.failure == "short":
            return replace(vector, words=vector.words[:-1])
        if self.failure == "wide":
            return replace(vector, modulus_bits=vector.modulus_bits + 1)
        return vector

    def release(self) -> None:
        self.released += 1

    def next_tag(self, total: Sum) -> bytes:
        self.model = next_model(self.model, total)
        return model_tag(self.model)

    def close(self, outcome: str) -> None:
        self.outcomes.append(outcome)


def next_model(model: bytes, total: Sum) -> bytes:
    """The double's optimiser."""
    return hashlib.sha256(model + total.integers.tobytes()).digest()


# --- charters --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Charter:
    """Terms with everybody's keys, and a first epoch that every world of these terms begins with."""

    terms: SumTerms
    site_keys: tuple[Ed25519PrivateKey, ...]
    coordinator_key: Ed25519PrivateKey

    @property
    def constants(self) -> SumConstants:
        return self.terms.constants

    @property
    def opening_stages(self) -> tuple[str, ...]:
        return ("E0", "E1", "E2") if self.constants.profile == "cross_device" else ("E0", "E1")


def thresholds(n: int) -> list[tuple[int, int, int]]:
    """Every (t, c, min_survivors) that a charter of n sites may have, written from section 2."""
    return [
        (t, c, least)
        for c in range(1, n)
        for t in range(c + 1, n + 1)
        for least in range(max(3, t), n + 1)
        if 2 * t > n + c and least - c >= 2
    ]


@cache
def charter_of(n: int, thresholds_index: int, bits: int, length: int, name: bytes = b"charter") -> Charter:
    """Return terms: the index picks one of thresholds(n); from 101 on it is cross_device, for eleven lost sites.

    FEW_DEVICES: cross_device of fewer, for two lost sites; only inside `small_graphs`.
    """
    neighbours, profile = n - 1, "cross_silo"
    if thresholds_index == FEW_DEVICES:
        neighbours, profile, t, c, least = 4, "cross_device", 3, 2, n - 2
    elif n < 101:
        options = thresholds(n)
        t, c, least = options[thresholds_index % len(options)]
    else:
        neighbours, profile, t, c, least = 14, "cross_device", 8, 3, n - 11
    constants = SumConstants(
        sites=n,
        threshold=t,
        max_colluders=c,
        min_survivors=least,
        honest_shares=least - c,
        profile=profile,
        neighbours=neighbours,
        protection="masking",
        length=length,
        modulus_bits=bits,
        scale=64.0,
        bound=BOUND,
        noise_bound=50,
        blocks=(Block("policy", 0, length, 1.0, 1.0),),
        noise="local" if bits == 16 else "distributed",
        noise_multiplier=1.5,
        integer_noise_scale=1024,
    )
    keys = tuple(Ed25519PrivateKey.from_private_bytes(bytes([1 + i]) * 32) for i in range(n))
    coordinator_key = Ed25519PrivateKey.from_private_bytes(b"\xc8" * 32)
    terms = SumTerms(
        session=session_id(name),
        constants=constants,
        site_public_keys=tuple(key.public_key().public_bytes_raw() for key in keys),
        coordinator_public_key=coordinator_key.public_key().public_bytes_raw(),
        roster_hash=b"\x77" * 32,
        epoch_rounds=64,
    )
    return Charter(terms, keys, coordinator_key)


@cache
def _opened(charter: Charter) -> tuple[CoordinatorEpoch, tuple[SiteProtocol, ...], tuple[bytes, ...]]:
    """Epoch 1 of a charter, opened once over real frames; with the frames."""
    world = World(charter, 0, template=False)
    frames: list[bytes] = []
    opening = world.opening(1, 1)
    for _ in charter.opening_stages:
        for site, request in list(opening.requests()):
            reply = world.sites[site].handle(request)
            frames += [request, reply]
            opening.receive(site, reply)
        opening.close_stage()
    return opening.outcome(), tuple(world.sites), tuple(frames)


class World:
    """n sites and a coordinator under one charter, in epoch 1 unless `template` is False."""

    def __init__(self, charter: Charter, seed: int, template: bool = True) -> None:
        self.charter, self.terms, self.seed, self.now = charter, charter.terms, seed, NOW
        n = charter.constants.sites
        values = np.random.default_rng(seed).integers(-BOUND, BOUND + 1, (n, charter.constants.length))
        self.hosts = [Host(charter.constants, values[i]) for i in range(n)]
        self.registers = [Register() for _ in range(n)]
        self.logs: list[list[tuple[str, str]]] = [[] for _ in range(n)]
        self.random: Any = SeededBytes(seed)
        self.epoch: CoordinatorEpoch | None = None
        self.starts = 0
        self.frames: list[bytes] = []
        if template:
            epoch, sites, frames = _opened(charter)
            self.epoch = replace(epoch, channels=_copy(epoch.channels))
            self.sites = [self._joined(SiteId(i), sites[i]) for i in range(n)]
            self.frames = list(frames)
        else:
            self.sites = [self.start(SiteId(i)) for i in range(n)]

    def start(self, site: SiteId) -> SiteProtocol:
        """A site's process begins, or begins again: register and host stay."""
        self.starts += 1
        return SiteProtocol(
            self.terms,
            site,
            self.charter.site_keys[site],
            self.registers[site],
            SeededBytes(hash((self.seed, site, self.starts))),
            self.clock,
            self.hosts[site],
            log=self._log(site),
        )

    def _joined(self, site: SiteId, like: SiteProtocol) -> SiteProtocol:
        """A site that has joined epoch 1: the shared one's state, with registers, host and randomness of this world."""
        self.starts += 1
        protocol = copy.copy(like)
        random = SeededBytes(hash((self.seed, site, self.starts)))
        protocol._party = replace(
            like._party, register=self.registers[site], host=self.hosts[site], random=random, clock=self.clock
        )
        view = like._state.view  # type: ignore[union-attr]
        protocol._state = replace(like._state, view=replace(view, channels=_copy(view.channels)))
        protocol._sent = dict(like._sent)
        protocol._log = self._log(site)
        self.registers[site].epoch = 1
        return protocol

    def _log(self, site: int) -> Callable[[str, str], None]:
        log = self.logs[site]
        return lambda name, text: log.append((name, text))

    def clock(self) -> float:
        return self.now

    def end_enrolment(self, site: int) -> None:
        """Let the roster that everybody reads name ENROLMENT_S as the end of one site's enrolment."""
        ends = list(self.terms.site_expiries_s or [NOW + 1e9] * len(self.sites))
        ends[site] = ENROLMENT_S
        self.terms = replace(self.terms, site_expiries_s=tuple(ends))
        for protocol in self.sites:
            protocol._party = replace(protocol._party, terms=self.terms)

    @property
    def ended(self) -> set[int]:
        """The sites whose enrolment is over."""
        return {site for site, end in enumerate(self.terms.site_expiries_s) if self.now >= end}

    def restart(self, site: int) -> None:
        self.sites[site] = self.start(SiteId(site))

    def opening(self, epoch: int, first_round: int) -> EpochOpening:
        return EpochOpening(
            self.terms,
            self.charter.coordinator_key,
            self.random,
            self.clock,
            epoch,
            first_round,
            self.now + 3600,
        )

    def attempt(
        self, number: int, attempt: int, cohort: tuple[SiteId, ...], model: bytes, lacking: dict[SiteId, bytes | None]
    ) -> MaskedSum:
        assert self.epoch is not None
        tag = model_tag(model)
        return MaskedSum(self.terms, self.epoch, number, attempt, cohort, tag, lacking, self.random)


def _copy(channels: Channels) -> Channels:
    return Channels(channels.epoch_hash, channels.at_round, dict(channels._keys))


@contextmanager
def small_graphs() -> Iterator[None]:
    """Let a charter of eleven sites be one of cross_device, so that many schedules of it can be run.

    What its numbers promise against colluders is not asked of a schedule; who may answer what, and when, does not
    depend on them. The schedules of 101 sites run under the charter's own rules.
    """
    rules, most_in_silo = contexts._profile_rules, registry._MOST_IN_SILO
    contexts._profile_rules = lambda it: {} if 10 < it.sites < 101 and it.profile == "cross_device" else rules(it)
    registry._MOST_IN_SILO = 10  # from which number of sites on a message has room for nonces
    try:
        yield
    finally:
        contexts._profile_rules, registry._MOST_IN_SILO = rules, most_in_silo


# --- speed: the same answers sooner ----------------------------------------------------------------------------------


class _RememberingKey:
    """Ed25519 verification with a memory: the answer to the same question is the same."""

    answers: dict[tuple[bytes, bytes, bytes], Exception | None] = {}  # noqa: RUF012

    def __init__(self, raw: bytes) -> None:
        self._raw, self._key = raw, Ed25519PublicKey.from_public_bytes(raw)

    @classmethod
    def from_public_bytes(cls, raw: bytes) -> _RememberingKey:
        return cls(raw)

    def verify(self, signature: bytes, data: bytes) -> None:
        question = (self._raw, bytes(signature), hashlib.sha256(data).digest())
        if question not in self.answers:
            if len(self.answers) > 1_000:  # small, so that its growth is not taken for a message's memory
                self.answers.clear()
            try:
                self._key.verify(signature, data)
                self.answers[question] = None
            except Exception as error:
                self.answers[question] = error
        answer = self.answers[question]
        if answer is not None:
            raise answer


@contextmanager
def remembered_signatures() -> Iterator[None]:
    """Verify each distinct signature once: n sites check the same R3a and R5."""
    genuine = signatures.Ed25519PublicKey
    signatures.Ed25519PublicKey = _RememberingKey  # type: ignore[misc]
    try:
        yield
    finally:
        signatures.Ed25519PublicKey = genuine  # type: ignore[misc]
