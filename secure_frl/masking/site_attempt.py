"""A site's answers inside one attempt: R0, R1', R3a and R3c.

Speaks as a site. What protects it when the coordinator lies: every constant comes from its own charter; the register's
row is synced before each answer leaves; it confirms one survivor set a round, ever, and gives shares only when
`threshold` sites have confirmed the same set, never both kinds for one peer.
Source: docs/protocol.md, sections 12 and 13.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from secure_frl.encoding.lanes import LANE_WORDS
from secure_frl.encoding.ring import reduce_, word_type
from secure_frl.errors import (
    AlreadyAnswered,
    BudgetExhausted,
    Equivocation,
    LocalProtocolError,
    RosterRefused,
    RoundRefused,
    SurvivorsRefused,
    TooFewConfirmations,
)
from secure_frl.masking import contexts
from secure_frl.masking.contexts import is_cohort_size
from secure_frl.masking.graph import as_sites, graph_of
from secure_frl.masking.keys import (
    SECRET_BYTES,
    KeyPair,
    check_all_distinct,
    confirmations,
    link_key,
    pair_key,
    self_key,
)
from secure_frl.masking.site_epoch import check_peers, last_closed_round
from secure_frl.masking.site_memory import (
    Answer,
    Attempt,
    AttemptState,
    Departed,
    EpochOpen,
    EpochView,
    InputSent,
    SetConfirmed,
    SharesSent,
    SiteParty,
    SumAwaited,
    end_attempt,
)
from secure_frl.masking.site_shares import deal, open_dealt
from secure_frl.secure_sum import COORDINATOR_ID, RoundContext, SiteId, Words
from secure_frl.wire.envelope import Header, mac_digest, mac_frame, seal_frame, unseal
from secure_frl.wire.hashing import encode_integers
from secure_frl.wire.messages import (
    Announcement,
    Complaint,
    Confirmations,
    Inbox,
    MessageType,
    ReturnedShares,
    RoundKeys,
    Survivors,
    encode_body,
)
from secure_frl.wire.records import Confirmation, DealtShares, MemberList, Share, pack_records, unpack_records
from secure_frl.wire.signatures import check_signature

PartyT = TypeVar("PartyT", bound=SiteParty)

# --- R0 -> R1 --------------------------------------------------------------------------------------------------------


def join_attempt(
    party: PartyT,
    state: EpochOpen | AttemptState,
    header: Header,
    body: Announcement,
    sealed: bytes,
    begin: Callable[[PartyT, EpochView, Header, Announcement], Answer],
) -> Answer:
    """Answer R0: check everything, make the update and begin with it.

    sealed: the bytes behind R0's signature, the model under this link's key, or nothing.
    begin: deals shares, or encrypts at once where sums are only encrypted.
    Raises AlreadyAnswered, RoundRefused or what the host's policy check raises; then the state before stands.
    """
    view = state.view if isinstance(state, EpochOpen) else state.attempt.view
    check_announcement(party, view, header, body)
    check_model(party, view, header, body, sealed)
    try:
        end_attempt(state, party.host)
        return begin(party, view, header, body)
    except Exception as error:  # a host may fail in any way: whatever it was, the attempt is over and nothing has left
        return EpochOpen(view), give_up(party, header, error)


def deal_update(party: SiteParty, view: EpochView, header: Header, body: Announcement) -> Answer:
    """Start the round at this site: let the host make the update, deal shares, answer with R1."""
    attempt = open_attempt(party, view, header, body)
    check_peers(party, view.epoch, view.expiry_s, view.unchecked, attempt.near)
    words = checked_vector(party, attempt.context)
    joined, keys = deal_shares(party, attempt, words)
    link = attempt.link(MessageType.R1, attempt.ctx1)
    reply = seal_frame(attempt.address(party.me), MessageType.R1, encode_body(keys), link)
    record(party, attempt, "R1", hashlib.sha256(reply).digest())
    return joined, reply


def give_up(party: SiteParty, header: Header, error: Exception) -> Exception:
    """Return what to refuse with, after the host has heard of it; an exhausted budget closes the round here."""
    try:
        if isinstance(error, BudgetExhausted):
            party.register.record(header.round, header.attempt, "closed", hashlib.sha256(b"").digest())
        party.host.close("aborted")
    except Exception as second:  # the same edge as above: a failing host or disk must not bring the old attempt back
        return second
    return error


def check_announcement(party: SiteParty, view: EpochView, header: Header, body: Announcement) -> None:
    """Check R0 against register, epoch and charter. Raises AlreadyAnswered or RoundRefused."""
    pair, last = (header.round, header.attempt), party.register.last_stage()
    if (last is not None and pair <= last[:2]) or pair[0] <= last_closed_round(party):
        raise AlreadyAnswered(f"expected a (round, attempt) that is new here, got {pair}. Announce a later one.")
    window = range(max(view.first_round, view.channels.at_round), view.first_round + party.terms.epoch_rounds)
    cohort, constants = body.cohort, party.terms.constants
    rules = {
        "a round inside the epoch": header.epoch == view.epoch and header.round in window,
        "an epoch that has not expired": party.clock() < view.expiry_s,
        "the header's fresh bytes in the body": header.fresh == body.fresh,
        "a cohort in ascending order out of the epoch": cohort == view.members
        or list(cohort) == sorted(set(cohort) & set(view.members)),
        "this site in the cohort": party.me in cohort,
        "a cohort of at least min_survivors, of all n in cross_device": is_cohort_size(len(cohort), constants),
        "the constants of the charter that this site signed": body.config_hash == party.config_hash,
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise RoundRefused(f"expected {'; '.join(broken)}, got something else. Announce a round under the charter.")


def check_model(party: SiteParty, view: EpochView, header: Header, body: Announcement, sealed: bytes) -> None:
    """Let the host compute the tag of the policy that it holds, taking the sealed one if it lacks it.

    Raises RoundRefused if the tag differs, BadSignature if the sealed model does not open, ModelMissing by the host.
    """
    if hashlib.sha256(sealed).digest() != body.sealed_digest:
        raise RoundRefused("expected the sealed model whose digest was signed, got other bytes. Announce it again.")
    model = None
    if sealed:
        channel = view.channels.key_at(COORDINATOR_ID, header.round)
        key = link_key(channel, view.epoch_hash, MessageType.R0, header.fresh)
        model = unseal(key, sealed, header.encode())
    if party.host.policy_tag(body.model_tag, model) != body.model_tag:
        raise RoundRefused("expected the tag of the policy that this site holds, got another. Send that policy.")


def checked_vector(party: SiteParty, context: RoundContext) -> Words:
    """Return the host's vector [P + 4]. Raises LocalProtocolError unless it has the charter's form."""
    constants = party.terms.constants
    vector = party.host.contribute(context)
    words = vector.words
    expected, kind = (constants.length + LANE_WORDS,), word_type(constants.modulus_bits)
    if words.shape != expected or words.dtype != kind or vector.modulus_bits != constants.modulus_bits:
        raise LocalProtocolError(
            f"expected {kind} {expected} mod 2^{constants.modulus_bits}, got another. Fix the host."
        )
    return words


def open_attempt(party: SiteParty, view: EpochView, header: Header, body: Announcement) -> Attempt:
    """Move the channels to this round and return the attempt that R0 announces."""
    view.channels.advance_to(header.round)
    context = RoundContext(
        session=party.terms.session,
        epoch_hash=view.epoch_hash,
        config_hash=party.config_hash,
        epoch=view.epoch,
        round=header.round,
        attempt=header.attempt,
        policy_tag=body.model_tag,
        cohort=as_sites(body.cohort),
    )
    graph = graph_of(party.terms.constants, view.epoch_hash, context.round, context.attempt, context.cohort)
    ctx1 = contexts.attempt_context(context.session, view.epoch_hash, context.round, context.attempt, context.cohort)
    near = graph.neighbours(party.me)
    return Attempt(view, context, ctx1, party.random.take(SECRET_BYTES), body.fresh, graph, near)


def deal_shares(party: SiteParty, attempt: Attempt, words: Words) -> tuple[SharesSent, RoundKeys]:
    """Draw the attempt's secrets and deal them."""
    keys, seed = KeyPair.draw(party.random), party.random.take(SECRET_BYTES)
    channels, threshold = attempt.view.channels, party.terms.constants.threshold
    body, own = deal(channels, attempt.ctx1, party.me, attempt.near, (keys, seed), threshold, party.random)
    return SharesSent(attempt, keys, seed, body.seed_commitment, own, words), body


