"""The registry of every message of protocol v1: number, body, direction, protection, size limit, readers.

Bodies are MessagePack arrays with their fields in the order of the design's tables; unknown fields, leftovers and
wrong types are refused, and nothing but MalformedMessage leaves a decoder. Sizes are checked before anything is
decoded, so no message makes its reader hold more than its type allows for this charter.
Source: docs/protocol.md, sections 6 and 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, TypeVar

import msgspec

from secure_frl.errors import MalformedMessage
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES, Buffer
from secure_frl.wire.records import CONFIRMATION_BYTES, DEALT_BYTES, MEMBER_BYTES, SHARE_RECORD_BYTES
from secure_frl.wire.signatures import SIGNATURE_BYTES

LANE_WORDS = 4  # [count][zero] values [weight][zero]
MODEL_SLACK_BYTES = 1 << 16  # dtype and shape manifest beside parameters and optimiser state
MODEL_BYTES_PER_VALUE = 64  # parameters, two moments in float64 and room to spare


class MessageType(IntEnum):
    """Type byte of the header."""

    E0 = 1
    E0_REPLY = 2
    E1 = 3
    E1_REPLY = 4
    E2 = 5
    E2_REPLY = 6
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
    REFUSAL = 31


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
}

# --- bodies ----------------------------------------------------------------------------------------------------------

_MOST_SITES = 10_000
Id = Annotated[int, msgspec.Meta(ge=0, le=65_534)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
B32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
B64 = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
UpToB32 = Annotated[bytes, msgspec.Meta(max_length=32)]
Ids = Annotated[tuple[Id, ...], msgspec.Meta(max_length=_MOST_SITES)]


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

    entries: Annotated[tuple[EpochEntry, ...], msgspec.Meta(max_length=_MOST_SITES)]


class EpochNonce(Body, frozen=True):
    """E1's reply in cross_device: what the site committed to."""

    nonce: B32


class EpochNonces(Body, frozen=True):
    """E2, cross_device only: every nonce, in the order of E1's list."""

    nonces: Annotated[tuple[B32, ...], msgspec.Meta(max_length=_MOST_SITES)]


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


class RefusalCode(Body, frozen=True):
    """Why a request was not answered, from a fixed list; two bytes whatever the reason."""

    code: Annotated[int, msgspec.Meta(ge=0, le=127)]


# --- registry --------------------------------------------------------------------------------------------------------

SizeLimit = Callable[[int, int, int], int]  # (sites, length P, modulus bits) -> greatest body in bytes


@dataclass(frozen=True, slots=True)
class MessageSpec:
    """One row of the registry."""

    name: str
    body: type[Body] | None  # None: raw words
    to_site: bool
    protection: str  # signed | sealed | mac | signed+sealed | sealed+clear
    limit: SizeLimit
    exact: bool  # the body has exactly that many bytes
    readers: str  # who can read the body
    rest: SizeLimit = lambda n, p, w: 0  # what may follow the trailer

    @property
    def is_open_ended(self) -> bool:
        """Return whether something follows the trailer: R0's sealed model, or U2 in clear."""
        return self.protection in ("signed+sealed", "sealed+clear")

    @property
    def trailer_bytes(self) -> int:
        """Return the length of signature or tag."""
        return SIGNATURE_BYTES if self.protection.startswith("signed") else TAG_BYTES

    def size_limit(self, sites: int, length: int, modulus_bits: int = 32) -> int:
        """Return the greatest body in bytes under a charter of these numbers."""
        return self.limit(sites, length, modulus_bits)

    def rest_limit(self, sites: int, length: int, modulus_bits: int = 32) -> int:
        """Return the greatest number of bytes that may follow the trailer."""
        return self.rest(sites, length, modulus_bits)


def vector_bytes(length: int, modulus_bits: int = 32) -> int:
    """Return the size of `length` values with their lanes: four bytes a word up to 32 bits, eight beyond."""
    return (4 if modulus_bits <= 32 else 8) * (length + LANE_WORDS)


_MOST_IN_SILO = 100  # more sites are a cross_device charter, whose epochs have nonces


def _nonce(sites: int) -> int:
    """Return the bytes of a nonce or of a commitment to one."""
    return 32 if sites > _MOST_IN_SILO else 0


_ENTRY = 3 + 34 + 2 + 66 + 1
_LIST = 8  # prefixes of arrays and of packed records

