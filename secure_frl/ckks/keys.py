"""The steward's package: the epoch's CKKS key and the charter's site secret, sealed to one site.

The steward is a site. It makes the key in its own worker, signs what it hands out and seals it under the channel key
that it shares with each site, so the coordinator carries packages that it cannot open. Each epoch has a key of its own;
the site secret stays for the charter, and a site that holds one takes no other. Whoever holds a package's content reads
every update under plain `ckks`: that is every site.
Source: docs/protocol.md, section 18.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Worker
from secure_frl.errors import BadSignature, KeyRefused, MalformedMessage
from secure_frl.masking.keys import SECRET_BYTES, derive
from secure_frl.secure_sum import RandomSource, SiteId
from secure_frl.wire.envelope import Buffer, seal, unseal
from secure_frl.wire.messages import B32, B64, Body, decode_body, encode_body
from secure_frl.wire.signatures import check_signature, signed_bytes

MAX_CONTEXT_BYTES = 66_000  # a fresh one has about 61,800: one polynomial of the key, two primes, compressed
_FRESH_BYTES = 32


@dataclass(frozen=True, slots=True, eq=False)
class EpochKey:
    """What a site holds of an epoch's encryption; sites only, in memory only.

    context: TenSEAL's, with the secret key; whoever has it decrypts every ciphertext of the epoch.
    site_secret: 32 bytes, for the charter; it keys policy tags and sealed policies.
    """

    key_id: bytes  # SHA-256 of the context: not secret, it stands in frames
    context: bytes = field(repr=False)
    site_secret: bytes = field(repr=False)


class Package(Body, frozen=True):
    """The plaintext of a package."""

    key_id: B32
    context: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_CONTEXT_BYTES)]
    site_secret: B32
    epoch_hash: B32
    signature: B64  # over lp(LABEL, "package", session, epoch_hash, i, key id, SHA-256 of site_secret)


@dataclass(frozen=True, slots=True)
class Addressee:
    """For whom a package is, in which epoch of which charter."""

    session: bytes
    epoch_hash: bytes
    site: SiteId


def draw_site_secret(random: RandomSource) -> bytes:
    """Return a charter's site secret, 32 bytes; made once, by the first steward, and repeated unchanged."""
    return random.take(SECRET_BYTES)


def make_key(worker: Worker, site_secret: bytes) -> EpochKey:
    """Return a fresh key for one epoch, from SEAL's own generator in the steward's worker; a rehearsal's too."""
    context = worker.ask(Op.MAKE_KEY)
    return EpochKey(hashlib.sha256(context).digest(), context, site_secret)


def seal_package(
    key: EpochKey, to: Addressee, channel: bytes, steward: Ed25519PrivateKey, random: RandomSource
) -> bytes:
    """Return 32 fresh bytes and the package for one site, sealed under a key that seals nothing else.

    channel: chan of steward and site in this epoch, before its first round (`masking.keys.channel_key`).
    """
    fresh = random.take(_FRESH_BYTES)
    signature = steward.sign(signed_bytes("package", *_signed(key, to)))
    package = Package(key.key_id, key.context, key.site_secret, to.epoch_hash, signature)
    return fresh + seal(_sealing_key(channel, to, fresh), encode_body(package), b"")


def open_package(
    sealed: Buffer, to: Addressee, channel: bytes, steward_public_key: bytes, held_secret: bytes | None
) -> EpochKey:
    """Return the epoch's key from the steward's package.

    sealed: as it came through the coordinator, its size checked as the frame's. held_secret: the charter's site
    secret, None before the first package.
    Raises KeyRefused for whatever the steward did not sign for this site and epoch, or another site secret than the
    one held. Whether the context is one of the fixed parameters is seen in the worker that takes it.
    """
    view = memoryview(sealed)
    fresh, body = bytes(view[:_FRESH_BYTES]), view[_FRESH_BYTES:]
    try:
        package = decode_body(Package, unseal(_sealing_key(channel, to, fresh), body, b""))
        key = EpochKey(package.key_id, package.context, package.site_secret)
        check_signature(steward_public_key, package.signature, "package", *_signed(key, to))
    except (BadSignature, MalformedMessage):
        raise _refused("a package of this epoch's steward for this site") from None
    if package.epoch_hash != to.epoch_hash or hashlib.sha256(key.context).digest() != key.key_id:
        raise _refused("a key of this epoch under its own id")
    if held_secret is not None and not hmac.compare_digest(held_secret, key.site_secret):
        raise _refused("the charter's site secret unchanged")
    return key


def _signed(key: EpochKey, to: Addressee) -> tuple[bytes, bytes, int, bytes, bytes]:
    return to.session, to.epoch_hash, to.site, key.key_id, hashlib.sha256(key.site_secret).digest()


def _sealing_key(channel: bytes, to: Addressee, fresh: bytes) -> bytes:
    return derive(channel, to.epoch_hash, "package", to.site, fresh)


def _refused(expected: str) -> KeyRefused:
    return KeyRefused(f"expected {expected}, got another. Take no key of it; ask the steward.")
