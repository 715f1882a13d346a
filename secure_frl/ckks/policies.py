"""The policy as only sites can read it: its keyed tag, and the parcel in which one site hands it to another.

The coordinator stores and carries parcels. A tag is keyed, so that it cannot try models against it; a parcel seals the
model under a key that seals nothing else; its tag and its step are authenticated. A parcel says that some site of the
charter sealed this model, not which: the key follows from what every site holds. From which policy it follows, the
model says itself.
Source: docs/protocol.md, section 18.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

import msgspec

from secure_frl.errors import BadSignature, MalformedMessage, ModelDoesNotFollow
from secure_frl.masking.keys import derive
from secure_frl.secure_sum import RandomSource, SiteId
from secure_frl.wire.envelope import TAG_BYTES, Buffer, seal, unseal
from secure_frl.wire.hashing import lp
from secure_frl.wire.messages import B32, Body, Id, Natural, decode_body, encode_body

_FRESH_BYTES = 32


class SealedPolicy(Body, frozen=True):
    """A parcel: what is sealed, and what its key and its associated data are made of."""

    writer: Id
    step: Natural  # the optimiser's step that made this policy
    fresh: B32
    sealed: Annotated[bytes, msgspec.Meta(min_length=TAG_BYTES, max_length=1 << 30)]


def keyed_tag(site_secret: bytes, session: bytes, model: bytes) -> bytes:
    """Return a policy's tag, 32 bytes: equal at all sites of a charter, and nothing to who lacks the site secret."""
    return hmac.digest(derive(site_secret, session, "model-tag"), model, "sha256")


def seal_policy(
    site_secret: bytes,
    session: bytes,
    *,
    writer: SiteId,
    step: int,
    tag: bytes,
    model: bytes,
    random: RandomSource,
) -> bytes:
    """Return the parcel of a policy; two of one policy differ.

    tag: `keyed_tag` of the model, 32 bytes; it is not in the parcel, who opens it says which policy is wanted.
    """
    fresh = random.take(_FRESH_BYTES)
    key = _sealing_key(site_secret, session, step, writer, fresh)
    sealed = seal(key, model, lp(session, step, tag))
    return encode_body(SealedPolicy(writer, step, fresh, sealed))


def open_policy(site_secret: bytes, session: bytes, parcel: Buffer, tag: bytes) -> bytes:
    """Return the policy of this tag from a parcel that came through the coordinator.

    Raises ModelDoesNotFollow, with one text whatever the cause, unless a site of this charter sealed a policy of this
    tag in these very bytes. Whether it follows from the policy held is the caller's to check.
    """
    try:
        body = decode_body(SealedPolicy, parcel)
        key = _sealing_key(site_secret, session, body.step, body.writer, body.fresh)
        model = unseal(key, body.sealed, lp(session, body.step, tag))
    except (BadSignature, MalformedMessage):
        raise _refused() from None
    if not hmac.compare_digest(keyed_tag(site_secret, session, model), tag):
        raise _refused()
    return model


def _sealing_key(site_secret: bytes, session: bytes, step: int, writer: int, fresh: bytes) -> bytes:
    return derive(site_secret, hashlib.sha256(lp(session, step, writer, fresh)).digest(), "model-blob")


def _refused() -> ModelDoesNotFollow:
    return ModelDoesNotFollow("expected a parcel with the policy of the stated tag, got another. Ask another site.")
