"""A site's reading of R5: the published sum, and whether the announced policy follows from it.

Speaks as a site. The coordinator states sum and next policy; a site takes neither that contradicts the survivors it
confirmed, the transcript, the lanes, the charter's bound, or its own optimiser's step.
Source: docs/protocol.md, section 12, R5.
"""

from __future__ import annotations

import hashlib

import numpy as np

from secure_frl.encoding.lanes import from_ring_sum
from secure_frl.encoding.ring import to_words, word_type
from secure_frl.errors import MalformedMessage, ModelDoesNotFollow, SurvivorsRefused
from secure_frl.masking import contexts
from secure_frl.masking.graph import as_sites
from secure_frl.masking.site_memory import (
    Answer,
    AttemptState,
    EpochOpen,
    InputSent,
    SetConfirmed,
    SiteParty,
    SumAwaited,
)
from secure_frl.secure_sum import SiteId, Sum, SumConstants
from secure_frl.wire.envelope import Header, seal_frame
from secure_frl.wire.messages import EncryptedTotal, MessageType, Nothing, PublishedSum, encode_body
from secure_frl.wire.registry import vector_bytes
from secure_frl.wire.signatures import check_signature


def take_sum(party: SiteParty, state: AttemptState, header: Header, body: PublishedSum) -> Answer:
    """Answer R5 with nothing once everything holds; the round is closed here, whether it holds or not.

    Raises BadSignature, SurvivorsRefused, MalformedMessage, LaneMismatch, SumOutOfRange or ModelDoesNotFollow.
    """
    attempt = state.attempt
    context = attempt.context
    party.register.record(context.round, context.attempt, "closed", hashlib.sha256(body.total).digest())
    survivors = check_survivors(party, state, body, hashlib.sha256(body.total).digest(), body.next_tag)
    total = read_sum(body.total, survivors, party.terms.constants)
    if party.host.next_tag(total) != body.next_tag:
        raise ModelDoesNotFollow(
            "expected the policy that follows from the published sum, got another. Keep the old one."
        )
    party.host.close("summed")  # of the round: a lost site follows to the next policy too
    link = attempt.link(MessageType.R5_REPLY, attempt.ctx1)
    reply = seal_frame(attempt.address(party.me), MessageType.R5_REPLY, encode_body(Nothing()), link)
    # Nothing of a closed round is opened again: its channel keys go now rather than when the next round starts.
    attempt.view.channels.advance_to(context.round + 1)
    return EpochOpen(attempt.view), reply


def check_survivors(
    party: SiteParty, state: AttemptState, body: PublishedSum | EncryptedTotal, digest: bytes, next_tag: bytes
) -> tuple[SiteId, ...]:
    """Return over whom a published sum goes, if it is one that this site can believe; its content is not looked at.

    digest: SHA-256 of the published bytes. next_tag: as signed, empty where the coordinator knows none.
    """
    attempt, constants = state.attempt, party.terms.constants
    survivors = as_sites(body.survivors)
    signed = (attempt.ctx1, list(survivors), digest, next_tag, body.transcript_hash)
    check_signature(party.terms.coordinator_public_key, body.signature, "R5", *signed)
    known = set(attempt.context.cohort)
    if list(survivors) != sorted(set(survivors) & known) or len(survivors) < constants.min_survivors:
        raise SurvivorsRefused("expected enough survivors of the cohort in ascending order, got another list. Stop.")
    if isinstance(state, SetConfirmed | SumAwaited) and survivors != state.survivors:
        raise SurvivorsRefused("expected the survivors that this site confirmed, got another list. Tell the auditor.")
    if isinstance(state, InputSent | SetConfirmed | SumAwaited):
        transcript = contexts.transcript_hash(state.ctx2, contexts.survivors_hash(state.ctx2, survivors), digest)
        if transcript != body.transcript_hash:
            raise SurvivorsRefused("expected the transcript that this site saw, got another. Tell the auditor.")
    return survivors


def read_sum(data: bytes, survivors: tuple[SiteId, ...], constants: SumConstants) -> Sum:
    """Decode a published sum. Raises MalformedMessage, LaneMismatch, SumOutOfRange."""
    width = constants.modulus_bits
    size = vector_bytes(constants.length, width)
    if len(data) != size:
        raise MalformedMessage(f"expected a sum of {size} bytes, got {len(data)}. Drop it.")
    centred = np.frombuffer(data, f"<i{word_type(width).itemsize}").astype(np.int64)
    half = 1 << (width - 1)
    if int(centred.min()) < -half or int(centred.max()) >= half:
        raise MalformedMessage(f"expected words centred modulo 2^{width}, got one outside. Drop it.")
    return Sum(from_ring_sum(to_words(centred, width), constants, len(survivors)), constants.scale, survivors)
