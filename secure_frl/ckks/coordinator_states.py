"""The coordinator's half under `ckks` and `ckks+masking`: masking's machine around a sum that it cannot read.

It adds ciphertexts as they come and publishes their sum; under ckks+masking it also rebuilds, from shares, the masks
that did not cancel, and publishes their sum M, which says nothing about any update. Which policy follows only sites
know: each answers with its tag.
Speaks as the coordinator.
Source: docs/protocol.md, section 18.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from secure_frl.ckks.site_states import published_digest
from secure_frl.encoding.ring import reduce_, word_type
from secure_frl.errors import LocalProtocolError, TooFewSurvivors, UnexpectedState
from secure_frl.masking import contexts, coordinator_stages
from secure_frl.masking.coordinator_memory import (
    AskingInputs,
    AskingKeys,
    AskingShares,
    AttemptView,
    Publishing,
    Summed,
)
from secure_frl.masking.coordinator_requests import announcements, requests_of
from secure_frl.masking.coordinator_states import CLOSINGS, TABLE, SumMachine
from secure_frl.masking.keys import points
from secure_frl.masking.neighbourhoods import PairTable
from secure_frl.masking.unmasking import unmask_
from secure_frl.secure_sum import Addressed, BlindSum, CipherSum, SiteId
from secure_frl.wire.envelope import Header, seal_frame
from secure_frl.wire.messages import EncryptedTotal, FollowingTag, MessageType, decode_body, encode_body
from secure_frl.wire.records import DEALT_BYTES
from secure_frl.wire.signatures import signed_bytes


@dataclass(slots=True, eq=False)
class AskingCiphertexts:
    """R0 is out under plain ckks; R2C comes in and is added at once."""

    view: AttemptView
    ctx2: bytes
    added: set[SiteId]


def encrypted_of(view: AttemptView) -> CipherSum:
    """Return the attempt's running sum of ciphertexts. Raises LocalProtocolError when it was begun without one."""
    if view.encrypted is None:
        raise LocalProtocolError("expected an attempt with an encrypted sum, got one without. Pass an empty one.")
    return view.encrypted


# --- R2C -------------------------------------------------------------------------------------------------------------


def take_ciphertexts(state: AskingCiphertexts | AskingInputs, site: SiteId, header: Header, frame: bytes) -> None:
    """Add one site's ciphertexts to the sum.

    Raises BadSignature, KeyRefused, EnvelopeRefused, CiphertextRefused: only bytes of this site's own are decoded.
    """
    body = state.view.unseal(site, header, state.ctx2, frame)
    encrypted_of(state.view).add(site, header.key_id, body)
    state.view.fresh_of[site] = header.fresh
    state.added.add(site)


def close_ciphertexts(state: AskingCiphertexts) -> Summed:
    """Fix U3 under plain ckks. Raises TooFewSurvivors."""
    view, survivors = state.view, tuple(sorted(state.added))
    least = view.terms.constants.min_survivors
    if len(survivors) < least:
        raise TooFewSurvivors(
            f"expected at least {least} sites, got {len(survivors)}. This round gives nothing; go on with the next one."
        )
    view.epoch.survivors_named_in = view.context.round
    return blind_summed(view, state.ctx2, survivors, b"")


def close_shares(state: AskingShares) -> Summed:
    """Add up the masks that did not cancel. Raises TooFewShares or DealerCheated; then nothing is published."""
    unmask_(state)  # of zeros: what is left is -M
    correction, width = state.accumulator, state.view.terms.constants.modulus_bits
    np.negative(correction, out=correction)
    reduce_(correction, width)
    words = correction.astype(word_type(width).newbyteorder("<"), copy=False).tobytes()
    return blind_summed(state.view, state.ctx2, state.survivors, words)


def blind_summed(view: AttemptView, ctx2: bytes, survivors: tuple[SiteId, ...], correction: bytes) -> Summed:
    """Return the end of an attempt whose sum only sites can read."""
    digest = published_digest(correction, hashlib.sha256(encrypted_of(view).body).digest())
    transcript = contexts.transcript_hash(ctx2, contexts.survivors_hash(ctx2, survivors), digest)
    return Summed(view, survivors, BlindSum(digest, survivors), correction, transcript)


