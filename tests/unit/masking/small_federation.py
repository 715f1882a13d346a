"""A small federation in one process: real sites and coordinator, a register and a host that are simple doubles.

The register double persists over a site's restarts, as the real one does on disk. The host double adds what the test
gives it and remembers what it was asked.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secure_frl.degrees import neighbours_and_threshold
from secure_frl.encoding.lanes import to_ring_vector
from secure_frl.errors import AlreadyAnswered, BudgetExhausted, ModelMissing, PeerError
from secure_frl.masking.contexts import model_tag, session_id
from secure_frl.masking.coordinator_memory import AskingConfirmations
from secure_frl.masking.coordinator_requests import requests_of
from secure_frl.masking.coordinator_states import CoordinatorEpoch, EpochOpening, MaskedSum
from secure_frl.masking.refusals import read_refusal
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import Block, RingVector, RoundContext, SiteId, Sum, SumConstants, SumTerms
from secure_frl.wire.envelope import read_header
from secure_frl.wire.messages import MessageType

STAGES = ("R1", "R2", "R3b", "R4", "closed")
SIZES = {3: (3, 1, 3), 5: (4, 2, 4), 10: (6, 1, 8)}  # n -> t, c, min_survivors: the design's table
LEAST, CORRUPT, LOST, EXPONENT = 101, 3, 6, 20  # the smallest cross_device charter, with k and t computed for these


def constants_for(n: int, length: int = 17, **changes: Any) -> SumConstants:
    if n < LEAST:
        (t, c, least), k, profile = SIZES[n], n - 1, "cross_silo"
    else:
        c, least, profile = CORRUPT, n - LOST, "cross_device"
        k, t = neighbours_and_threshold(n, c, LOST, EXPONENT)
    return replace(
        SumConstants(
            sites=n,
            threshold=t,
            max_colluders=c,
            min_survivors=least,
            honest_shares=least - c,
            profile=profile,
            neighbours=k,
            protection="masking",
            length=length,
            modulus_bits=24,
            scale=64.0,
            bound=1000,
            noise_bound=50,
            blocks=(Block("policy", 0, length, 1.0, 1.0),),
            noise="distributed",
            noise_multiplier=1.5,
            integer_noise_scale=1024,
        ),
        **changes,
    )


@dataclass
class Register:
    """Durable memory: survives SiteProtocol objects."""

    epoch: int = 0
    rows: list[tuple[int, int, str]] = field(default_factory=list)
    trail: list[str] = field(default_factory=list)

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
        if self.rows:
            last = self.rows[-1]
            if new <= (last[0], last[1], STAGES.index(last[2])):
                raise AlreadyAnswered("expected a newer stage, got an older one. Go on.")
        self.rows.append((round_number, attempt, stage))
        self.trail.append(f"record {stage}")


@dataclass
class Host:
    """The rest of a site."""

    constants: SumConstants
    values: np.ndarray
    trail: list[str]
    model: bytes = b"first model"
    budget: int = 1000
    failure: Exception | None = None
    closed: list[str] = field(default_factory=list)
    contexts: list[RoundContext] = field(default_factory=list)
    total: Sum | None = None

    def policy_tag(self, announced_tag: bytes, model: bytes | None) -> bytes:
        if model is not None:
            self.model = model
        tag = model_tag(self.model)
        if tag != announced_tag and model is None:
            raise ModelMissing("expected the policy held here, got another tag. Send it.")
        return tag

    def contribute(self, context: RoundContext) -> RingVector:
        self.contexts.append(context)
        if self.failure is not None:
            raise self.failure
        if self.budget == 0:
            raise BudgetExhausted("expected budget, got none. Stop.")
        self.budget -= 1
        return to_ring_vector(self.values, self.constants)

    def release(self) -> None:
        self.trail.append("release")

    def next_tag(self, total: Sum) -> bytes:
        self.total = total
        self.model = next_model(self.model, total)
        return model_tag(self.model)

    def close(self, outcome: str) -> None:
        self.closed.append(outcome)


def next_model(model: bytes, total: Sum) -> bytes:
    """The double's optimiser."""
    return hashlib.sha256(model + total.integers.tobytes()).digest()


