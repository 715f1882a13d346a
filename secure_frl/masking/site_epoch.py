"""A site's answers to E0, E1 and E2: fresh channel keys for an epoch, exchanged under everybody's signature.

In cross_device every site commits to a nonce with its key and shows it only when it has the whole list, so that nobody
chooses the epoch's hash, from which the graphs come; the list of E2 must open every commitment of E1.
Speaks as a site. Channel secrets live in memory only, so a site that restarts waits for the next epoch.
Source: docs/protocol.md, section 11.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from secure_frl.errors import EpochRefused, RosterRefused
from secure_frl.masking import contexts
from secure_frl.masking.keys import KeyPair, check_distinct, open_channels, points
from secure_frl.masking.site_memory import (
    Answer,
    EpochOpen,
    EpochView,
    KeysAdvertised,
    NonceShown,
    SiteParty,
    SiteState,
    WithoutEpoch,
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
    EpochNonce,
    EpochNonces,
    MessageType,
    OpenEpoch,
    encode_body,
)
from secure_frl.wire.signatures import check_signature, signed_bytes

CHECKED_AT_ONCE = 1000  # signatures of a list: a tenth of a second; in longer ones peers are checked when needed
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
    keys = KeyPair.draw(party.random)
    session, roster = party.terms.session, party.terms.roster_hash
    nonce = party.random.take(contexts.NONCE_BYTES) if _has_nonces(party) else b""
    commitment = contexts.nonce_commitment(session, body.epoch, party.me, nonce) if nonce else b""
    signature = party.signing_key.sign(
        signed_bytes("epoch", session, body.epoch, party.me, keys.public, commitment, roster, body.expiry_s)
    )
    advertised = KeysAdvertised(
        epoch=body.epoch,
        keys=keys,
        nonce=nonce,
        nonce_commitment=commitment,
        entry_signature=signature,
        coordinator_key=body.epoch_key,
        first_round=body.first_round,
        expiry_s=body.expiry_s,
    )
    reply = _sign(party, body.epoch, MessageType.E0_REPLY, EpochKey(keys.public, commitment, signature))
    party.register.note_epoch(body.epoch)
    try:
        end_attempt(state, party.host)
    except Exception as error:  # a host that fails can't keep the old attempt alive
        return WithoutEpoch(), error
    return advertised, reply


def take_list(party: SiteParty, state: KeysAdvertised, header: Header, body: EpochList) -> Answer:
    """Answer E1: with a signature over the epoch's hash, in cross_device with this site's nonce.

    Raises RosterRefused, BadSignature, KeyRefused, EpochRefused.
    """
    _check_open(party, state, header)
    unchecked = check_entries(party, state, body.entries)
    if _has_nonces(party):
        return NonceShown(state, body.entries, unchecked), _sign(
            party, state.epoch, MessageType.E1_REPLY, EpochNonce(state.nonce)
        )
    return join_epoch(party, state, body.entries, [b""] * len(body.entries), unchecked, MessageType.E1_REPLY)


def take_nonces(party: SiteParty, state: NonceShown, header: Header, body: EpochNonces) -> Answer:
    """Answer E2 with a signature over the epoch's hash. Raises EpochRefused, KeyRefused."""
    advertised, session = state.advertised, party.terms.session
    _check_open(party, advertised, header)
    is_whole = len(body.nonces) == len(state.entries) and all(
        contexts.nonce_commitment(session, advertised.epoch, entry.site, nonce) == entry.nonce_commitment
        for entry, nonce in zip(state.entries, body.nonces, strict=True)
    )
    if not is_whole:
        raise EpochRefused(
            "expected the nonce that every site of the list committed to, got others. Open a new epoch without the "
            "sites that show none."
        )
    return join_epoch(party, advertised, state.entries, body.nonces, state.unchecked, MessageType.E2_REPLY)


