"""A site's answers about an epoch's key: as the steward it makes and hands out the key, else it takes its package.

The steward is the first site of the epoch's list that answers. It is trusted with no more than any other site: each of
them gets the key. Speaks as a site.
Source: docs/protocol.md, section 18.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from secure_frl.ckks.epoch_cipher import EpochCipher, SiteWorkers
from secure_frl.ckks.keys import Addressee, EpochKey, draw_site_secret, make_key, open_package, seal_package
from secure_frl.ckks.requests import Op
from secure_frl.encoding.slots import ChunkPlan
from secure_frl.errors import AlreadyAnswered, EpochRefused, KeyRefused, WorkerDied
from secure_frl.masking.site_memory import Answer, EpochOpen, EpochView, SiteParty
from secure_frl.masking.site_states import Log
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
    log: Log = field(repr=False)


def make_packages(party: BlindParty, state: EpochOpen, header: Header, body: PackageRequest) -> Answer:
    """Answer E3 with a package for every other member. Raises EpochRefused, AlreadyAnswered, KeyRefused."""
    view = state.view
    _check_before_rounds(view, header)
    if view.cipher is not None:
        raise AlreadyAnswered("expected one key of a steward an epoch, was asked again. Open a new epoch.")
    if body.epoch_hash != view.epoch_hash:
        raise EpochRefused("expected the hash of this epoch, got another. Open a new epoch.")
    secret = party.host.site_secret()
    if secret is None and view.first_round > 1:
        raise KeyRefused(
            "expected the charter's site secret at the steward, but the study began without this site. "
            "Ask another site of the list, or restore this one's key files."
        )
    if secret is None:
        secret = draw_site_secret(party.random)
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
    party.host.offer_secret(secret)
    reply = Packages(key.key_id, party.host.held_tag(), packages)
    return _with_key(party, view, key, is_own=True), _sign(party, view, MessageType.E3_REPLY, reply)


def take_package(party: BlindParty, state: EpochOpen, header: Header, body: PackageDelivery) -> Answer:
    """Take the epoch's key from its steward, whichever site of the list that is; a key of one's own gives way to it.

    Which of them is asked, the coordinator may choose: every site gets the key, whoever makes it.
    Raises EpochRefused, AlreadyAnswered, KeyRefused.
    """
    view = state.view
    _check_before_rounds(view, header)
    if isinstance(view.cipher, EpochCipher) and not view.cipher.is_own:
        raise AlreadyAnswered("expected one package an epoch, got a second. Open a new epoch.")
    steward = SiteId(body.steward)
    if steward not in view.members or steward == party.me:
        raise KeyRefused("expected a package of another site of this epoch's list, got another's. Take no key of it.")
    session = party.terms.session
    key = open_package(
        body.package,
        Addressee(session, view.epoch_hash, party.me),
        view.channels.key(steward),
        party.terms.site_public_keys[steward],
        party.host.site_secret(),
    )
    opened = _with_key(party, view, key, is_own=False)
    party.host.offer_secret(key.site_secret)
    return opened, _sign(party, view, MessageType.PACKAGE_REPLY, KeyAck(key.key_id, party.host.held_tag()))


def hand_over_policy(party: BlindParty, state: EpochOpen, header: Header, body: PolicyRequest) -> Answer:
    """Answer R6 with the policy as only sites can read it. Raises EpochRefused; ModelMissing by the host."""
    if header.epoch != state.view.epoch:
        raise EpochRefused(f"expected a request of epoch {state.view.epoch}, got {header.epoch}. Ask in this one.")
    parcel = party.host.sealed_policy(body.policy_tag)
    return state, _sign(party, state.view, MessageType.R6_REPLY, PolicyParcel(body.policy_tag, parcel))


def _check_before_rounds(view: EpochView, header: Header) -> None:
    """A key comes before the first round of its epoch: the channels to the steward move on with the rounds."""
    if header.epoch != view.epoch or view.channels.at_round >= view.first_round:
        raise EpochRefused("expected a key before the first round of this epoch, got one later. Open a new epoch.")


def _with_key(party: BlindParty, view: EpochView, key: EpochKey, *, is_own: bool) -> EpochOpen:
    """Return the epoch with its key in a worker. Raises KeyRefused for a context of other parameters."""
    worker = party.workers.holding(key.context)
    try:
        worker.ask(Op.DROP)  # it takes the key as it starts
    except WorkerDied:
        raise KeyRefused("expected a key that a worker can hold, got one that ended it. Ask the steward.") from None
    return EpochOpen(replace(view, cipher=EpochCipher(key, party.plan, worker, is_own)))


def _sign(party: BlindParty, view: EpochView, message_type: MessageType, body: Body) -> bytes:
    encoded = encode_body(body)
    address = Address(party.terms.session, view.epoch, 0, 0, party.me, COORDINATOR_ID, EMPTY_32)
    return sign_frame(address.header(message_type, len(encoded)), encoded, party.signing_key)