class Federation:
    """n sites and a coordinator under one charter. `wire` sees and may change every frame."""

    def __init__(self, n: int, seed: int = 1, charter: bytes = b"charter", enrolled: int = 0, **changes: Any) -> None:
        self.n, self.seed = n, seed
        self.constants = constants_for(n, **changes)
        self.keys = [Ed25519PrivateKey.from_private_bytes(bytes([1 + i]) * 32) for i in range(max(n, enrolled))]
        self.coordinator_key = Ed25519PrivateKey.from_private_bytes(bytes([200]) * 32)
        self.terms = SumTerms(
            session=session_id(charter),
            constants=self.constants,
            site_public_keys=tuple(key.public_key().public_bytes_raw() for key in self.keys),
            coordinator_public_key=self.coordinator_key.public_key().public_bytes_raw(),
            roster_hash=b"\x77" * 32,
            epoch_rounds=64,
        )
        self.now = 1_000_000.0
        generator = np.random.default_rng(seed)
        self.values = generator.integers(-1000, 1001, (len(self.keys), self.constants.length))
        count = len(self.keys)
        self.registers = [Register() for _ in range(count)]
        self.hosts = [self.host(i) for i in range(count)]
        self.logs: list[list[tuple[str, str]]] = [[] for _ in range(count)]
        self.starts = 0
        self.random = rehearsal_source(seed, "coordinator")
        self.sites = [self.start(SiteId(i)) for i in range(count)]
        self.errors: dict[int, list[str]] = {}
        self.frames: list[tuple[str, int, bytes]] = []
        self.wire: Callable[[str, int, bytes], bytes | None] = lambda direction, site, frame: frame

    def start(self, site: SiteId) -> SiteProtocol:
        """A site's process begins, or begins again: register and host stay."""
        self.starts += 1
        random = rehearsal_source(self.seed, "site", str(site), str(self.starts))
        log = self.logs[site]
        return self.machine(
            terms=self.terms,
            me=site,
            signing_key=self.keys[site],
            register=self.registers[site],
            random=random,
            clock=lambda: self.now,
            host=self.hosts[site],
            log=lambda name, text: log.append((name, text)),
        )

    def machine(self, **given: Any) -> SiteProtocol:
        return SiteProtocol(**given)

    def host(self, site: int) -> Host:
        return Host(self.constants, self.values[site], self.registers[site].trail)

    def restart(self, site: int) -> None:
        self.sites[site] = self.start(SiteId(site))

    def exchange(self, machine: Any, lost: Iterable[int] = ()) -> None:
        """One stage without its end: every request delivered, every reply taken."""
        lost = set(lost)
        for site, request in list(machine.requests()):
            request = self.wire("down", site, request)
            if request is None:
                continue
            self.frames.append(("down", site, request))
            reply = self.sites[site].handle(request)
            reply = self.wire("up", site, reply)
            if reply is None or site in lost:
                continue
            self.frames.append(("up", site, reply))
            try:
                machine.receive(site, reply)
            except PeerError as error:
                self.errors.setdefault(site, []).append(type(error).__name__)

    def open(self, epoch: int = 1, first_round: int = 1) -> CoordinatorEpoch:
        opening = EpochOpening(
            self.terms, self.coordinator_key, self.random, lambda: self.now, epoch, first_round, self.now + 3600
        )
        for _ in range(2 if self.n < LEAST else 3):
            self.exchange(opening)
            opening.close_stage()
        return opening.outcome()

    def begin(self, epoch: CoordinatorEpoch, number: int = 1, attempt: int = 0, **changes: Any) -> MaskedSum:
        cohort = changes.get("cohort", epoch.members)
        tag = changes.get("tag", model_tag(self.hosts[0].model))
        models = changes.get("models", {})
        return MaskedSum(self.terms, epoch, number, attempt, cohort, tag, models, self.random)

    def drive(self, machine: MaskedSum, lost: dict[str, Iterable[int]] | None = None) -> Sum:
        """Run a round to its sum. lost: site ids whose reply to a stage (R0, R1p, R3a, R3c) gets lost."""
        lost = lost or {}
        for stage in ("R0", "R1p", "R3a", "R3c"):
            self.exchange(machine, lost.get(stage, ()))
            machine.close_stage()
        return machine.outcome()

    def publish(self, machine: MaskedSum, model: bytes = b"first model") -> None:
        machine.publish(model_tag(next_model(model, machine.outcome())))
        self.exchange(machine)
        machine.close_stage()

    def refusal(self, site: int, request: bytes, reply: bytes) -> str | None:
        """The name in a refusal of this request; None for a real answer."""
        if read_header(reply).type != MessageType.REFUSAL:
            return None
        return read_refusal(reply, self.terms.site_public_keys[site], hashlib.sha256(request).digest())

    def up_to_survivors(self) -> MaskedSum:
        """A round in which all masked inputs are in and R3a has not left."""
        machine = self.begin(self.open())
        for _ in range(2):
            self.exchange(machine)
            machine.close_stage()
        return machine

    def name_survivors(self, state: AskingConfirmations, site: int, survivors: Iterable[int]) -> bytes:
        """R3a to one site over a set of the coordinator's choice, correctly signed and sealed."""
        named = copy.copy(state)
        named.survivors = tuple(survivors)
        return dict(requests_of(named, [SiteId(site)]))[SiteId(site)]

    def plain_sum(self, sites: Iterable[int]) -> np.ndarray:
        return self.values[sorted(sites)].sum(axis=0)