_COORDINATOR = "coordinator and this site"
_READERS_OF_R0 = f"anyone; the model: {_COORDINATOR}"
_T = MessageType
REGISTRY: dict[MessageType, MessageSpec] = {
    _T.E0: MessageSpec("E0", OpenEpoch, True, "signed", lambda n, p, w: 1 + 9 + 34 + 18, False, "anyone"),
    _T.E0_REPLY: MessageSpec("E0 reply", EpochKey, False, "signed", lambda n, p, w: 103 + _nonce(n), True, "anyone"),
    _T.E1: MessageSpec(
        "E1", EpochList, True, "signed", lambda n, p, w: _LIST + n * (_ENTRY + 3 + _nonce(n)), False, "anyone"
    ),
    _T.E1_REPLY: MessageSpec(
        "E1 reply", EpochAck, False, "signed", lambda n, p, w: 35 if _nonce(n) else 67, True, "anyone"
    ),
    _T.E2: MessageSpec("E2", EpochNonces, True, "signed", lambda n, p, w: _LIST + 34 * n, False, "anyone"),
    _T.E2_REPLY: MessageSpec("E2 reply", EpochAck, False, "signed", lambda n, p, w: 67, True, "anyone"),
    _T.R0: MessageSpec(
        "R0",
        Announcement,
        True,
        "signed+sealed",
        lambda n, p, w: _LIST + 3 * n + 4 * 34,
        False,
        _READERS_OF_R0,
        lambda n, p, w: greatest_model_bytes(p),
    ),
    _T.R1: MessageSpec(
        "R1", RoundKeys, False, "sealed", lambda n, p, w: _LIST + 3 * 34 + n * DEALT_BYTES, False, _COORDINATOR
    ),
    _T.R1P: MessageSpec(
        "R1'",
        Inbox,
        True,
        "sealed+clear",
        lambda n, p, w: _LIST + n * DEALT_BYTES,
        False,
        f"{_COORDINATOR}; the list of members: anyone",
        lambda n, p, w: n * MEMBER_BYTES,
    ),
    _T.R2: MessageSpec("R2", None, False, "mac", lambda n, p, w: vector_bytes(p, w), True, "anyone: masked words"),
    _T.BAD_SHARE: MessageSpec(
        "BadShare", Complaint, False, "sealed", lambda n, p, w: _LIST + 3 * n, False, _COORDINATOR
    ),
    _T.R3A: MessageSpec("R3a", Survivors, True, "sealed", lambda n, p, w: _LIST + 3 * n + 66, False, _COORDINATOR),
    _T.R3B: MessageSpec(
        "R3b", Confirmations, False, "sealed", lambda n, p, w: _LIST + n * CONFIRMATION_BYTES, False, _COORDINATOR
    ),
    _T.R3C: MessageSpec(
        "R3c", Confirmations, True, "sealed", lambda n, p, w: _LIST + n * CONFIRMATION_BYTES, False, _COORDINATOR
    ),
    _T.R4: MessageSpec(
        "R4", ReturnedShares, False, "sealed", lambda n, p, w: 2 * _LIST + n * SHARE_RECORD_BYTES, False, _COORDINATOR
    ),
    _T.R5: MessageSpec(
        "R5",
        PublishedSum,
        True,
        "sealed",
        lambda n, p, w: 2 * _LIST + 3 * n + vector_bytes(p, w) + 134,
        False,
        _COORDINATOR,
    ),
    _T.R5_REPLY: MessageSpec("R5 reply", Nothing, False, "sealed", lambda n, p, w: 1, True, _COORDINATOR),
    _T.REFUSAL: MessageSpec("Refusal", RefusalCode, False, "signed", lambda n, p, w: 2, True, "anyone"),
}


def greatest_model_bytes(length: int) -> int:
    """Return the greatest sealed model that may follow R0 for P = `length` values, tag included."""
    return MODEL_SLACK_BYTES + MODEL_BYTES_PER_VALUE * length


def check_length(message_type: int, frame_bytes: int, sites: int, length: int, modulus_bits: int = 32) -> MessageSpec:
    """Return the type's row if a frame of this size may be one. Raises MalformedMessage before anything is read."""
    try:
        spec = REGISTRY[MessageType(message_type)]
    except ValueError:
        raise MalformedMessage(f"expected a message type of v1, got {message_type}. Drop it.") from None
    greatest = HEADER_BYTES + spec.size_limit(sites, length, modulus_bits) + spec.trailer_bytes
    greatest += spec.rest_limit(sites, length, modulus_bits)
    if frame_bytes > greatest or (spec.exact and frame_bytes != greatest):
        bound = "exactly" if spec.exact else "at most"
        raise MalformedMessage(f"expected {bound} {greatest} bytes for {spec.name}, got {frame_bytes}. Drop it.")
    return spec


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