# --- R5C -------------------------------------------------------------------------------------------------------------


def publication(state: Publishing, sites: Iterable[SiteId]) -> Iterator[Addressed]:
    """Yield R5C."""
    view, summed = state.view, state.summed
    encrypted = encrypted_of(view)
    ciphertexts = encrypted.body
    digest = hashlib.sha256(ciphertexts).digest()
    published = published_digest(summed.total_bytes, digest)
    signed = signed_bytes("R5", view.ctx1, list(summed.survivors), published, b"", summed.transcript_hash)
    signature = view.epoch.signing_key.sign(signed)
    body = encode_body(EncryptedTotal(summed.survivors, summed.total_bytes, summed.transcript_hash, signature))
    for site in sites:
        key = view.link(site, MessageType.R5C, view.ctx1, view.fresh)
        address = replace(view.address(site, view.fresh), key_id=encrypted.key_id)
        yield site, seal_frame(address, MessageType.R5C, body, key, ciphertexts, digest)


def take_following_tag(state: Publishing, site: SiteId, header: Header, frame: bytes) -> None:
    """Note to which policy a site follows. Raises BadSignature, MalformedMessage."""
    tag = decode_body(FollowingTag, state.view.unseal(site, header, state.view.ctx1, frame)).policy_tag
    state.followers[site] = tag


# --- the machines ----------------------------------------------------------------------------------------------------


class CkksSum(SumMachine):
    """The protection `ckks`: who leads a site to decrypt a single update reads it, so a site must not help."""

    table: ClassVar = {
        (AskingCiphertexts, MessageType.R2C): take_ciphertexts,
        (Publishing, MessageType.R5C_REPLY): take_following_tag,
    }
    closings: ClassVar = {AskingCiphertexts: close_ciphertexts, Publishing: coordinator_stages.close_publication}

    def _begin(self, view: AttemptView) -> object:
        context, nobody = view.context, contexts.members_hash(b"")
        ctx2 = contexts.mask_context(view.ctx1, context.policy_tag, context.config_hash, nobody)
        return AskingCiphertexts(view, ctx2, set())

    def _requests_of(self, sites: Iterable[SiteId]) -> Iterator[Addressed]:
        state = self._state
        if isinstance(state, AskingCiphertexts):
            return announcements(state.view, sites)
        return publication(state, sites) if isinstance(state, Publishing) else iter(())

    def outcome(self) -> BlindSum:
        """Return who is in the sum and its digest. Raises UnexpectedState until there is one."""
        total = super().outcome()
        if not isinstance(total, BlindSum):
            raise UnexpectedState("expected an encrypted sum, got one that can be read. Report this.")
        return total

    def publish(self) -> None:
        """Begin the last stage: the encrypted sum goes to the cohort, which answers with tags."""
        self._begin_publication(b"")


class CkksMaskedSum(CkksSum):
    """The protection `ckks+masking`: a site that is given a single site's ciphertexts reads masked words."""

    table: ClassVar = {
        **{row: take for row, take in TABLE.items() if row[1] not in (MessageType.R2, MessageType.R5_REPLY)},
        (AskingInputs, MessageType.R2C): take_ciphertexts,
        (Publishing, MessageType.R5C_REPLY): take_following_tag,
    }
    closings: ClassVar = {**CLOSINGS, AskingShares: close_shares}

    def _begin(self, view: AttemptView) -> object:
        return AskingKeys(view, {}, PairTable(view.near, DEALT_BYTES), set(points(view.epoch.public_keys)))

    def _requests_of(self, sites: Iterable[SiteId]) -> Iterator[Addressed]:
        state = self._state
        return publication(state, sites) if isinstance(state, Publishing) else requests_of(state, sites)


def blind_sum(protection: str) -> type[CkksSum]:
    """Return the machine of a protection whose sums are encrypted."""
    return CkksMaskedSum if protection == contexts.CKKS_MASKING else CkksSum