def record(party: SiteParty, attempt: Attempt, stage: str, digest: bytes) -> None:
    """Write an answer down, synced, before it leaves. Raises AlreadyAnswered."""
    context = attempt.context
    party.register.record(context.round, context.attempt, stage, digest)


# --- R1' -> R2 -------------------------------------------------------------------------------------------------------


def masked_frame(party: SiteParty, attempt: Attempt, ctx2: bytes, words: Words) -> bytes:
    """Return R2: the words in clear, for masks hide them, under a tag."""
    return mac_frame(
        attempt.address(party.me), MessageType.R2, words.data.cast("B"), attempt.link(MessageType.R2, ctx2)
    )


def send_input(
    party: PartyT,
    state: SharesSent,
    header: Header,
    body: Inbox,
    listed: bytes,
    members_digest: bytes,
    frame_of: Callable[[PartyT, Attempt, bytes, Words], bytes],
) -> Answer:
    """Answer R1' with the masked input, or with a complaint that names dealers.

    listed: U2, packed; members_digest: its hash, which the frame's tag covers. frame_of: makes R2 of the masked words.
    Raises MalformedMessage, RosterRefused, KeyRefused.
    """
    attempt = state.attempt
    members, inbox = MemberList.read(listed), unpack_records(DealtShares, body.dealt)
    check_members(party, state, members, [item.site for item in inbox])
    context, me = attempt.context, party.me
    ctx2 = contexts.mask_context(attempt.ctx1, context.policy_tag, context.config_hash, members_digest)
    opened, bad = open_dealt(attempt.view.channels, attempt.ctx1, me, members, inbox)
    if bad:
        return complain(party, attempt, ctx2, bad)
    mask_(party, state, ctx2, members, list(opened))
    reply = frame_of(party, attempt, ctx2, state.words)
    record(party, attempt, "R2", mac_digest(reply))
    party.host.release()  # synced: the next bytes that leave are made from data
    key_shares = {dealer: pair[0] for dealer, pair in opened.items()}
    seed_shares = {me: state.own_share, **{dealer: pair[1] for dealer, pair in opened.items()}}
    return InputSent(attempt, ctx2, members.sites, seed_shares, key_shares), reply


