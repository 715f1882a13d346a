"""An Ed25519 identity: who signs as a site, as the coordinator or as the consortium.

Made by its owner; the secret half stays in this object and in the owner's key file. Nothing here prints, compares or
serialises it. Signatures cover lp(LABEL, purpose, fields...), so one made for a roster is none for a charter.
"""

from __future__ import annotations

import hashlib
from typing import NoReturn, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secure_frl.errors import InvalidParameter, UnexpectedState
from secure_frl.randomness import system_source
from secure_frl.secure_sum import RandomSource
from secure_frl.wire.hashing import Field
from secure_frl.wire.signatures import signed_bytes

SECRET_BYTES = 32


class Identity:
    """A signing identity. Implements `wire.signatures.Signer`."""

    __slots__ = ("_private_key", "_public_key")

    def __init__(self, secret: bytes) -> None:
        """secret: 32 bytes, held by the owner only; whoever has them signs in its name."""
        if len(secret) != SECRET_BYTES:
            raise InvalidParameter(
                f"expected a secret of {SECRET_BYTES} bytes, got {len(secret)}. Make one with Identity.generate."
            )
        self._private_key = Ed25519PrivateKey.from_private_bytes(secret)
        self._public_key = self._private_key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, source: RandomSource | None = None) -> Self:
        """Make a new identity, from the operating system's generator unless a rehearsal's source is given."""
        return cls((source or system_source()).take(SECRET_BYTES))

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self._public_key

    @property
    def private_key(self) -> Ed25519PrivateKey:
        """The key object, for frames that masking/ signs. Stays in the owner's process."""
        return self._private_key

    def secret_bytes(self) -> bytes:
        """Return the 32 secret bytes, for the owner's key file only."""
        return self._private_key.private_bytes_raw()

    def sign(self, purpose: str, *fields: Field) -> bytes:
        """Return the signature over lp(LABEL, purpose, fields...), 64 bytes. Deterministic (RFC 8032)."""
        return self._private_key.sign(signed_bytes(purpose, *fields))

    def __repr__(self) -> str:
        return f"Identity({fingerprint(self._public_key)})"

    def __reduce__(self) -> NoReturn:
        raise UnexpectedState(
            "expected an identity to stay in its process, got a request to pickle it. Use a key file."
        )


def fingerprint(public_key: bytes) -> str:
    """Return 16 hex digits that people compare over another channel."""
    return hashlib.sha256(public_key).hexdigest()[:16]
