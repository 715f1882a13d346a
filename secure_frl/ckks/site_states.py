"""A site's half under `ckks` and `ckks+masking`: masking's machine with other rows where vectors are encrypted.

What stays: epochs, contexts, keys, shares, confirmations, durable rows, refusals. What differs: the steward's key
before the first round; R2C in place of R2, under plain ckks already as the answer to R0; R5C, which a site decrypts;
R6. Speaks as a site.
A site that cannot open a sum, or cannot follow it for whatever reason, answers as one that could: with 32 bytes,
random ones. Why stays in its own log.
Source: docs/protocol.md, section 18.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np

from secure_frl.ckks.epoch_cipher import EpochCipher, SiteWorkers
from secure_frl.ckks.site_epoch import BlindParty, hand_over_policy, make_packages, take_package
from secure_frl.encoding.lanes import from_ring_sum
from secure_frl.encoding.ring import reduce_, word_type
from secure_frl.errors import KeyRefused, MalformedMessage, RoundRefused, SecureFrlError
from secure_frl.masking import contexts, site_states
from secure_frl.masking.site_attempt import (
    checked_vector,
    deal_update,
    join_attempt,
    open_attempt,
    record,
    send_input,
)
from secure_frl.masking.site_memory import (
    Answer,
    Attempt,
    AttemptState,
    EpochOpen,
    EpochView,
    InputSent,
    SharesSent,
)
from secure_frl.masking.site_states import ATTEMPTS, SiteProtocol
from secure_frl.masking.site_sum import check_survivors
from secure_frl.secure_sum import SiteId, Sum, Words
from secure_frl.wire.envelope import Header, mac_digest, seal_frame
from secure_frl.wire.messages import Announcement, EncryptedTotal, FollowingTag, MessageType, encode_body

T = MessageType

# --- R0 --------------------------------------------------------------------------------------------------------------


def join_encrypted(
    party: BlindParty,
    state: EpochOpen | AttemptState,
    header: Header,
    body: Announcement,
    sealed: bytes,
    begin: Callable[[BlindParty, EpochView, Header, Announcement], Answer],
) -> Answer:
    """Answer R0 once this epoch's key is here and trusted. Raises RoundRefused, KeySuspect, and as `join_attempt`."""
    cipher_of(state.view if isinstance(state, EpochOpen) else state.attempt.view).check_trusted()
    return join_attempt(party, state, header, body, sealed, begin=begin)


def cipher_of(view: EpochView) -> EpochCipher:
    """Return the epoch's key at work. Raises RoundRefused before it is here."""
    if not isinstance(view.cipher, EpochCipher):
        raise RoundRefused("expected the steward's key before the first round, got a round. Send the package first.")
    return view.cipher


def encrypt_update(party: BlindParty, view: EpochView, header: Header, body: Announcement) -> Answer:
    """Start a round of plain ckks: let the host make the update and answer with its ciphertexts at once."""
    attempt = open_attempt(party, view, header, body)
    words = checked_vector(party, attempt.context)
    nobody = contexts.members_hash(b"")
    ctx2 = contexts.mask_context(attempt.ctx1, body.model_tag, party.config_hash, nobody)
    reply = encrypted_frame(party, attempt, ctx2, words)
    record(party, attempt, "R2", mac_digest(reply))
    party.host.release()  # synced: the next bytes that leave are made from data
    return InputSent(attempt, ctx2, np.empty(0, np.int64), {}, {}), reply


def encrypted_frame(party: BlindParty, attempt: Attempt, ctx2: bytes, words: Words) -> bytes:
    """Return R2C: ciphertexts under a tag and sealed, for every site could read them on their way."""
    cipher = cipher_of(attempt.view)
    address = replace(attempt.address(party.me), key_id=cipher.key_id)
    return seal_frame(address, T.R2C, cipher.encrypt(words), attempt.link(T.R2C, ctx2))


# --- R5C -------------------------------------------------------------------------------------------------------------


def take_encrypted_sum(
    party: BlindParty, state: AttemptState, header: Header, body: EncryptedTotal, ciphertexts: bytes, digest: bytes
) -> Answer:
    """Answer R5C with the tag of the policy that follows; the round is closed here, whether the sum opens or not.

    digest: SHA-256 of the ciphertexts, which the frame's tag covers.
    Raises KeyRefused, BadSignature, SurvivorsRefused or MalformedMessage for what can be said without decrypting; from
    there on nothing. A full disk is answered like a chosen ciphertext: told apart, the one would hide the other.
    """
    attempt = state.attempt
    context, view = attempt.context, attempt.view
    cipher = cipher_of(view)
    if header.key_id != cipher.key_id:
        raise KeyRefused("expected a sum under this epoch's key, got another key's. Send this epoch's sum.")
    published = published_digest(body.correction, digest)
    party.register.record(context.round, context.attempt, "closed", published)
    survivors = check_survivors(party, state, body, published, b"")
    correction = read_correction(party, body.correction)
    try:
        following = party.host.next_tag(_open_total(party, cipher, ciphertexts, correction, survivors))
        party.host.close("summed")
    except Exception as error:  # whatever failed, its name or a reply of another size would tell of what was decrypted
        cipher.note_failure()
        following = party.random.take(len(digest))
        _keep_policy(party, context.round, error)
    link = attempt.link(T.R5C_REPLY, attempt.ctx1)
    reply = seal_frame(attempt.address(party.me), T.R5C_REPLY, encode_body(FollowingTag(following)), link)
    view.channels.advance_to(context.round + 1)  # nothing of a closed round is opened again
    return EpochOpen(view), reply


