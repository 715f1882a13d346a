"""Interfaces between the rooms: types only, numpy only.

Stage types are made by validating constructors in their own rooms; here stand the types of the secure sum, the budget
that books and accountant share, and the protocols through which rooms that may not import each other meet. No input or
output, no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NewType, Protocol

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter

SiteId = NewType("SiteId", int)  # position 0..N-1 in the charter's roster
COORDINATOR_ID = 2**64 - 1
Words = NDArray[np.uint32 | np.uint64]  # of one type in a sum: uint32 up to 32 bits, uint64 up to 64
Addressed = tuple[SiteId, bytes]

# Blocks of a message that books and training know by their names.
CLIP_QUANTILE = "clip_quantile"  # figures of one number a unit that travel in blocks of their own, behind gradients
MEAN_RETURN = "mean_return"
AUXILIARY_BLOCKS = (CLIP_QUANTILE, MEAN_RETURN)  # in the order of the message
PAIR_COUNTS = "pair_counts"  # of fitted value iteration: only the value start fills them
RETURNS = "returns"
VALUE_START_BLOCKS = (PAIR_COUNTS, RETURNS)


class RandomSource(Protocol):
    """Where secrets, masks, dither and privacy noise come from: the operating system, or a rehearsal's seed."""

    is_rehearsal: bool

    def take(self, count: int) -> bytes:
        """Return `count` uniform bytes."""
        ...

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return `count` uniform 64-bit words."""
        ...


# --- what a charter fixes for the sum --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of the message with its own bound, for instance policy and critic."""

    name: str
    start: int
    stop: int
    clip_norm: float  # L2, > 0
    # The square of the block's weight. In a charter above 0, and all of them add to 1; in one round of a study whose
    # rounds fill different blocks they may add to less, and a block with 0 holds noise only.
    noise_share: float


@dataclass(frozen=True, slots=True)
class SumConstants:
    """Every number of a secure sum, from the charter only: none is ever read from a message, none shrinks."""

    sites: int  # n: all sites in cross_silo, the size of every cohort in cross_device
    threshold: int  # t
    max_colluders: int  # c
    min_survivors: int
    honest_shares: int  # h = min_survivors - c
    profile: str  # cross_silo | cross_device
    neighbours: int  # k: n - 1 in cross_silo
    protection: str  # masking | ckks | ckks+masking | unsafe-plain
    length: int  # P, values without lanes (D in the protocol)
    modulus_bits: int  # w <= 64: words are uint32 up to 32, uint64 beyond
    scale: float  # kappa under differential privacy
    bound: int  # B: each value of one site is in [-B, B] before noise
    noise_bound: int  # tau: the summed noise is inside it except with probability 2^-40 a round; 0 without noise
    blocks: tuple[Block, ...]
    noise: str  # distributed | local | unsafe-none
    noise_multiplier: float  # sigma; 0 without noise
    integer_noise_scale: int  # S: deviation of one site's share on the grid; 0 without noise
    weight: int = 1  # the weight lane; constant under differential privacy


@dataclass(frozen=True, slots=True)
class SumTerms:
    """The constants of a sum with the parties who signed them."""

    session: bytes  # H("session", charter bytes): nobody chooses it
    constants: SumConstants
    site_public_keys: tuple[bytes, ...]  # Ed25519, raw, by SiteId; n of them, or more in cross_device
    coordinator_public_key: bytes  # Ed25519, raw
    roster_hash: bytes
    epoch_rounds: int  # rounds in an epoch, <= 64
    site_expiries_s: tuple[float, ...] = ()  # Unix seconds at which each enrolment ends, by SiteId; (): none ends


@dataclass(frozen=True, slots=True)
class RoundContext:
    """The same at every honest party; its fields enter every key."""

    session: bytes
    epoch_hash: bytes
    config_hash: bytes
    epoch: int
    round: int  # from 1
    attempt: int  # from 0
    policy_tag: bytes  # computed by each site itself
    cohort: tuple[SiteId, ...]  # ascending


# --- what may be spent -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent on people: of a data set ever, or in one study. epsilon = infinity: reference runs."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and 0 < self.delta < 1):
            raise InvalidParameter(
                f"expected epsilon > 0 and delta in (0, 1), got epsilon={self.epsilon}, delta={self.delta}. "
                "Set privacy.target_epsilon and privacy.delta; a data set's budget for life before its first study."
            )


