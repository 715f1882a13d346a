"""The coordinator's handlers: what comes in at each stage, and what the stage's end makes of it.

Speaks as the coordinator. Every handler raises a PeerError about its one site before it has changed anything;
HolderCheated alone keeps that site's good shares. Every close_ function returns the next state or raises RoundAborted.
Source: docs/protocol.md, section 12.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from secure_frl.encoding.lanes import LANE_WORDS, from_ring_sum
from secure_frl.encoding.ring import centred, word_type
from secure_frl.errors import (
    BadShare,
    HolderCheated,
    MalformedMessage,
    TooFewShares,
    TooFewSurvivors,
)
from secure_frl.masking import contexts
from secure_frl.masking.coordinator_memory import (
    AskingConfirmations,
    AskingInputs,
    AskingKeys,
    AskingShares,
    AttemptView,
    MemberKeys,
    Published,
    Publishing,
    Summed,
)
from secure_frl.masking.keys import KeyPair, check_distinct, points
from secure_frl.masking.neighbourhoods import PairTable
from secure_frl.masking.secret_sharing import check_shares
from secure_frl.masking.site_shares import (
    key_share_start,
    seed_share_commitment,
    seed_share_start,
    share_hash,
)
from secure_frl.masking.unmasking import unmask_
from secure_frl.secure_sum import SiteId, Sum
from secure_frl.wire.envelope import TAG_BYTES, Header, cut, read_header, verify_mac
from secure_frl.wire.messages import (
    Complaint,
    Confirmations,
    MessageType,
    Nothing,
    ReturnedShares,
    RoundKeys,
    decode_body,
    encode_body,
)
from secure_frl.wire.records import (
    CONFIRMATION_BYTES,
    DEALT_BYTES,
    ID_BYTES,
    SHARE_BYTES,
    SHARE_RECORD_BYTES,
    ids_of,
    pack_members,
    record_table,
)

_PROBE = KeyPair.from_secret(bytes(range(32)))  # no secret: an exchange with it shows a low-order key
HASH_BYTES = 32
_G, _H = slice(4, 36), slice(36, 68)  # of a record of dealt shares

# --- R1 --------------------------------------------------------------------------------------------------------------


def take_keys(state: AskingKeys, site: SiteId, header: Header, frame: bytes) -> None:
    """Take R1 of one site. Raises BadSignature, MalformedMessage, KeyRefused."""
    view = state.view
    plain = view.unseal(site, header, view.ctx1, frame)
    body = decode_body(RoundKeys, plain)
    dealt = record_table(body.dealt, DEALT_BYTES)
    if not np.array_equal(ids_of(dealt), view.near.row(site)) or len(encode_body(body)) != len(plain):
        raise MalformedMessage(f"expected one share pair for each neighbour of site {site}, got others. Leave it out.")
    check_distinct([body.public_key], state.points)
    _PROBE.exchange(body.public_key)
    state.points |= points([body.public_key])
    state.members[site] = MemberKeys(body.public_key, body.seed_commitment, body.own_commitment)
    state.dealt.put(site, renamed(dealt, site))
    view.fresh_of[site] = header.fresh


def renamed(dealt: NDArray[np.uint8], dealer: SiteId) -> NDArray[np.uint8]:
    """Return what one member dealt under its own id, as its holders get it, in place of theirs."""
    found = dealt.copy()
    found[:, :ID_BYTES] = np.frombuffer(dealer.to_bytes(ID_BYTES, "big"), np.uint8)
    return found


def close_keys(state: AskingKeys) -> AskingInputs:
    """Fix U2. Raises TooFewSurvivors."""
    view = state.view
    constants = view.terms.constants
    members = {site: state.members[site] for site in sorted(state.members)}
    fault = view.graph.members_fault(tuple(members), constants)
    if fault is not None:
        raise TooFewSurvivors(f"{fault}. This round gives nothing; go on with the next one.")
    packed = pack_members((site, keys.public_key, keys.seed_commitment) for site, keys in members.items())
    digest = contexts.members_hash(packed)
    ctx2 = contexts.mask_context(view.ctx1, view.context.policy_tag, view.context.config_hash, digest)
    accumulator = np.zeros(constants.length + LANE_WORDS, word_type(constants.modulus_bits))
    return AskingInputs(view, ctx2, members, packed, digest, state.dealt, accumulator, set(), {})


# --- R2, or a complaint ----------------------------------------------------------------------------------------------


def take_input(state: AskingInputs, site: SiteId, header: Header, frame: bytes) -> None:
    """Add one masked input to the sum. Raises BadSignature, or MalformedMessage for a word of 2^w or more."""
    view = state.view
    body = cut(frame, header, TAG_BYTES)
    verify_mac(frame, view.link(site, MessageType.R2, state.ctx2, header.fresh))
    width = view.terms.constants.modulus_bits
    words = np.frombuffer(body, word_type(width))
    if width < 8 * words.itemsize and int(words.max()) >> width:
        raise MalformedMessage(f"expected words below 2^{width} from site {site}, got a larger one. Leave it out.")
    np.add(state.accumulator, words, out=state.accumulator)
    state.added.add(site)


def check_copy(view: AttemptView, ctx2: bytes, site: SiteId, frame: bytes) -> None:
    """Raise BadSignature unless a second input under header and tag of the first has the body they were made for."""
    header = read_header(frame)
    if header.type == MessageType.R2:
        verify_mac(frame, view.link(site, MessageType.R2, ctx2, view.fresh_of[site]))
    elif header.type == MessageType.R2C:
        view.unseal(site, header, ctx2, frame)


def take_complaint(state: AskingInputs, site: SiteId, header: Header, frame: bytes) -> None:
    """Note whom a site blames; it counts as lost. Raises BadShare, always, or what is wrong with the complaint."""
    dealers = decode_body(Complaint, state.view.unseal(site, header, state.ctx2, frame)).dealers
    others = [other for other in state.view.graph.neighbours(site) if other in state.members]
    if not dealers or list(dealers) != sorted(set(dealers) & set(others)):
        raise MalformedMessage(f"expected site {site} to name other members, got another list. Leave it out.")
    state.complaints[site] = tuple(SiteId(dealer) for dealer in dealers)
    raise BadShare(f"expected shares that open, but site {site} blames the dealers {dealers}. It counts as lost.")


def close_inputs(state: AskingInputs) -> AskingConfirmations:
    """Fix U3, once and for ever. Raises TooFewSurvivors."""
    survivors = tuple(sorted(state.added))
    view = state.view
    fault = view.graph.survivors_fault(survivors, tuple(state.members), view.terms.constants)
    if fault is not None:
        raise TooFewSurvivors(f"{fault}. This round gives nothing; go on with the next one.")
    view.epoch.survivors_named_in = view.context.round
    mail = PairTable(view.near, CONFIRMATION_BYTES)
    return AskingConfirmations(view, state.ctx2, state.members, state.dealt, survivors, state.accumulator, mail, set())


# --- R3b -------------------------------------------------------------------------------------------------------------


def take_confirmations(state: AskingConfirmations, site: SiteId, header: Header, frame: bytes) -> None:
    """Sort one site's confirmations into the others' mail. Raises BadSignature, MalformedMessage."""
    view = state.view
    body = decode_body(Confirmations, view.unseal(site, header, state.ctx2, frame))
    items = record_table(body.items, CONFIRMATION_BYTES)
    asked = view.near.among(site, state.alive)
    receivers = view.near.row(site)[asked]
    if not np.array_equal(ids_of(items, ID_BYTES), receivers) or not (ids_of(items) == site).all():
        raise MalformedMessage(f"expected one confirmation for each survivor by site {site}, got others. Leave it out.")
    state.mail.put(site, items, asked)
    state.confirmed.add(site)


def close_confirmations(state: AskingConfirmations) -> AskingShares:
    """Go on with whoever confirmed. Raises TooFewShares if they could not rebuild anything."""
    threshold = state.view.terms.constants.threshold
    if len(state.confirmed) < threshold:
        raise TooFewShares(
            f"expected {threshold} sites to confirm the survivors, got {len(state.confirmed)}. "
            "This round gives nothing; go on with the next one."
        )
    return AskingShares(
        view=state.view,
        ctx2=state.ctx2,
        members=state.members,
        dealt=state.dealt,
        survivors=state.survivors,
        accumulator=state.accumulator,
        mail=state.mail,
        confirmed=state.confirmed,
        shares=PairTable(state.view.near, SHARE_BYTES),
        own_shares={},
    )


# --- R4 --------------------------------------------------------------------------------------------------------------


def take_shares(state: AskingShares, site: SiteId, header: Header, frame: bytes) -> None:
    """Take one site's shares that match their commitments. Raises HolderCheated if some do not; the others are kept."""
    view = state.view
    body = decode_body(ReturnedShares, view.unseal(site, header, state.ctx2, frame))
    seeds, keys = record_table(body.of_seeds, SHARE_RECORD_BYTES), record_table(body.of_keys, SHARE_RECORD_BYTES)
    near, alive, lost = view.near.row(site), view.near.among(site, state.alive), view.near.among(site, state.lost)
    owners = ids_of(seeds)
    wanted = np.sort(np.append(near[alive], site))  # a survivor holds a share of its own seed
    if not np.array_equal(owners, wanted) or not np.array_equal(ids_of(keys), near[lost]):
        raise MalformedMessage(f"expected one share of each member by site {site}, got others. Leave it out.")
    shares = np.zeros((len(near), SHARE_BYTES), np.uint8)
    shares[alive], shares[lost] = seeds[owners != site, ID_BYTES:], keys[:, ID_BYTES:]
    own = seeds[owners == site, ID_BYTES:].tobytes()
    check_shares(shares.tobytes() + own)
    good = _matching(state, site, shares, alive, lost)
    state.shares.put(site, shares[good], good)
    bad = near[(alive | lost) & ~good].tolist()
    if seed_share_commitment(view.ctx1, site, site, own) == state.members[site].own_commitment:
        state.own_shares[site] = own
    else:
        bad.append(site)
    if bad:
        raise HolderCheated(f"expected shares as committed, got others of {bad} from site {site}. They are dropped.")