def check_members(party: SiteParty, state: SharesSent, members: MemberList, dealers: list[int]) -> None:
    """Check the list and the inbox of R1'. Raises RosterRefused or KeyRefused."""
    graph, sites = state.attempt.graph, members.sites
    if not graph.has(sites):
        raise RosterRefused("expected members of the cohort in ascending order, got another list. Leave the attempt.")
    row = members.row(party.me)
    if row is None or members.entry(row) != (state.keys.public, state.seed_commitment):
        raise RosterRefused("expected this site's own entry unchanged, got another. Leave the attempt.")
    fault = graph.members_fault(sites, party.terms.constants)
    if fault is not None:
        raise RosterRefused(f"{fault}. Leave the attempt.")
    if dealers != among(state.attempt.near, sites):
        raise RosterRefused("expected one item from each other member, got another inbox. Leave the attempt.")
    check_all_distinct(members.public_keys, state.attempt.view.points, state.attempt.view.words)


def among(near: tuple[SiteId, ...], sites: NDArray[np.int64]) -> list[SiteId]:
    """Return which of these neighbours are in a list, both ascending. sites: at least one."""
    rows = np.searchsorted(sites, near)
    found = sites[np.minimum(rows, len(sites) - 1)] == near
    return [site for site, is_there in zip(near, found.tolist(), strict=True) if is_there]


def mask_(party: SiteParty, state: SharesSent, ctx2: bytes, members: MemberList, others: list[SiteId]) -> None:
    """Put self mask and pair masks, which cancel in the sum, on the attempt's words in place, modulo 2^w.

    In place, since the vector is spent here: whatever fails from now on, the attempt is over and never masks again.
    """
    masks = [(self_key(state.seed, ctx2, party.me), +1)]
    for other, row in zip(others, np.searchsorted(members.sites, others).tolist(), strict=True):
        key = pair_key(state.keys, members.entry(row)[0], ctx2, party.me, other)
        masks.append((key, +1 if party.me < other else -1))
    party.masks.add_all_(state.words, masks)
    reduce_(state.words, party.terms.constants.modulus_bits)


def complain(party: SiteParty, attempt: Attempt, ctx2: bytes, dealers: list[SiteId]) -> Answer:
    """Name the dealers whose shares are bad and drop out. The update has not left."""
    party.host.close("aborted")
    link = attempt.link(MessageType.BAD_SHARE, ctx2)
    body = encode_body(Complaint(tuple(dealers)))
    return Departed(attempt), seal_frame(attempt.address(party.me), MessageType.BAD_SHARE, body, link)


