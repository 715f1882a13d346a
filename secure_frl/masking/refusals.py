"""Refusal codes: a fixed list, so that a refusal has one size and tells nothing but its name.

The text of the error stays in the site's own log. An error outside the list, a host's included, is SiteFailed: whether
some patient's data made the host fail must not be readable in a frame.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secure_frl.errors import MalformedMessage
from secure_frl.secure_sum import COORDINATOR_ID, SiteId
from secure_frl.wire.envelope import HEADER_BYTES, Header, cut, read_header, sign_frame, verify_frame
from secure_frl.wire.messages import MessageType, RefusalCode, decode_body, encode_body
from secure_frl.wire.signatures import SIGNATURE_BYTES

SITE_FAILED = "SiteFailed"
CODES = (  # append only: the position is the code
    SITE_FAILED,
    "MalformedMessage",
    "UnexpectedMessage",
    "BadSignature",
    "EpochRefused",
    "RoundRefused",
    "ModelMissing",
    "RosterRefused",
    "KeyRefused",
    "SurvivorsRefused",
    "TooFewConfirmations",
    "Equivocation",
    "AlreadyAnswered",
    "SumOutOfRange",
    "LaneMismatch",
    "ModelDoesNotFollow",
    "BudgetExhausted",
    "CharterViolation",
    "PolicyForbids",
    "StaleLedger",
    "LedgerCorrupt",
    "UnexpectedState",
    "KeySuspect",
)
_NUMBERS = {name: number for number, name in enumerate(CODES)}


def refusal_name(error: Exception) -> str:
    """Return the name under which an error leaves the site."""
    name = type(error).__name__
    return name if name in _NUMBERS else SITE_FAILED


def refuse(request: bytes, name: str, session: bytes, me: SiteId, signing_key: Ed25519PrivateKey) -> bytes:
    """Return the signed refusal of one request; its size does not depend on the reason.

    It echoes epoch, round and attempt where the request has a header, and is bound to the request by its SHA-256.
    """
    try:
        asked = read_header(request)
        epoch, number, attempt = asked.epoch, asked.round, asked.attempt
    except MalformedMessage:
        epoch = number = attempt = 0
    body = encode_body(RefusalCode(_NUMBERS[name]))
    fresh = hashlib.sha256(request).digest()
    header = Header(
        MessageType.REFUSAL, session, epoch, number, attempt, me, COORDINATOR_ID, fresh, body_bytes=len(body)
    )
    return sign_frame(header, body, signing_key)


def read_refusal(frame: bytes, public_key: bytes, request_digest: bytes) -> str:
    """Return the name of a refusal of the request with this SHA-256. Raises BadSignature or MalformedMessage."""
    header = read_header(frame)
    body = cut(frame, header, SIGNATURE_BYTES)
    verify_frame(frame, body, public_key)
    if header.fresh != request_digest:
        raise MalformedMessage("expected the refusal of our request, got one of another request. Drop it.")
    code = decode_body(RefusalCode, body).code
    if code >= len(CODES):
        raise MalformedMessage(f"expected a refusal code below {len(CODES)}, got {code}. Update this program.")
    return CODES[code]


REFUSAL_BYTES = HEADER_BYTES + 2 + SIGNATURE_BYTES
