"""Every message of protocol v1: its number and its body.

Bodies are MessagePack arrays with their fields in the order of the page's tables; unknown fields, leftovers and wrong
types are refused, and nothing but MalformedMessage leaves a decoder.
Source: docs/protocol.md, sections 6, 7 and 14.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, TypeVar

import msgspec

from secure_frl.errors import MalformedMessage
from secure_frl.wire.envelope import Buffer


class MessageType(IntEnum):
    """Type byte of the header. A C marks what takes the place of R2 and R5 where sums are encrypted."""

    E0 = 1
    E0_REPLY = 2
    E1 = 3
    E1_REPLY = 4
    E2 = 5
    E2_REPLY = 6
    E3 = 7
    E3_REPLY = 8
    PACKAGE = 9
    PACKAGE_REPLY = 10
    R0 = 16
    R1 = 17
    R1P = 18
    R2 = 19
    BAD_SHARE = 20
    R3A = 21
    R3B = 22
    R3C = 23
    R4 = 24
    R5 = 25
    R5_REPLY = 26
    R6 = 27
    R6_REPLY = 28
    R2C = 29
    R5C = 30
    REFUSAL = 31
    R5C_REPLY = 32


KEYED = frozenset({MessageType.R2C, MessageType.R5C})  # their headers name the key of their ciphertexts


STAGE_NAMES = {  # the stage's ASCII name inside link keys
    MessageType.R0: "R0",
    MessageType.R1: "R1",
    MessageType.R1P: "R1p",
    MessageType.R2: "R2",
    MessageType.BAD_SHARE: "BadShare",
    MessageType.R3A: "R3a",
    MessageType.R3B: "R3b",
    MessageType.R3C: "R3c",
    MessageType.R4: "R4",
    MessageType.R5: "R5",
    MessageType.R5_REPLY: "R5",
    MessageType.R2C: "R2c",
    MessageType.R5C: "R5c",
    MessageType.R5C_REPLY: "R5c",
}

# --- bodies ----------------------------------------------------------------------------------------------------------

MOST_SITES = 10_000
Id = Annotated[int, msgspec.Meta(ge=0, le=65_534)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
B32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
B64 = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
UpToB32 = Annotated[bytes, msgspec.Meta(max_length=32)]
Ids = Annotated[tuple[Id, ...], msgspec.Meta(max_length=MOST_SITES)]
MAX_PACKAGE_BYTES = 66_400  # fresh bytes, hashes, a signature, a CKKS context of at most 66,000 bytes, a tag
SealedPackage = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_PACKAGE_BYTES)]


class Body(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """A MessagePack array with exactly these fields. A field named after records holds them packed: see records.py."""

    def __repr__(self) -> str:
        # bodies hold shares: none of them may reach a log through a repr
        return f"<{type(self).__name__}>"


class OpenEpoch(Body, frozen=True):
    """E0, coordinator to site: begins an epoch."""

    epoch: Natural
    epoch_key: B32  # the coordinator's X25519 public key
    first_round: Natural
    expiry_s: Natural  # Unix seconds


class EpochKey(Body, frozen=True):
    """E0's reply: one site's channel key."""

    public_key: B32
    nonce_commitment: UpToB32  # N_i in cross_device, else empty
    signature: B64  # over lp(LABEL, "epoch", session, epoch, i, c_pk, N_i, roster hash, expiry)


class EpochEntry(Body, frozen=True, gc=False):
    """One E0 reply as the list of E1 carries it."""

    site: Id
    public_key: B32
    nonce_commitment: UpToB32
    signature: B64


class EpochList(Body, frozen=True):
    """E1, coordinator to every site that answered E0."""

    entries: Annotated[tuple[EpochEntry, ...], msgspec.Meta(max_length=MOST_SITES)]


class EpochNonce(Body, frozen=True):
    """E1's reply in cross_device: what the site committed to."""

    nonce: B32


class EpochNonces(Body, frozen=True):
    """E2, cross_device only: every nonce, in the order of E1's list."""

    nonces: Annotated[tuple[B32, ...], msgspec.Meta(max_length=MOST_SITES)]


class EpochAck(Body, frozen=True):
    """The last reply of an epoch's opening: to E1, in cross_device to E2."""

    signature: B64  # over lp(LABEL, "epoch-ack", session, epoch, epoch_hash)


class Announcement(Body, frozen=True):
    """R0; the sealed model, if any, follows the frame's signature."""

    cohort: Ids
    fresh: B32
    config_hash: B32
    model_tag: B32
    sealed_digest: B32  # SHA-256 of the sealed part, of nothing when there is none


