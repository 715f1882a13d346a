"""Terms, keys, register and host for a measured sum: everything around the protocol, as small as it can be.

The register keeps its rows in memory: how fast a disk syncs is not what these benchmarks are about. The host
quantises before a round; turning integers into ring words with lanes is part of what is measured.
"""

from __future__ import annotations

import os

# Before NumPy is loaded: one thread, so that CPU seconds of two implementations can be compared.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hashlib
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from secure_frl.degrees import fraction_of, neighbours_and_threshold
from secure_frl.encoding.lanes import to_ring_vector
from secure_frl.encoding.quantise import quantise
from secure_frl.encoding.ring import width_for
from secure_frl.errors import AlreadyAnswered, CharterRefused
from secure_frl.masking.contexts import session_id
from secure_frl.randomness import system_source
from secure_frl.secure_sum import Block, RingVector, RoundContext, Sum, SumConstants, SumTerms

STAGES = ("R1", "R2", "R3b", "R4", "closed")
BOUND = 1 << 20  # B of a site: 27 bits of a word are in use at n = 64


def silo_constants(n: int, length: int) -> SumConstants:
    """Return the constants of a complete graph: t = floor(2n/3) + 1 and the greatest c it allows.

    Source: docs/protocol.md, section 3.
    """
    threshold = 2 * n // 3 + 1
    colluders = min(2 * threshold - n - 1, threshold - 2)
    return _constants(n, length, threshold, colluders, max(3, threshold), "cross_silo", n - 1)


def circulant_constants(n: int, length: int) -> SumConstants:
    """Return the constants of a sparse graph: one site in ten corrupt, one in ten lost, privacy failure 2^-40.

    Source: docs/protocol.md, section 10: k = 48 and t = 27 at n = 1,000.
    """
    corrupt, lost = fraction_of(n, 0.1), fraction_of(n, 0.1)
    found = neighbours_and_threshold(n, corrupt, lost, 40)
    if found is None:
        raise CharterRefused(f"expected a degree that protects {n} sites, got none. Take more sites.")
    return _constants(n, length, found[1], corrupt, n - lost, "cross_device", found[0])


def _constants(
    n: int, length: int, threshold: int, colluders: int, min_survivors: int, profile: str, neighbours: int
) -> SumConstants:
    return SumConstants(
        sites=n,
        threshold=threshold,
        max_colluders=colluders,
        min_survivors=min_survivors,
        honest_shares=min_survivors - colluders,
        profile=profile,
        neighbours=neighbours,
        protection="masking",
        length=length,
        modulus_bits=width_for(sites=n, bound=BOUND, noise_bound=0, weight=1),
        scale=2.0**16,
        bound=BOUND,
        noise_bound=0,
        blocks=(Block("policy", 0, length, 1.0, 1.0),),
        noise="unsafe-none",
        noise_multiplier=0.0,
        integer_noise_scale=0,
    )


@dataclass(frozen=True)
class Keys:
    """The identity keys of a consortium that exists for one benchmark."""

    sites: tuple[Ed25519PrivateKey, ...] = field(repr=False)
    coordinator: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def draw(cls, n: int) -> Keys:
        """Return fresh keys of `n` sites and a coordinator."""
        return cls(tuple(Ed25519PrivateKey.generate() for _ in range(n)), Ed25519PrivateKey.generate())

    def terms(self, constants: SumConstants) -> SumTerms:
        """Return the terms that all of them signed."""
        return SumTerms(
            session=session_id(b"benchmark"),
            constants=constants,
            site_public_keys=tuple(key.public_key().public_bytes_raw() for key in self.sites),
            coordinator_public_key=self.coordinator.public_key().public_bytes_raw(),
            roster_hash=hashlib.sha256(b"benchmark").digest(),
            epoch_rounds=64,
        )


def any_public_key() -> bytes:
    """Return what an X25519 public key looks like, of a party whose secret nobody needs: 255 random bits."""
    drawn = os.urandom(32)
    return drawn[:-1] + bytes([drawn[-1] & 0x7F])


class MemoryRegister:
    """A register that keeps the protocol's order and forgets everything at the end of the process."""

    def __init__(self) -> None:
        self._epoch = 0
        self._last: tuple[int, int, str] | None = None

    def last_epoch(self) -> int:
        """Return the last epoch joined."""
        return self._epoch

    def note_epoch(self, epoch: int) -> None:
        """Note an epoch. Raises AlreadyAnswered unless it is newer."""
        if epoch <= self._epoch:
            raise AlreadyAnswered(f"expected an epoch after {self._epoch}, got {epoch}. Open a newer one.")
        self._epoch = epoch

    def last_stage(self) -> tuple[int, int, str] | None:
        """Return the last answer's place."""
        return self._last

    def record(self, round_number: int, attempt: int, stage: str, digest: bytes) -> None:
        """Note an answer. Raises AlreadyAnswered unless it is newer."""
        last = self._last
        if last is not None and (round_number, attempt, STAGES.index(stage)) <= (*last[:2], STAGES.index(last[2])):
            raise AlreadyAnswered(f"expected a stage after {last}, got {stage}. Go on with the next round.")
        self._last = (round_number, attempt, stage)


class QuantisingHost:
    """Quantises the same clipped sum before each round and follows whatever sum comes out."""

    def __init__(self, constants: SumConstants, policy_tag: bytes, seed: int) -> None:
        """policy_tag: 32 bytes; the policy never changes here."""
        self._constants, self._tag, self._random = constants, policy_tag, system_source()
        vector = np.random.default_rng(seed).standard_normal(constants.length)
        self.vector: NDArray[np.float64] = vector * (0.9 * BOUND / constants.scale / float(np.linalg.norm(vector)))
        self.prepare()

    def prepare(self) -> None:
        """Quantise, outside of what is measured as masking."""
        self.integers = quantise(self.vector, self._constants.scale, self._constants.bound, self._random).integers

    def policy_tag(self, announced_tag: bytes, model: bytes | None) -> bytes:
        """Return the one tag there is."""
        return self._tag

    def contribute(self, context: RoundContext) -> RingVector:
        """Return lanes and integers as ring words: measured."""
        return to_ring_vector(self.integers, self._constants)

    def release(self) -> None:
        """Spend nothing: the ledger's disk is not measured."""

    def next_tag(self, total: Sum) -> bytes:
        """Return the one tag there is."""
        return self._tag

    def close(self, outcome: str) -> None:
        """Nothing is open."""
