"""A site's answers to E0 and E1: fresh channel keys for an epoch, exchanged under everybody's signature.

Speaks as a site. Channel secrets live in memory only, so a site that restarts waits for the next epoch.
Source: secure_aggregation.md, section 5, "Epoch".
"""

from __future__ import annotations

from secure_frl.errors import EpochRefused, RosterRefused
from secure_frl.masking import contexts
from secure_frl.masking.keys import KeyPair, check_distinct, open_channels, points
from secure_frl.masking.site_memory import (
    Answer,
    EpochOpen,
    EpochView,
    KeysAdvertised,
    SiteParty,
    SiteState,
    end_attempt,
)
from secure_frl.secure_sum import COORDINATOR_ID, SiteId
from secure_frl.wire.envelope import EMPTY_32, Address, Header, sign_frame
from secure_frl.wire.messages import (
    Body,
    EpochAck,
    EpochEntry,
    EpochKey,
    EpochList,
    MessageType,
    OpenEpoch,
    encode_body,
)
from secure_frl.wire.signatures import check_signature, signed_bytes

_CLOSING_STAGES = ("R3b", "R4", "closed")  # after one of these a site takes part in no other attempt of the round


def last_closed_round(party: SiteParty) -> int:
    """Return the last round of which this site will answer no new attempt; 0 before the first."""
    last = party.register.last_stage()
    if last is None:
        return 0
    number, _, stage = last
    return number if stage in _CLOSING_STAGES else number - 1


def open_epoch(party: SiteParty, state: SiteState, header: Header, body: OpenEpoch) -> Answer:
    """Answer E0 with a fresh signed key. Raises EpochRefused."""
    now = party.clock()
    if body.epoch != header.epoch or body.epoch <= party.register.last_epoch():
        raise EpochRefused(
            f"expected an epoch after {party.register.last_epoch()}, got {body.epoch}. Open a newer one."
        )
    if body.first_round <= last_closed_round(party):
        raise EpochRefused(
            f"expected a first round after {last_closed_round(party)}, got {body.first_round}. Start at a later round."
        )
    if not now < body.expiry_s <= now + contexts.LONGEST_EPOCH_S:
        raise EpochRefused(
            f"expected an expiry within {contexts.LONGEST_EPOCH_S} s from now, got {body.expiry_s - now:.0f} s ahead. "
            "Compare the clocks, then open a new epoch."
        )
    party.register.note_epoch(body.epoch)
    end_attempt(state, party.host)
    keys = KeyPair.draw(party.random)
    session, roster = party.terms.session, party.terms.roster_hash
    signature = party.signing_key.sign(
        signed_bytes("epoch", session, body.epoch, party.me, keys.public, b"", roster, body.expiry_s)
    )
    advertised = KeysAdvertised(body.epoch, keys, signature, body.epoch_key, body.first_round, body.expiry_s)
    return advertised, _sign(party, body.epoch, MessageType.E0_REPLY, EpochKey(keys.public, b"", signature))


def join_epoch(party: SiteParty, state: KeysAdvertised, header: Header, body: EpochList) -> Answer:
    """Answer E1 with a signature over the epoch's hash.

    Raises RosterRefused, BadSignature, KeyRefused, EpochRefused.
    """
    if header.epoch != state.epoch or not party.clock() < state.expiry_s:
        raise EpochRefused(
            f"expected the list of epoch {state.epoch} before it expires, got another. Open a newer one."
        )
    check_entries(party, state, body.entries)
    public_keys: dict[int, bytes] = {entry.site: entry.public_key for entry in body.entries}
    public_keys[COORDINATOR_ID] = state.coordinator_key
    check_distinct(list(public_keys.values()))
    session = party.terms.session
    rows = [(entry.site, entry.public_key, entry.nonce_commitment) for entry in body.entries]
    digest = contexts.epoch_hash(session, state.epoch, rows, state.coordinator_key)
    view = EpochView(
        epoch=state.epoch,
        epoch_hash=digest,
        members=tuple(SiteId(entry.site) for entry in body.entries),
        points=points(public_keys.values()),
        channels=open_channels(state.keys, party.me, public_keys, digest, state.first_round),
        first_round=state.first_round,
        expiry_s=state.expiry_s,
    )
    signature = party.signing_key.sign(signed_bytes("epoch-ack", session, state.epoch, digest))
    return EpochOpen(view), _sign(party, state.epoch, MessageType.E1_REPLY, EpochAck(signature))


def check_entries(party: SiteParty, state: KeysAdvertised, entries: tuple[EpochEntry, ...]) -> None:
    """Check the list of E1: enough enrolled sites, each one's signature, this site's own entry unchanged."""
    ids = [entry.site for entry in entries]
    terms = party.terms
    if ids != sorted(set(ids)) or (ids and ids[-1] >= len(terms.site_public_keys)):
        raise RosterRefused("expected enrolled sites in ascending order, got another list. Leave this epoch.")
    if len(ids) < terms.constants.min_survivors:
        raise RosterRefused(
            f"expected at least {terms.constants.min_survivors} sites in the epoch, got {len(ids)}. Leave this epoch."
        )
    own = EpochEntry(party.me, state.keys.public, b"", state.entry_signature)
    if own not in entries:
        raise RosterRefused("expected this site's own key unchanged in the list, got another. Leave this epoch.")
    for entry in entries:
        check_entry(terms.session, terms.roster_hash, state.epoch, state.expiry_s, entry, terms.site_public_keys)


def check_entry(
    session: bytes,
    roster_hash: bytes,
    epoch: int,
    expiry_s: int,
    entry: EpochEntry,
    enrolled: tuple[bytes, ...],
) -> None:
    """Check one site's signature under its enrolled key. Raises BadSignature."""
    key, commitment = entry.public_key, entry.nonce_commitment
    fields = (session, epoch, entry.site, key, commitment, roster_hash, expiry_s)
    check_signature(enrolled[entry.site], entry.signature, "epoch", *fields)


def _sign(party: SiteParty, epoch: int, message_type: MessageType, body: Body) -> bytes:
    encoded = encode_body(body)
    address = Address(party.terms.session, epoch, 0, 0, party.me, COORDINATOR_ID, EMPTY_32)
    return sign_frame(address.header(message_type, len(encoded)), encoded, party.signing_key)