def join_epoch(
    party: SiteParty,
    state: KeysAdvertised,
    entries: tuple[EpochEntry, ...],
    nonces: Sequence[bytes],
    unchecked: dict[SiteId, EpochEntry],
    reply: MessageType,
) -> Answer:
    """Derive every channel, forget the epoch's secret, sign the epoch's hash. Raises KeyRefused."""
    public_keys: dict[int, bytes] = {entry.site: entry.public_key for entry in entries}
    public_keys[COORDINATOR_ID] = state.coordinator_key
    check_distinct(list(public_keys.values()))
    session = party.terms.session
    rows = [(entry.site, entry.public_key, nonce) for entry, nonce in zip(entries, nonces, strict=True)]
    digest = contexts.epoch_hash(session, state.epoch, rows, state.coordinator_key)
    view = EpochView(
        epoch=state.epoch,
        epoch_hash=digest,
        members=tuple(SiteId(entry.site) for entry in entries),
        points=points(public_keys.values()),
        channels=open_channels(state.keys, party.me, public_keys, digest, state.first_round),
        first_round=state.first_round,
        expiry_s=state.expiry_s,
        unchecked=unchecked,
    )
    signature = party.signing_key.sign(signed_bytes("epoch-ack", session, state.epoch, digest))
    return EpochOpen(view), _sign(party, state.epoch, reply, EpochAck(signature))


def _check_open(party: SiteParty, state: KeysAdvertised, header: Header) -> None:
    if header.epoch != state.epoch or not party.clock() < state.expiry_s:
        raise EpochRefused(
            f"expected the list of epoch {state.epoch} before it expires, got another. Open a newer one."
        )


def _has_nonces(party: SiteParty) -> bool:
    return party.terms.constants.profile == contexts.CROSS_DEVICE


def check_entries(party: SiteParty, state: KeysAdvertised, entries: tuple[EpochEntry, ...]) -> dict[SiteId, EpochEntry]:
    """Check the list of E1: enough enrolled sites, each one's signature, this site's own entry unchanged.

    Returns the entries whose signature waits until their site becomes a neighbour: none, but in long lists.
    Raises RosterRefused, BadSignature.
    """
    ids = [entry.site for entry in entries]
    terms = party.terms
    if ids != sorted(set(ids)) or (ids and ids[-1] >= len(terms.site_public_keys)):
        raise RosterRefused("expected enrolled sites in ascending order, got another list. Leave this epoch.")
    constants = terms.constants
    least = constants.sites if _has_nonces(party) else constants.min_survivors
    if len(ids) < least:
        raise RosterRefused(f"expected at least {least} sites in the epoch, got {len(ids)}. Leave this epoch.")
    expired = contexts.expired_sites(terms, ids, party.clock())
    if expired:
        raise RosterRefused(f"expected sites whose enrolment lasts, but it ended for {expired}. Leave this epoch.")
    own = EpochEntry(party.me, state.keys.public, state.nonce_commitment, state.entry_signature)
    if own not in entries:
        raise RosterRefused("expected this site's own key unchanged in the list, got another. Leave this epoch.")
    if any(len(entry.nonce_commitment) != len(state.nonce_commitment) for entry in entries):
        raise RosterRefused("expected a commitment to a nonce exactly where the profile has nonces. Leave this epoch.")
    unchecked = {SiteId(entry.site): entry for entry in entries}
    if len(entries) <= CHECKED_AT_ONCE:
        check_peers(party, state.epoch, state.expiry_s, unchecked, list(unchecked))
    return unchecked


def check_peers(
    party: SiteParty, epoch: int, expiry_s: int, unchecked: dict[SiteId, EpochEntry], peers: Iterable[SiteId]
) -> None:
    """Check the signatures of these peers' entries, each once an epoch. Raises BadSignature."""
    terms = party.terms
    for peer in peers:
        entry = unchecked.get(peer)
        if entry is not None:
            check_entry(terms.session, terms.roster_hash, epoch, expiry_s, entry, terms.site_public_keys)
            del unchecked[peer]


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
