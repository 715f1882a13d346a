"""A site's answers about an epoch's key: as the steward it makes and hands out the key, else it takes its package.

The steward is the first site of the epoch's list. It is trusted with no more than any other site: each of them gets
the key. Speaks as a site.
Source: docs/protocol.md, section 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from secure_frl.ckks.epoch_cipher import EpochCipher, SiteWorkers
from secure_frl.ckks.keys import Addressee, EpochKey, draw_site_secret, make_key, open_package, seal_package
from secure_frl.ckks.requests import Op
from secure_frl.encoding.slots import ChunkPlan
from secure_frl.errors import AlreadyAnswered, EpochRefused, KeyRefused, WorkerDied
from secure_frl.masking.site_memory import Answer, EpochOpen, EpochView, SiteParty
from secure_frl.secure_sum import COORDINATOR_ID, BlindHost, SiteId
from secure_frl.wire.envelope import EMPTY_32, Address, Header, sign_frame
from secure_frl.wire.messages import (
    Body,
    KeyAck,
    MessageType,
    PackageDelivery,
    PackageRequest,
    Packages,
    PolicyParcel,
    PolicyRequest,
    encode_body,
)


@dataclass(frozen=True, slots=True, eq=False)
class BlindParty(SiteParty):
    """What a site brings where sums are encrypted."""

    host: BlindHost = field(repr=False)
    plan: ChunkPlan
    workers: SiteWorkers = field(repr=False)


def steward_of(members: Sequence[SiteId]) -> SiteId:
    """Return who makes the epoch's key: the first of the list. members: at least one."""
    return min(members)


def make_packages(party: BlindParty, state: EpochOpen, header: Header, body: PackageRequest) -> Answer:
    """Answer E3 with a package for every other member. Raises EpochRefused, AlreadyAnswered, KeyRefused."""
    view = state.view
    _check_before_rounds(view, header)
    if body.epoch_hash != view.epoch_hash or steward_of(view.members) != party.me:
        raise EpochRefused("expected the steward of this epoch to be asked, got another site. Ask the list's first.")
    secret = party.host.site_secret()
    if secret is None and view.first_round > 1:
        raise KeyRefused(
            "expected the charter's site secret at the steward, but the study began without this site. "
            "Open an epoch without it, or restore its key files."
        )
    if secret is None:
        secret = draw_site_secret(party.random)
        party.host.keep_secret(secret)
    maker = party.workers.fresh()
    try:
        key = make_key(maker, secret)
    finally:
        maker.close()
    session = party.terms.session
    packages = tuple(
        seal_package(
            key, Addressee(session, view.epoch_hash, site), view.channels.key(site), party.signing_key, party.random
        )
        for site in view.members
        if site != party.me
    )
    reply = Packages(key.key_id, party.host.held_tag(), packages)
    return _with_key(party, view, key), _sign(party, view, MessageType.E3_REPLY, reply)


def take_package(party: BlindParty, state: EpochOpen, header: Header, body: PackageDelivery) -> Answer:
    """Take the epoch's key from the steward. Raises EpochRefused, AlreadyAnswered, KeyRefused."""
    view = state.view
    _check_before_rounds(view, header)
    steward = steward_of(view.members)
    if body.steward != steward or steward == party.me:
        raise KeyRefused("expected a package of this epoch's steward, got another's. Take no key of it.")
    session = party.terms.session
    key = open_package(
        body.package,
        Addressee(session, view.epoch_hash, party.me),
        view.channels.key(steward),
        party.terms.site_public_keys[steward],
        party.host.site_secret(),
    )
    opened = _with_key(party, view, key)
    party.host.keep_secret(key.site_secret)
    return opened, _sign(party, view, MessageType.PACKAGE_REPLY, KeyAck(key.key_id, party.host.held_tag()))


def hand_over_policy(party: BlindParty, state: EpochOpen, header: Header, body: PolicyRequest) -> Answer:
    """Answer R6 with the policy as only sites can read it. Raises EpochRefused; ModelMissing by the host."""
    if header.epoch != state.view.epoch:
        raise EpochRefused(f"expected a request of epoch {state.view.epoch}, got {header.epoch}. Ask in this one.")
    parcel = party.host.sealed_policy(body.policy_tag)
    return state, _sign(party, state.view, MessageType.R6_REPLY, PolicyParcel(body.policy_tag, parcel))


def _check_before_rounds(view: EpochView, header: Header) -> None:
    """One key an epoch, before its first round: the channels to the steward move on with the rounds."""
    if header.epoch != view.epoch or view.channels.at_round >= view.first_round:
        raise EpochRefused("expected a key before the first round of this epoch, got one later. Open a new epoch.")
    if view.cipher is not None:
        raise AlreadyAnswered("expected one key an epoch, got a second. Open a new epoch.")


def _with_key(party: BlindParty, view: EpochView, key: EpochKey) -> EpochOpen:
    """Return the epoch with its key in a worker. Raises KeyRefused for a context of other parameters."""
    worker = party.workers.holding(key.context)
    try:
        worker.ask(Op.DROP)  # it takes the key as it starts
    except WorkerDied:
        raise KeyRefused("expected a key that a worker can hold, got one that ended it. Ask the steward.") from None
    return EpochOpen(replace(view, cipher=EpochCipher(key, party.plan, worker)))


def _sign(party: BlindParty, view: EpochView, message_type: MessageType, body: Body) -> bytes:
    encoded = encode_body(body)
    address = Address(party.terms.session, view.epoch, 0, 0, party.me, COORDINATOR_ID, EMPTY_32)
    return sign_frame(address.header(message_type, len(encoded)), encoded, party.signing_key)
