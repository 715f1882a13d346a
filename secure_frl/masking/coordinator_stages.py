"""The coordinator's handlers: what comes in at each stage, and what the stage's end makes of it.

Speaks as the coordinator. Every handler raises a PeerError about its one site before it has changed anything;
HolderCheated alone keeps that site's good shares. Every close_ function returns the next state or raises RoundAborted.
Source: secure_aggregation.md, section 5.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from operator import attrgetter

import numpy as np

from secure_frl.encoding.lanes import from_ring_sum
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
    Published,
    Publishing,
    Summed,
)
from secure_frl.masking.keys import KeyPair, check_distinct, points
from secure_frl.masking.secret_sharing import decode_share
from secure_frl.masking.site_shares import key_share_commitment, seed_share_commitment
from secure_frl.masking.unmasking import unmask_
from secure_frl.secure_sum import SiteId, Sum
from secure_frl.wire.envelope import TAG_BYTES, Header, cut, read_header, verify_mac
from secure_frl.wire.messages import (
    LANE_WORDS,
    Complaint,
    Confirmation,
    Confirmations,
    DealtShares,
    Member,
    MessageType,
    Nothing,
    ReturnedShares,
    RoundKeys,
    Share,
    decode_body,
    encode_body,
)

_PROBE = KeyPair.from_secret(bytes(range(32)))  # no secret: an exchange with it shows a low-order key

# --- R1 --------------------------------------------------------------------------------------------------------------


def take_keys(state: AskingKeys, site: SiteId, header: Header, frame: bytes) -> None:
    """Take R1 of one site. Raises BadSignature, MalformedMessage, KeyRefused."""
    view = state.view
    plain = view.unseal(site, header, view.ctx1, frame)
    body = decode_body(RoundKeys, plain)
    expected = view.graph.neighbours(site)
    if tuple(item.site for item in body.dealt) != expected or len(encode_body(body)) != len(plain):
        raise MalformedMessage(f"expected one share pair for each neighbour of site {site}, got others. Leave it out.")
    check_distinct([body.public_key], state.points)
    _PROBE.exchange(body.public_key)
    state.points |= points([body.public_key])
    state.members[site] = body
    view.fresh_of[site] = header.fresh


def close_keys(state: AskingKeys) -> AskingInputs:
    """Fix U2. Raises TooFewSurvivors."""
    view = state.view
    constants = view.terms.constants
    members = {site: state.members[site] for site in sorted(state.members)}
    fault = view.graph.members_fault(tuple(members), constants)
    if fault is not None:
        raise TooFewSurvivors(f"{fault}. This round gives nothing; go on with the next one.")
    digest = contexts.members_hash(member_list(members))
    ctx2 = contexts.mask_context(view.ctx1, view.context.policy_tag, view.context.config_hash, digest)
    accumulator = np.zeros(constants.length + LANE_WORDS, word_type(constants.modulus_bits))
    return AskingInputs(view, ctx2, members, accumulator, set(), {})


def member_list(members: dict[SiteId, RoundKeys]) -> tuple[Member, ...]:
    """Return U2 as R1' and ctx2 carry it."""
    return tuple(Member(site, keys.public_key, keys.seed_commitment) for site, keys in members.items())


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


def check_copy(state: AskingInputs | AskingConfirmations | AskingShares, site: SiteId, frame: bytes) -> None:
    """Raise BadSignature unless a second R2 under the header and tag of the first has the vector they were made for."""
    if read_header(frame).type == MessageType.R2:
        verify_mac(frame, state.view.link(site, MessageType.R2, state.ctx2, state.view.fresh_of[site]))


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
    mail: dict[SiteId, list[Confirmation]] = {site: [] for site in survivors}
    return AskingConfirmations(view, state.ctx2, state.members, survivors, state.accumulator, mail, set())


# --- R3b -------------------------------------------------------------------------------------------------------------


def take_confirmations(state: AskingConfirmations, site: SiteId, header: Header, frame: bytes) -> None:
    """Sort one site's confirmations into the others' mail. Raises BadSignature, MalformedMessage."""
    items = decode_body(Confirmations, state.view.unseal(site, header, state.ctx2, frame)).items
    others = [other for other in state.view.graph.neighbours(site) if other in state.mail]
    if [(item.sender, item.receiver) for item in items] != [(site, other) for other in others]:
        raise MalformedMessage(f"expected one confirmation for each survivor by site {site}, got others. Leave it out.")
    for item in items:
        state.mail[SiteId(item.receiver)].append(item)
    state.confirmed.add(site)


def close_confirmations(state: AskingConfirmations) -> AskingShares:
    """Go on with whoever confirmed. Raises TooFewShares if they could not rebuild anything."""
    threshold, survivors = state.view.terms.constants.threshold, set(state.survivors)
    if len(state.confirmed) < threshold:
        raise TooFewShares(
            f"expected {threshold} sites to confirm the survivors, got {len(state.confirmed)}. "
            "This round gives nothing; go on with the next one."
        )
    return AskingShares(
        view=state.view,
        ctx2=state.ctx2,
        members=state.members,
        survivors=state.survivors,
        accumulator=state.accumulator,
        mail={site: items for site, items in state.mail.items() if site in state.confirmed},
        seed_shares={site: {} for site in state.survivors},
        key_shares={site: {} for site in state.members if site not in survivors},
    )


# --- R4 --------------------------------------------------------------------------------------------------------------


def take_shares(state: AskingShares, site: SiteId, header: Header, frame: bytes) -> None:
    """Take one site's shares that match their commitments. Raises HolderCheated if some do not; the others are kept."""
    body = decode_body(ReturnedShares, state.view.unseal(site, header, state.ctx2, frame))
    near = sorted((*state.view.graph.neighbours(site), site))
    wanted = ([one for one in near if one in state.seed_shares], [one for one in near if one in state.key_shares])
    if ([share.site for share in body.of_seeds], [share.site for share in body.of_keys]) != wanted:
        raise MalformedMessage(f"expected one share of each member by site {site}, got others. Leave it out.")
    words = {share.site: decode_share(share.words) for share in (*body.of_seeds, *body.of_keys)}
    bad = []
    for kept, shares, is_seed in ((state.seed_shares, body.of_seeds, True), (state.key_shares, body.of_keys, False)):
        for share in shares:
            if _matches(state, site, share, is_seed=is_seed):
                kept[SiteId(share.site)][site] = words[share.site]
            else:
                bad.append(share.site)
    if bad:
        raise HolderCheated(f"expected shares as committed, got others of {bad} from site {site}. They are dropped.")


def _matches(state: AskingShares, holder: SiteId, share: Share, *, is_seed: bool) -> bool:
    """Return whether a share is the one that its dealer committed to."""
    dealer, ctx1 = SiteId(share.site), state.view.ctx1
    keys = state.members[dealer]
    if is_seed:
        found = seed_share_commitment(ctx1, dealer, holder, share.words)
        if dealer == holder:
            return found == keys.own_commitment
        return found == dealt_to(keys, holder).commitment_b
    return key_share_commitment(ctx1, dealer, holder, share.words) == dealt_to(keys, holder).commitment_s


def dealt_to(keys: RoundKeys, holder: SiteId) -> DealtShares:
    """Return what one member dealt to a neighbour. R1 lists them in ascending order, so none is looked through."""
    return keys.dealt[bisect_left(keys.dealt, holder, key=attrgetter("site"))]


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
    state.followers.add(site)


def close_publication(state: Publishing) -> Published:
    """End the attempt."""
    return Published(state.summed, state.followers)
