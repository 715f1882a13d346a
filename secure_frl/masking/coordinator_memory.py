"""What the coordinator may know in each stage of one attempt.

It never holds two inputs: replies are added into one accumulator as they come. What it could do with more is bounded
by the sites, not by this file; this file is what an honest one needs.
Source: docs/protocol.md, sections 11 and 12.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secure_frl.masking.coordinator_epoch import CoordinatorEpoch
from secure_frl.masking.graph import Graph
from secure_frl.masking.keys import link_key
from secure_frl.masking.neighbourhoods import Neighbourhoods, PairTable
from secure_frl.masking.prg import MaskAdder
from secure_frl.secure_sum import COORDINATOR_ID, BlindSum, CipherSum, RoundContext, SiteId, Sum, SumTerms, Words
from secure_frl.wire.envelope import TAG_BYTES, Address, Header, cut, seal_frame, unseal_frame
from secure_frl.wire.messages import Body, MessageType, encode_body


@dataclass(frozen=True, slots=True)
class MemberKeys:
    """What one sender of R1 has made known; what it dealt is in the table of dealt shares."""

    public_key: bytes  # s_pk
    seed_commitment: bytes  # H_b
    own_commitment: bytes  # h of its own share of its seed


@dataclass(frozen=True, slots=True, eq=False)
class AttemptView:
    """One attempt as its coordinator sees it, the same through all stages."""

    terms: SumTerms
    epoch: CoordinatorEpoch
    context: RoundContext
    graph: Graph
    near: Neighbourhoods
    ctx1: bytes
    fresh: bytes
    masks: MaskAdder
    models: Mapping[SiteId, bytes | None] = field(repr=False)
    fresh_of: dict[SiteId, bytes]  # fresh_i, known from a site's first frame
    encrypted: CipherSum | None = None  # where inputs are ciphertexts

    def address(self, site: SiteId, fresh: bytes) -> Address:
        """Return the header fields of a request."""
        context = self.context
        return Address(context.session, context.epoch, context.round, context.attempt, COORDINATOR_ID, site, fresh)

    def link(self, site: SiteId, message_type: MessageType, salt: bytes, fresh: bytes) -> bytes:
        """Return the key of one frame between a site and the coordinator."""
        return link_key(self.epoch.channels.key(site), salt, message_type, fresh)

    def seal(
        self, site: SiteId, message_type: MessageType, salt: bytes, body: Body, clear: bytes = b"", digest: bytes = b""
    ) -> bytes:
        """Return a sealed request under the site's fresh bytes. clear, digest: what follows, and its hash."""
        return self.seal_encoded(site, message_type, salt, encode_body(body), clear, digest)

    def seal_encoded(
        self, site: SiteId, message_type: MessageType, salt: bytes, body: bytes, clear: bytes = b"", digest: bytes = b""
    ) -> bytes:
        """Return a sealed request whose body is encoded already, for bodies that many sites get."""
        fresh = self.fresh_of[site]
        key = self.link(site, message_type, salt, fresh)
        return seal_frame(self.address(site, fresh), message_type, body, key, clear, digest)

    def unseal(self, site: SiteId, header: Header, salt: bytes, frame: bytes) -> bytes:
        """Return the plaintext body of a sealed reply. Raises MalformedMessage or BadSignature."""
        cut(frame, header, TAG_BYTES)  # the length that its sender states and signs for must be the one it sent
        return unseal_frame(frame, self.link(site, MessageType(header.type), salt, header.fresh))


@dataclass(slots=True, eq=False)
class AskingKeys:
    """R0 is out; R1 comes in."""

    view: AttemptView
    members: dict[SiteId, MemberKeys]
    dealt: PairTable = field(repr=False)  # from dealer to holder
    points: set[bytes] = field(default_factory=set)  # of every public key that a mask key must differ from


@dataclass(slots=True, eq=False)
class AskingInputs:
    """R1' is out; R2 comes in and is added at once."""

    view: AttemptView
    ctx2: bytes
    members: dict[SiteId, MemberKeys]  # U2, ascending
    packed: bytes  # the same as R1' carries it to every site
    packed_hash: bytes
    dealt: PairTable = field(repr=False)
    accumulator: Words = field(repr=False)
    added: set[SiteId]
    complaints: dict[SiteId, tuple[SiteId, ...]]


@dataclass(slots=True, eq=False)
class AskingConfirmations:
    """R3a is out; R3b comes in. U3 is fixed, and never formed again."""

    view: AttemptView
    ctx2: bytes
    members: dict[SiteId, MemberKeys]
    dealt: PairTable = field(repr=False)
    survivors: tuple[SiteId, ...]
    accumulator: Words = field(repr=False)
    mail: PairTable  # from sender to receiver
    confirmed: set[SiteId]
    alive: NDArray[np.bool_] = field(init=False, repr=False)  # which places on the circle survivors have

    def __post_init__(self) -> None:
        self.alive = self.view.near.mark(self.survivors)


@dataclass(slots=True, eq=False)
class AskingShares:
    """R3c is out; R4 comes in."""

    view: AttemptView
    ctx2: bytes
    members: dict[SiteId, MemberKeys]
    dealt: PairTable = field(repr=False)
    survivors: tuple[SiteId, ...]
    accumulator: Words = field(repr=False)
    mail: PairTable
    confirmed: set[SiteId]  # whom R3c asks
    shares: PairTable = field(repr=False)  # from holder to whose secret it is of; own ones are apart
    own_shares: dict[SiteId, bytes] = field(repr=False)
    alive: NDArray[np.bool_] = field(init=False, repr=False)
    lost: NDArray[np.bool_] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.alive = self.view.near.mark(self.survivors)
        self.lost = self.view.near.mark(self.members) & ~self.alive


@dataclass(frozen=True, slots=True, eq=False)
class Summed:
    """The sum over U3, and nothing else of the attempt."""

    view: AttemptView
    survivors: tuple[SiteId, ...]
    total: Sum | BlindSum
    total_bytes: bytes  # the sum; the correction that sites subtract, or nothing, where it is encrypted
    transcript_hash: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Publishing:
    """R5 or R5C is out; replies come in."""

    view: AttemptView
    summed: Summed
    next_tag: bytes  # empty where only sites can know it
    followers: dict[SiteId, bytes]  # who accepted the sum, and the tag of the policy that it made of it


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """Nothing is left to do."""

    summed: Summed
    followers: dict[SiteId, bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Aborted:
    """No sum, and there will be none."""