# --- what flows ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RingVector:
    """Lanes and P values modulo 2**modulus_bits; value = centred(word) / scale."""

    words: Words  # [P + 4]
    modulus_bits: int
    scale: float


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum that this party knows: centred, lanes checked and removed."""

    integers: NDArray[np.int64]  # [P]
    scale: float
    contributors: tuple[SiteId, ...]  # ascending


@dataclass(frozen=True, slots=True)
class BlindSum:
    """A sum that is complete but unreadable for this party: the coordinator's outcome where sums are encrypted."""

    digest: bytes  # SHA-256 of what was published
    contributors: tuple[SiteId, ...]  # ascending


# --- who does what ---------------------------------------------------------------------------------------------------


class SumCipher(Protocol):
    """An epoch's encryption at a site: it holds the key that every site of the epoch has."""

    @property
    def key_id(self) -> bytes:
        """Return the key's id, 32 bytes, not secret."""
        ...

    def encrypt(self, words: Words) -> bytes:
        """Return the ciphertexts of a ring vector [P + 4]; two of one vector differ."""
        ...

    def open_sum(self, body: bytes | memoryview, contributors: int) -> Words:
        """Return the sum of so many vectors modulo 2^w. Raises DecryptionFailed for anything else."""
        ...


class CipherSum(Protocol):
    """The coordinator's running sum of ciphertexts, which it cannot read."""

    @property
    def key_id(self) -> bytes:
        """Return the id of the epoch's key."""
        ...

    @property
    def body(self) -> bytes:
        """Return the encrypted sum as sites are sent it. Raises UnexpectedState while nobody is in it."""
        ...

    def add(self, site: SiteId, key_id: bytes, body: bytes | memoryview) -> None:
        """Add one site's ciphertexts, or leave the sum as it was. Raises PeerError about this site."""
        ...


class RoundHost(Protocol):
    """What the rest of a site does for its protocol half, one call at each point where data or policy is touched."""

    def policy_tag(self, announced_tag: bytes, model: bytes | None) -> bytes:
        """Return the tag of the policy this site holds, taking `model` when it lacks one. Raises ModelMissing."""
        ...

    def contribute(self, context: RoundContext) -> RingVector:
        """Reserve, sample, clip, quantise, add noise. Raises BudgetExhausted before anything is sampled."""
        ...

    def release(self) -> None:
        """Write and sync the spend: the next bytes that leave are made from data."""
        ...

    def next_tag(self, total: Sum) -> bytes:
        """Run the optimiser on the published sum and return the tag of the policy that follows."""
        ...

    def close(self, outcome: str) -> None:
        """End the round at this site: summed, aborted or unknown. Harmless when no round is open."""
        ...


class BlindHost(RoundHost, Protocol):
    """A site's rest where the coordinator is blind: sites hold policy and secret, and hand the policy to each other."""

    def site_secret(self) -> bytes | None:
        """Return the charter's site secret, 32 bytes, None before the first round."""
        ...

    def offer_secret(self, secret: bytes) -> None:
        """Use a site secret from now on. It is the charter's once a round is announced; until then another may come."""
        ...

    def held_tag(self) -> bytes:
        """Return the keyed tag of the policy that this site holds. The site secret is here by now."""
        ...

    def sealed_policy(self, tag: bytes) -> bytes:
        """Return the policy of this tag, sealed for other sites. Raises ModelMissing when another is held."""
        ...


class StageRegister(Protocol):
    """A site's durable memory of what it has answered, one row a charter; every call that writes is synced."""

    def last_epoch(self) -> int:
        """Return the number of the last epoch joined, 0 before the first."""
        ...

    def note_epoch(self, epoch: int) -> None:
        """Write an epoch down. Raises AlreadyAnswered unless it is greater than the last one."""
        ...

    def last_stage(self) -> tuple[int, int, str] | None:
        """Return (round, attempt, stage) of the last answer, or None."""
        ...

    def record(self, round_number: int, attempt: int, stage: str, digest: bytes) -> None:
        """Write an answer down before it leaves. Raises AlreadyAnswered when it is not newer than the last one."""
        ...


class Carrier(Protocol):
    """Moves bytes; may lose, repeat and reorder. Replies come as they arrive, never as one map of n vectors."""

    def exchange(self, requests: Iterable[Addressed], deadline_s: float) -> Iterator[Addressed]:
        """Deliver each request and yield replies as they come; a silent site yields nothing."""
        ...

    def close(self) -> None:
        """Let go of what was opened."""
        ...


class Site(Protocol):
    """Bytes in, bytes out: answers with a reply or a signed Refusal(code)."""

    def handle(self, request: bytes) -> bytes:
        """Answer one frame."""
        ...