def _matching(
    state: AskingShares,
    holder: SiteId,
    shares: NDArray[np.uint8],
    alive: NDArray[np.bool_],
    lost: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return which shares of its neighbours' secrets are those that their dealers committed to, bool [k]."""
    good, near, data = np.zeros(len(shares), np.bool_), state.view.near.row(holder), shares.tobytes()
    dealt, ctx1 = state.dealt.row(holder), state.view.ctx1
    for asked, start, commitment in ((alive, seed_share_start(ctx1), _H), (lost, key_share_start(ctx1), _G)):
        columns = np.flatnonzero(asked)
        found = b"".join(
            [
                share_hash(start, dealer, holder, data[SHARE_BYTES * at : SHARE_BYTES * (at + 1)])
                for at, dealer in zip(columns.tolist(), near[columns].tolist(), strict=True)
            ]
        )
        hashes = np.frombuffer(found, np.uint8).reshape(-1, HASH_BYTES)
        good[columns] = (hashes == dealt[columns, commitment]).all(axis=1)
    return good


def close_shares(state: AskingShares) -> Summed:
    """Unmask. Raises TooFewShares, DealerCheated, LaneMismatch, SumOutOfRange: no sum in any of these cases."""
    constants, survivors = state.view.terms.constants, state.survivors
    unmask_(state)
    integers = from_ring_sum(state.accumulator, constants, len(survivors))
    width = constants.modulus_bits
    total_bytes = centred(state.accumulator, width).astype(f"<i{word_type(width).itemsize}").tobytes()
    sum_digest = hashlib.sha256(total_bytes).digest()
    transcript = contexts.transcript_hash(state.ctx2, contexts.survivors_hash(state.ctx2, survivors), sum_digest)
    return Summed(state.view, survivors, Sum(integers, constants.scale, survivors), total_bytes, transcript)


# --- R5 --------------------------------------------------------------------------------------------------------------


def take_acknowledgement(state: Publishing, site: SiteId, header: Header, frame: bytes) -> None:
    """Note that a site follows to the next policy. Raises BadSignature, MalformedMessage."""
    decode_body(Nothing, state.view.unseal(site, header, state.view.ctx1, frame))
    state.followers[site] = state.next_tag


def close_publication(state: Publishing) -> Published:
    """End the attempt."""
    return Published(state.summed, state.followers)