def _open_total(
    party: BlindParty,
    cipher: EpochCipher,
    ciphertexts: bytes,
    correction: Words | None,
    survivors: tuple[SiteId, ...],
) -> Sum:
    """Decrypt a sum and check its lanes and range. Raises DecryptionFailed, LaneMismatch, SumOutOfRange."""
    constants = party.terms.constants
    words = cipher.open_sum(ciphertexts, len(survivors))
    if correction is not None:
        np.subtract(words, correction, out=words)
        reduce_(words, constants.modulus_bits)
    return Sum(from_ring_sum(words, constants, len(survivors)), constants.scale, survivors)


def _keep_policy(party: BlindParty, number: int, error: Exception) -> None:
    """End a round whose sum was not followed; why, only this site's log says. Raises nothing."""
    reasons = [(type(error).__name__, _reason(error))]
    try:
        party.host.close("unknown")
    except Exception as second:  # as above: not even a disk that fails twice may speak
        reasons.append((type(second).__name__, _reason(second)))
    for name, reason in reasons:
        with suppress(Exception):  # a log on the same full disk
            party.log(name, f"round {number}: kept the policy and answered with 32 random bytes: {reason}")


def _reason(error: Exception) -> str:
    """Return what the operator needs: our own text, the system's, else only where; another's text may quote a sum."""
    if isinstance(error, SecureFrlError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}. Mend it, then the next round is followed again."
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"failed in {place.name}, line {place.lineno} of {place.filename}. Report this."


def published_digest(correction: bytes, ciphertexts_digest: bytes) -> bytes:
    """Return SHA-256 of what R5C publishes: M, then SHA-256 of the ciphertexts."""
    return hashlib.sha256(correction + ciphertexts_digest).digest()


def read_correction(party: BlindParty, data: bytes) -> Words | None:
    """Return M, words [P + 4]; None under plain ckks, where nothing is masked. Raises MalformedMessage."""
    constants = party.terms.constants
    is_masked = constants.protection == contexts.CKKS_MASKING
    kind = word_type(constants.modulus_bits)
    size = kind.itemsize * party.plan.words if is_masked else 0
    if len(data) != size:
        raise MalformedMessage(f"expected a correction of {size} bytes, got {len(data)}. Drop it.")
    if not is_masked:
        return None
    words: Words = np.frombuffer(data, kind.newbyteorder("<")).astype(kind)
    if int(words.max()) >> constants.modulus_bits:
        raise MalformedMessage(f"expected words below 2^{constants.modulus_bits}, got one beyond. Drop it.")
    return words


# --- the machines ----------------------------------------------------------------------------------------------------

_Table = dict[tuple[type[Any], MessageType], Callable[..., Answer]]  # Any: as in masking
_REPLACED = (T.R0, T.R5)
_AT_REST = (EpochOpen, *ATTEMPTS)


def _table(begin: Callable[..., Answer], kept: Mapping[tuple[type[Any], MessageType], Callable[..., Answer]]) -> _Table:
    return {
        **{row: handler for row, handler in kept.items() if row[1] not in _REPLACED},
        (EpochOpen, T.E3): make_packages,
        (EpochOpen, T.PACKAGE): take_package,
        (EpochOpen, T.R6): hand_over_policy,
        **{(state, T.R0): partial(join_encrypted, begin=begin) for state in _AT_REST},
        **{(state, T.R5C): take_encrypted_sum for state in ATTEMPTS},
    }


_EPOCH = {row: handler for row, handler in site_states.TABLE.items() if row[1] in (T.E0, T.E1)}
CKKS_TABLE = _table(encrypt_update, _EPOCH)
CKKS_MASKING_TABLE: _Table = {
    **_table(deal_update, site_states.TABLE),
    (SharesSent, T.R1P): partial(send_input, frame_of=encrypted_frame),
}


class CkksSite(SiteProtocol):
    """One site under a charter of protection `ckks`."""

    table = CKKS_TABLE

    def __init__(self, *, workers: SiteWorkers, **rest: Any) -> None:  # Any: exactly SiteProtocol's own arguments
        """workers: whose worker will hold this site's keys; the caller closes it."""
        super().__init__(**rest)
        party = self._party
        given = {one.name: getattr(party, one.name) for one in fields(party)}
        plan = contexts.chunk_plan(party.terms.constants)
        self._party = BlindParty(**given, plan=plan, workers=workers, log=self._log)


class CkksMaskingSite(CkksSite):
    """One site under a charter of protection `ckks+masking`."""

    table = CKKS_MASKING_TABLE


def blind_site(protection: str) -> type[CkksSite]:
    """Return the machine of a protection whose sums are encrypted."""
    return CkksMaskingSite if protection == contexts.CKKS_MASKING else CkksSite
