"""What a signature covers, and how one is checked: Ed25519 over lp(LABEL, purpose, fields...).

The purpose keeps a signature made for one thing from being shown for another. Private keys live in consortium/;
whoever signs is passed in as a `Signer`.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from secure_frl.errors import BadSignature
from secure_frl.wire.hashing import LABEL, Field, lp

SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32


class Signer(Protocol):
    """Something that holds an Ed25519 key: `consortium.identity.Identity`."""

    @property
    def public_key(self) -> bytes:
        """Return the raw public key, 32 bytes."""
        ...

    def sign(self, purpose: str, *fields: Field) -> bytes:
        """Return the signature over lp(LABEL, purpose, fields...), 64 bytes."""
        ...


def signed_bytes(purpose: str, *fields: Field) -> bytes:
    """Return the bytes that a signature for `purpose` covers."""
    return lp(LABEL, purpose, *fields)


def check_signature(public_key: bytes, signature: bytes, purpose: str, *fields: Field) -> None:
    """Verify a signature. Raises BadSignature, also for keys and signatures of a wrong length."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed_bytes(purpose, *fields))
    except (InvalidSignature, ValueError):
        raise BadSignature(
            f"expected a signature for {purpose!r} by the key {public_key.hex()[:16]}, got one that does not verify. "
            "Compare the key with the roster; if it is right, the content was changed after signing."
        ) from None
