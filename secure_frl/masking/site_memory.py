"""What a site may know in each state of the protocol, and nothing beyond it.

One dataclass a state. Leaving a state drops its secrets with it: the key pair and seed of an attempt live only in
SharesSent, the shares received only in InputSent and SetConfirmed. Secret fields never reach a repr.
Source: docs/protocol.md, sections 5 ("lives until") and 13.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from secure_frl.masking.graph import Graph
from secure_frl.masking.keys import SECRET_BYTES, Channels, KeyPair, first_words, link_key
from secure_frl.masking.prg import MaskAdder
from secure_frl.secure_sum import (
    COORDINATOR_ID,
    RandomSource,
    RoundContext,
    RoundHost,
    SiteId,
    StageRegister,
    SumCipher,
    SumTerms,
    Words,
)
from secure_frl.wire.envelope import Address
from secure_frl.wire.messages import EpochEntry, MessageType

Shares = Mapping[SiteId, bytes]  # whose secret -> 64 bytes


@dataclass(frozen=True, slots=True, eq=False)
class SiteParty:
    """What a site brings to every state."""

    terms: SumTerms
    me: SiteId
    signing_key: Ed25519PrivateKey = field(repr=False)
    register: StageRegister = field(repr=False)
    random: RandomSource = field(repr=False)
    clock: Callable[[], float] = field(repr=False)
    host: RoundHost = field(repr=False)  # holds data: nothing of it belongs in a repr
    masks: MaskAdder
    config_hash: bytes


@dataclass(frozen=True, slots=True, eq=False)
class EpochView:
    """An epoch that this site has joined."""

    epoch: int
    epoch_hash: bytes
    members: tuple[SiteId, ...]
    points: frozenset[bytes]  # of every c_pk of the epoch, the coordinator's included
    words: NDArray[np.uint64] = field(init=False, repr=False)  # their first words, for long lists
    channels: Channels
    first_round: int
    expiry_s: int
    unchecked: dict[SiteId, EpochEntry]  # peers whose signature is checked when they first become neighbours
    cipher: SumCipher | None = field(default=None, repr=False)  # once the steward's package is here

    def __post_init__(self) -> None:
        keys = np.frombuffer(b"".join(self.points), np.uint8).reshape(-1, SECRET_BYTES)
        object.__setattr__(self, "words", first_words(keys))


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One attempt at one round, from R0 on."""

    view: EpochView
    context: RoundContext
    ctx1: bytes
    fresh_site: bytes
    fresh_coordinator: bytes
    graph: Graph
    near: tuple[SiteId, ...]  # N(i) of this site, ascending

    def address(self, me: SiteId) -> Address:
        """Return the header fields of this site's frames."""
        context = self.context
        return Address(
            context.session, context.epoch, context.round, context.attempt, me, COORDINATOR_ID, self.fresh_site
        )

    def link(self, message_type: MessageType, salt: bytes) -> bytes:
        """Return the key of one frame between this site and the coordinator. salt: ctx1 or ctx2."""
        down = message_type in (MessageType.R5, MessageType.R5C)
        fresh = self.fresh_coordinator if down else self.fresh_site
        return link_key(self.view.channels.key(COORDINATOR_ID), salt, message_type, fresh)


@dataclass(frozen=True, slots=True, eq=False)
class WithoutEpoch:
    """Before the first E0, or after a restart: nothing inside a round can be answered."""


@dataclass(frozen=True, slots=True, eq=False)
class KeysAdvertised:
    """E0 answered."""

    epoch: int
    keys: KeyPair = field(repr=False)
    nonce: bytes = field(repr=False)  # of cross_device, shown in E1; else empty
    nonce_commitment: bytes
    entry_signature: bytes
    coordinator_key: bytes
    first_round: int
    expiry_s: int


@dataclass(frozen=True, slots=True, eq=False)
class NonceShown:
    """E1 answered in cross_device: this list of sites, whatever their nonces turn out to be."""

    advertised: KeysAdvertised
    entries: tuple[EpochEntry, ...]
    unchecked: dict[SiteId, EpochEntry]


@dataclass(frozen=True, slots=True, eq=False)
class EpochOpen:
    """Between rounds."""

    view: EpochView


@dataclass(frozen=True, slots=True, eq=False)
class SharesSent:
    """R1 sent: holds the secrets of the attempt and the vector, which has not left."""

    attempt: Attempt
    keys: KeyPair = field(repr=False)
    seed: bytes = field(repr=False)
    seed_commitment: bytes
    own_share: bytes = field(repr=False)
    words: Words = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class InputSent:
    """R2 or R2C sent: own key, seed and vector are gone; shares of the others are held, none under plain ckks."""

    attempt: Attempt
    ctx2: bytes
    members: NDArray[np.int64] = field(repr=False)  # U2, ascending
    seed_shares: Shares = field(repr=False)
    key_shares: Shares = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class SetConfirmed:
    """R3b sent: this survivor set and no other, for this round."""

    attempt: Attempt
    ctx2: bytes
    survivors: tuple[SiteId, ...]
    survivors_hash: bytes
    survivors_signature: bytes  # the coordinator's, evidence if it named another set elsewhere
    awaited: Mapping[SiteId, bytes] = field(repr=False)  # each neighbour's confirmation of this set, as it must be
    seed_shares: Shares = field(repr=False)
    key_shares: Shares = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class SumAwaited:
    """Survivors confirmed, shares returned or dropped; only R5 is left."""

    attempt: Attempt
    ctx2: bytes
    survivors: tuple[SiteId, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Departed:
    """Left the attempt, with every secret of it dropped; may still learn the sum that others made."""

    attempt: Attempt


AttemptState = SharesSent | InputSent | SetConfirmed | SumAwaited | Departed
SiteState = WithoutEpoch | KeysAdvertised | NonceShown | EpochOpen | AttemptState
Answer = tuple[SiteState, bytes | Exception]  # the next state, with a reply or what is refused


def left(state: SiteState) -> tuple[SiteState, str]:
    """Return the state after an attempt has failed, its secrets dropped, with the outcome to tell the host, or none."""
    if isinstance(state, SharesSent):
        return Departed(state.attempt), "aborted"
    if isinstance(state, InputSent):
        return Departed(state.attempt), "unknown"  # the masked input has left; whether it was summed is not known here
    if isinstance(state, SetConfirmed):
        return SumAwaited(state.attempt, state.ctx2, state.survivors), "unknown"
    return state, ""


def end_attempt(state: SiteState, host: RoundHost) -> None:
    """Tell the host that an attempt ends because something newer begins."""
    if isinstance(state, SharesSent):
        host.close("aborted")
    elif isinstance(state, InputSent | SetConfirmed | SumAwaited):
        host.close("unknown")