class RoundKeys(Body, frozen=True):
    """R1, site to coordinator."""

    public_key: B32  # s_pk
    seed_commitment: B32  # H_b
    own_commitment: B32  # h_ii
    dealt: bytes  # DealtShares


class Inbox(Body, frozen=True):
    """R1', coordinator to each sender of R1. U2 follows the tag in clear, packed."""

    dealt: bytes  # DealtShares


class Complaint(Body, frozen=True):
    """BadShare in place of R2; it names dealers and discloses no key."""

    dealers: Ids


class Survivors(Body, frozen=True):
    """R3a: U3 with the coordinator's signature."""

    survivors: Ids
    signature: B64  # over lp(LABEL, "R3a", session, round, attempt, ctx2, U3)


class Confirmations(Body, frozen=True):
    """R3b and R3c: from one site to all others, or from all others to one."""

    items: bytes  # Confirmation


class ReturnedShares(Body, frozen=True):
    """R4: what removes the masks that do not cancel."""

    of_seeds: bytes  # Share
    of_keys: bytes  # Share


class PublishedSum(Body, frozen=True):
    """R5."""

    survivors: Ids
    total: bytes  # lanes and values, centred, one little-endian word each
    next_tag: B32
    transcript_hash: B32
    signature: B64  # over lp(LABEL, "R5", ctx1, U3, SHA-256 of total, next tag, transcript hash)


class Nothing(Body, frozen=True):
    """R5's reply under masking."""


class PackageRequest(Body, frozen=True):
    """E3, coordinator to the steward: make this epoch's key."""

    epoch_hash: B32


class Packages(Body, frozen=True):
    """E3's reply: the sealed package of every other member of the epoch, in the list's order."""

    key_id: B32  # SHA-256 of the secret context
    policy_tag: B32  # of the policy that the steward holds
    packages: Annotated[tuple[SealedPackage, ...], msgspec.Meta(max_length=MOST_SITES)]


class PackageDelivery(Body, frozen=True):
    """The steward's package for one site, as the coordinator passes it on."""

    steward: Id
    package: SealedPackage


class KeyAck(Body, frozen=True):
    """A package's reply: which key this site holds now, and which policy."""

    key_id: B32
    policy_tag: B32


class PolicyRequest(Body, frozen=True):
    """R6, coordinator to a site that holds the policy of this tag."""

    policy_tag: B32


class PolicyParcel(Body, frozen=True):
    """R6's reply: the policy, sealed under a key that only sites have.

    It repeats the tag: an epoch has many R6, and nothing else in the frame says to which of them this is the answer.
    """

    policy_tag: B32
    parcel: bytes


class EncryptedTotal(Body, frozen=True):
    """R5C; the encrypted sum follows the tag in clear, its SHA-256 under the tag."""

    survivors: Ids
    correction: bytes  # M, one little-endian word each; empty under plain ckks
    transcript_hash: B32
    signature: B64  # over lp(LABEL, "R5", ctx1, U3, SHA-256 of correction and ciphertexts, "", transcript hash)


class FollowingTag(Body, frozen=True):
    """R5C's reply: the tag of the policy that follows, or 32 random bytes."""

    policy_tag: B32


class RefusalCode(Body, frozen=True):
    """Why a request was not answered, from a fixed list; two bytes whatever the reason."""

    code: Annotated[int, msgspec.Meta(ge=0, le=127)]


# --- encoding --------------------------------------------------------------------------------------------------------

BodyT = TypeVar("BodyT", bound=Body)
_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type[Body], msgspec.msgpack.Decoder[Body]] = {}


def encode_body(body: Body) -> bytes:
    """Return the MessagePack array of one body."""
    return _encoder.encode(body)


def decode_body(body_type: type[BodyT], data: Buffer) -> BodyT:
    """Decode one body strictly. Raises MalformedMessage and nothing else, also on bytes nested too deep."""
    decoder = _decoders.get(body_type)
    if decoder is None:
        decoder = _decoders[body_type] = msgspec.msgpack.Decoder(body_type)
    try:
        decoded = decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError):
        # the library's text can quote what it met, so none of it is repeated
        raise MalformedMessage(f"expected the fields of {body_type.__name__}, got other bytes. Drop it.") from None
    if not isinstance(decoded, body_type):
        raise MalformedMessage(f"expected the fields of {body_type.__name__}, got other bytes. Drop it.")
    return decoded
