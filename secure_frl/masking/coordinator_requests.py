"""The coordinator's requests of each stage, one frame a site, made as they are taken.

Making a frame twice gives the same bytes, so a request that got lost is sent again without sealing anything new.
Source: docs/protocol.md, sections 11 and 12.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from secure_frl.masking.coordinator_memory import (
    AskingConfirmations,
    AskingInputs,
    AskingKeys,
    AskingShares,
    AttemptView,
    Publishing,
)
from secure_frl.secure_sum import Addressed, SiteId
from secure_frl.wire.envelope import seal, seal_frame, sign_frame
from secure_frl.wire.hashing import encode_integers
from secure_frl.wire.messages import (
    Announcement,
    Confirmations,
    Inbox,
    MessageType,
    PublishedSum,
    Survivors,
    encode_body,
)
from secure_frl.wire.signatures import signed_bytes


def requests_of(state: object, sites: Iterable[SiteId]) -> Iterator[Addressed]:
    """Yield this stage's request to each of the sites."""
    if isinstance(state, AskingKeys):
        yield from announcements(state.view, sites)
    elif isinstance(state, AskingInputs):
        for site in sites:
            body = Inbox(state.dealt.of(site))
            yield site, state.view.seal(site, MessageType.R1P, state.view.ctx1, body, state.packed, state.packed_hash)
    elif isinstance(state, AskingConfirmations):
        named = encode_body(Survivors(state.survivors, sign_survivors(state)))
        for site in sites:
            yield site, state.view.seal_encoded(site, MessageType.R3A, state.ctx2, named)
    elif isinstance(state, AskingShares):
        for site in sites:
            mail = Confirmations(state.mail.of(site))
            yield site, state.view.seal(site, MessageType.R3C, state.ctx2, mail)
    elif isinstance(state, Publishing):
        yield from publication(state, sites)


def announcements(view: AttemptView, sites: Iterable[SiteId]) -> Iterator[Addressed]:
    """Yield R0."""
    without_model = announced(view, b"")
    digest = hashlib.sha256(without_model).digest()
    for site in sites:
        yield site, announcement(view, site, without_model, digest)


def announced(view: AttemptView, sealed: bytes) -> bytes:
    """Return R0's body: the same for every site that needs no model."""
    context = view.context
    digest = hashlib.sha256(sealed).digest()
    return encode_body(Announcement(context.cohort, view.fresh, context.config_hash, context.policy_tag, digest))


def announcement(view: AttemptView, site: SiteId, without_model: bytes, digest: bytes) -> bytes:
    """Return R0: header and cohort signed, then the model, sealed, for a site that lacks it."""
    model = view.models.get(site)
    header = view.address(site, view.fresh).header(MessageType.R0, len(without_model))  # a digest has one size
    if model is None:
        return sign_frame(header, without_model, view.epoch.signing_key, digest)
    key = view.link(site, MessageType.R0, view.context.epoch_hash, view.fresh)
    sealed = seal(key, model, header.encode())
    return sign_frame(header, announced(view, sealed), view.epoch.signing_key) + sealed


def sign_survivors(state: AskingConfirmations) -> bytes:
    """Return the signature that convicts the coordinator if it names two sets in one round."""
    context = state.view.context
    fields = (context.session, context.round, context.attempt, state.ctx2, encode_integers(state.survivors))
    return state.view.epoch.signing_key.sign(signed_bytes("R3a", *fields))


def publication(state: Publishing, sites: Iterable[SiteId]) -> Iterator[Addressed]:
    """Yield R5."""
    view, summed = state.view, state.summed
    survivors, digest = list(summed.survivors), hashlib.sha256(summed.total_bytes).digest()
    signed = signed_bytes("R5", view.ctx1, survivors, digest, state.next_tag, summed.transcript_hash)
    body = encode_body(
        PublishedSum(
            summed.survivors,
            summed.total_bytes,
            state.next_tag,
            summed.transcript_hash,
            view.epoch.signing_key.sign(signed),
        )
    )
    for site in sites:
        key = view.link(site, MessageType.R5, view.ctx1, view.fresh)
        yield site, seal_frame(view.address(site, view.fresh), MessageType.R5, body, key)
