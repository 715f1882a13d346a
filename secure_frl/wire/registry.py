"""The registry of every message of protocol v1: direction, protection, size limit, readers.

Sizes are checked before anything is decoded, so no message makes its reader hold more than its type allows for this
charter.
Source: docs/protocol.md, sections 7 and 14.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from secure_frl.errors import MalformedMessage
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES
from secure_frl.wire.messages import (
    MAX_PACKAGE_BYTES,
    Announcement,
    Body,
    Complaint,
    Confirmations,
    EncryptedTotal,
    EpochAck,
    EpochKey,
    EpochList,
    EpochNonces,
    FollowingTag,
    Inbox,
    KeyAck,
    MessageType,
    Nothing,
    OpenEpoch,
    PackageDelivery,
    PackageRequest,
    Packages,
    PolicyParcel,
    PolicyRequest,
    PublishedSum,
    RefusalCode,
    ReturnedShares,
    RoundKeys,
    Survivors,
)
from secure_frl.wire.records import CONFIRMATION_BYTES, DEALT_BYTES, MEMBER_BYTES, SHARE_RECORD_BYTES
from secure_frl.wire.signatures import SIGNATURE_BYTES

LANE_WORDS = 4  # [count][zero] values [weight][zero], as `encoding.lanes` writes them
MODEL_SLACK_BYTES = 1 << 16  # dtype and shape manifest beside parameters and optimiser state
MODEL_BYTES_PER_VALUE = 64  # parameters, two moments in float64 and room to spare
_MOST_IN_SILO = 100  # more sites are a cross_device charter, whose epochs have nonces


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the sizes of a charter's messages follow from."""

    sites: int  # enrolled
    length: int  # P, without lanes
    modulus_bits: int = 32
    ciphertext_bytes: int = 0  # the most that a site's encrypted vector has; 0 where nothing is encrypted

    @property
    def vector_bytes(self) -> int:
        """Return the size of one vector with its lanes."""
        return vector_bytes(self.length, self.modulus_bits)

    @property
    def nonce_bytes(self) -> int:
        """Return the bytes of a nonce or of a commitment to one: none in cross_silo."""
        return 32 if self.sites > _MOST_IN_SILO else 0


SizeLimit = Callable[[Sizes], int]  # -> greatest body in bytes


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
    rest: SizeLimit = lambda s: 0  # what may follow the trailer

    @property
    def is_open_ended(self) -> bool:
        """Return whether something follows the trailer: R0's sealed model, U2, or an encrypted sum."""
        return self.protection in ("signed+sealed", "sealed+clear")

    @property
    def trailer_bytes(self) -> int:
        """Return the length of signature or tag."""
        return SIGNATURE_BYTES if self.protection.startswith("signed") else TAG_BYTES


def vector_bytes(length: int, modulus_bits: int = 32) -> int:
    """Return the size of `length` values with their lanes: four bytes a word up to 32 bits, eight beyond."""
    return (4 if modulus_bits <= 32 else 8) * (length + LANE_WORDS)


_ENTRY = 3 + 34 + 2 + 66 + 1
_LIST = 8  # prefixes of arrays and of packed records