# --- R3a -> R3b ------------------------------------------------------------------------------------------------------


def confirm_set(party: SiteParty, state: InputSent, header: Header, body: Survivors) -> Answer:
    """Answer R3a by confirming the set to every other survivor. Raises SurvivorsRefused, AlreadyAnswered."""
    attempt, survivors = state.attempt, as_sites(body.survivors)
    context = attempt.context
    signed = (context.session, context.round, context.attempt, state.ctx2, encode_integers(survivors))
    check_signature(party.terms.coordinator_public_key, body.signature, "R3a", *signed)
    named = np.fromiter(survivors, np.int64, count=len(survivors))
    fault = attempt.graph.survivors_fault(named, state.members, party.terms.constants)
    if fault is not None or party.me not in survivors:
        raise SurvivorsRefused(f"{fault or 'expected this site among the survivors'}. Leave the round.")
    digest = contexts.survivors_hash(state.ctx2, survivors)
    items, awaited, key_of = [], {}, attempt.view.channels.key
    for other in among(attempt.near, named):
        own, awaited[other] = confirmations(key_of(other), state.ctx2, party.me, other, digest)
        items.append(Confirmation(party.me, other, digest, own))
    link = attempt.link(MessageType.R3B, state.ctx2)
    encoded = encode_body(Confirmations(pack_records(items)))
    reply = seal_frame(attempt.address(party.me), MessageType.R3B, encoded, link)
    record(party, attempt, "R3b", hashlib.sha256(reply).digest())
    signature, seed_shares, key_shares = body.signature, state.seed_shares, state.key_shares
    confirmed = SetConfirmed(attempt, state.ctx2, survivors, digest, signature, awaited, seed_shares, key_shares)
    return confirmed, reply


# --- R3c -> R4 -------------------------------------------------------------------------------------------------------


def return_shares(party: SiteParty, state: SetConfirmed, header: Header, body: Confirmations) -> Answer:
    """Answer R3c with one kind of share for each member. Raises TooFewConfirmations, Equivocation."""
    attempt = state.attempt
    confirmed = confirming_sites(party, state, body)
    threshold = party.terms.constants.threshold
    if len(confirmed) < threshold:
        raise TooFewConfirmations(
            f"expected {threshold} confirmations of the survivors, got {len(confirmed)}. Give none."
        )
    survivors = set(state.survivors)
    near = sorted((*attempt.near, party.me))
    of_seeds = [Share(site, state.seed_shares[site]) for site in near if site in survivors]
    of_keys = [Share(site, share) for site, share in state.key_shares.items() if site not in survivors]
    link = attempt.link(MessageType.R4, state.ctx2)
    returned = encode_body(ReturnedShares(pack_records(of_seeds), pack_records(of_keys)))
    reply = seal_frame(attempt.address(party.me), MessageType.R4, returned, link)
    record(party, attempt, "R4", hashlib.sha256(reply).digest())
    return SumAwaited(attempt, state.ctx2, state.survivors), reply


def confirming_sites(party: SiteParty, state: SetConfirmed, body: Confirmations) -> set[SiteId]:
    """Return the survivors, this site included, that confirmed the same set.

    Items that do not verify count for nothing. Raises Equivocation for a valid item over another set: only the
    coordinator can have named that set to its sender.
    """
    attempt, me = state.attempt, party.me
    confirmed = {me}
    for sender, receiver, survivors_hash, mac in unpack_records(Confirmation, body.items):
        site = SiteId(sender)
        awaited = state.awaited.get(site)
        if receiver != me or awaited is None:
            continue
        is_same = survivors_hash == state.survivors_hash
        if not is_same:
            awaited = confirmations(attempt.view.channels.key(site), state.ctx2, me, site, survivors_hash)[1]
        if not hmac.compare_digest(awaited, mac):
            continue
        if not is_same:
            raise Equivocation(
                f"expected one survivor set, got another one confirmed by site {site}. Show the auditor this signed "
                f"list: survivors={list(state.survivors)}, signature={state.survivors_signature.hex()}, round="
                f"{attempt.context.round}, attempt={attempt.context.attempt}, ctx2={state.ctx2.hex()}."
            )
        confirmed.add(site)
    return confirmed