_COORDINATOR = "coordinator and this site"
_READERS_OF_R0 = f"anyone; the model: {_COORDINATOR}"
_T = MessageType
REGISTRY: dict[MessageType, MessageSpec] = {
    _T.E0: MessageSpec("E0", OpenEpoch, True, "signed", lambda s: 1 + 9 + 34 + 18, False, "anyone"),
    _T.E0_REPLY: MessageSpec("E0 reply", EpochKey, False, "signed", lambda s: 103 + s.nonce_bytes, True, "anyone"),
    _T.E1: MessageSpec(
        "E1", EpochList, True, "signed", lambda s: _LIST + s.sites * (_ENTRY + 3 + s.nonce_bytes), False, "anyone"
    ),
    _T.E1_REPLY: MessageSpec(
        "E1 reply", EpochAck, False, "signed", lambda s: 35 if s.nonce_bytes else 67, True, "anyone"
    ),
    _T.E2: MessageSpec("E2", EpochNonces, True, "signed", lambda s: _LIST + 34 * s.sites, False, "anyone"),
    _T.E2_REPLY: MessageSpec("E2 reply", EpochAck, False, "signed", lambda s: 67, True, "anyone"),
    _T.R0: MessageSpec(
        "R0",
        Announcement,
        True,
        "signed+sealed",
        lambda s: _LIST + 3 * s.sites + 4 * 34,
        False,
        _READERS_OF_R0,
        lambda s: greatest_model_bytes(s.length),
    ),
    _T.R1: MessageSpec(
        "R1", RoundKeys, False, "sealed", lambda s: _LIST + 3 * 34 + s.sites * DEALT_BYTES, False, _COORDINATOR
    ),
    _T.R1P: MessageSpec(
        "R1'",
        Inbox,
        True,
        "sealed+clear",
        lambda s: _LIST + s.sites * DEALT_BYTES,
        False,
        f"{_COORDINATOR}; the list of members: anyone",
        lambda s: s.sites * MEMBER_BYTES,
    ),
    _T.R2: MessageSpec("R2", None, False, "mac", lambda s: s.vector_bytes, True, "anyone: masked words"),
    _T.BAD_SHARE: MessageSpec(
        "BadShare", Complaint, False, "sealed", lambda s: _LIST + 3 * s.sites, False, _COORDINATOR
    ),
    _T.R3A: MessageSpec("R3a", Survivors, True, "sealed", lambda s: _LIST + 3 * s.sites + 66, False, _COORDINATOR),
    _T.R3B: MessageSpec(
        "R3b", Confirmations, False, "sealed", lambda s: _LIST + s.sites * CONFIRMATION_BYTES, False, _COORDINATOR
    ),
    _T.R3C: MessageSpec(
        "R3c", Confirmations, True, "sealed", lambda s: _LIST + s.sites * CONFIRMATION_BYTES, False, _COORDINATOR
    ),
    _T.R4: MessageSpec(
        "R4", ReturnedShares, False, "sealed", lambda s: 2 * _LIST + s.sites * SHARE_RECORD_BYTES, False, _COORDINATOR
    ),
    _T.R5: MessageSpec(
        "R5",
        PublishedSum,
        True,
        "sealed",
        lambda s: 2 * _LIST + 3 * s.sites + s.vector_bytes + 134,
        False,
        _COORDINATOR,
    ),
    _T.R5_REPLY: MessageSpec("R5 reply", Nothing, False, "sealed", lambda s: 1, True, _COORDINATOR),
    _T.E3: MessageSpec("E3", PackageRequest, True, "signed", lambda s: 35, True, "anyone"),
    _T.E3_REPLY: MessageSpec(
        "E3 reply",
        Packages,
        False,
        "signed",
        lambda s: _LIST + 2 * 34 + s.sites * (5 + MAX_PACKAGE_BYTES),
        False,
        "anyone; a package: the site it is for",
    ),
    _T.PACKAGE: MessageSpec(
        "Package",
        PackageDelivery,
        True,
        "signed",
        lambda s: 9 + MAX_PACKAGE_BYTES,
        False,
        "anyone; the package: this site",
    ),
    _T.PACKAGE_REPLY: MessageSpec("Package reply", KeyAck, False, "signed", lambda s: 69, True, "anyone"),
    _T.R2C: MessageSpec(
        "R2C",
        None,
        False,
        "sealed",
        lambda s: s.ciphertext_bytes,
        False,
        f"{_COORDINATOR}; the ciphertexts: sites",
    ),
    _T.R5C: MessageSpec(
        "R5C",
        EncryptedTotal,
        True,
        "sealed+clear",
        lambda s: 2 * _LIST + 3 * s.sites + s.vector_bytes + 2 * 66,
        False,
        f"{_COORDINATOR}; the ciphertexts: sites",
        lambda s: s.ciphertext_bytes,
    ),
    _T.R5C_REPLY: MessageSpec("R5C reply", FollowingTag, False, "sealed", lambda s: 35, True, _COORDINATOR),
    _T.R6: MessageSpec("R6", PolicyRequest, True, "signed", lambda s: 35, True, "anyone"),
    _T.R6_REPLY: MessageSpec(
        "R6 reply",
        PolicyParcel,
        False,
        "signed",
        lambda s: _LIST + 34 + greatest_model_bytes(s.length),
        False,
        "anyone; the policy: sites",
    ),
    _T.REFUSAL: MessageSpec("Refusal", RefusalCode, False, "signed", lambda s: 2, True, "anyone"),
}


def greatest_model_bytes(length: int) -> int:
    """Return the greatest sealed model that may follow R0 for P = `length` values, tag included."""
    return MODEL_SLACK_BYTES + MODEL_BYTES_PER_VALUE * length


def check_length(message_type: int, frame_bytes: int, sizes: Sizes) -> MessageSpec:
    """Return the type's row if a frame of this size may be one. Raises MalformedMessage before anything is read."""
    try:
        spec = REGISTRY[MessageType(message_type)]
    except ValueError:
        raise MalformedMessage(f"expected a message type of v1, got {message_type}. Drop it.") from None
    greatest = HEADER_BYTES + spec.limit(sizes) + spec.trailer_bytes + spec.rest(sizes)
    if frame_bytes > greatest or (spec.exact and frame_bytes != greatest):
        bound = "exactly" if spec.exact else "at most"
        raise MalformedMessage(f"expected {bound} {greatest} bytes for {spec.name}, got {frame_bytes}. Drop it.")
    return spec
