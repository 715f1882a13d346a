"""A site's epoch key: who may make it, from whom it is taken, and that it is one, for all sites, before any round."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blind_federation import BlindFederation, SignedEpoch, cipher_at

from secure_frl.ckks.keys import Addressee, make_key, seal_package
from secure_frl.ckks.worker import Worker
from secure_frl.masking.keys import Channels
from secure_frl.secure_sum import SiteId
from secure_frl.wire.envelope import HEADER_BYTES, read_header
from secure_frl.wire.messages import MessageType, PackageDelivery, PackageRequest, PolicyRequest, decode_body
from secure_frl.wire.signatures import SIGNATURE_BYTES

T = MessageType
OTHER_SECRET = b"\x09" * 32


@pytest.fixture(scope="module")
def delivering() -> Iterator[tuple[BlindFederation, SignedEpoch]]:
    """Epoch 2 of a study that began in epoch 1, up to the steward's packages, none of which has been taken."""
    parties = BlindFederation(5)
    parties.next_epoch()
    for host in parties.hosts:
        host.settled = host.secret  # a round was announced
    yield parties, SignedEpoch(parties, 2)
    parties.close()


def forged_package(
    parties: BlindFederation, epoch: SignedEpoch, maker: int, to: int, secret: bytes, epoch_hash: bytes = b""
) -> bytes:
    """A sound package with a real key, by any site, which has its channel to the receiver and its own identity."""
    key = make_key(parties.adder, secret)
    channels: Channels = parties.sites[maker]._state.view.channels
    addressee = Addressee(parties.terms.session, epoch_hash or epoch.epoch.epoch_hash, SiteId(to))
    return seal_package(key, addressee, channels.key(SiteId(to)), parties.keys[maker], parties.random)


def test_only_the_stewards_own_package_for_this_site_epoch_and_charter_is_taken(delivering):
    """One site, one bad package after the other, then the good one: each refusal leaves it waiting for that."""
    parties, epoch = delivering
    secret = parties.hosts[0].secret
    old = next(
        decode_body(PackageDelivery, frame[HEADER_BYTES:-SIGNATURE_BYTES]).package
        for direction, site, frame in parties.frames
        if direction == "down" and site == 2 and read_header(frame).type == T.PACKAGE
    )
    good = epoch.packages[SiteId(2)]
    by_another = forged_package(parties, epoch, 1, 2, secret)
    offers = {
        "by another site, under the steward's": (0, by_another),
        "the steward's, under another's name": (1, good),
        "for another site": (0, epoch.packages[SiteId(3)]),
        "of the epoch before": (0, old),
        "for another epoch": (0, forged_package(parties, epoch, 0, 2, secret, b"\x05" * 32)),
        "with another site secret": (0, forged_package(parties, epoch, 0, 2, OTHER_SECRET)),
        "cut short": (0, good[:-1]),
    }

    for name, (steward, package) in offers.items():
        assert epoch.ask(2, T.PACKAGE, PackageDelivery(steward, package)) == "KeyRefused", name
        assert cipher_at(parties.sites[2]) is None
        assert parties.hosts[2].secret == secret
    assert epoch.ask(2, T.PACKAGE, PackageDelivery(0, good), epoch=1) == "EpochRefused"

    assert epoch.ask(2, T.PACKAGE, PackageDelivery(0, good)) is None
    assert cipher_at(parties.sites[2]).key_id == epoch.key_id
    assert epoch.ask(2, T.PACKAGE, PackageDelivery(0, good)) is None  # the same bytes have the same answer
    second = forged_package(parties, epoch, 0, 2, secret)
    assert epoch.ask(2, T.PACKAGE, PackageDelivery(0, second)) == "AlreadyAnswered"
    assert cipher_at(parties.sites[2]).key_id == epoch.key_id


def test_any_site_of_the_list_may_make_the_key_and_a_steward_that_was_passed_over_takes_it():
    """Its answer may have been lost: then the next site is asked, and the first gives its own key up, once."""
    parties = BlindFederation(3)
    try:
        epoch = SignedEpoch(parties, 1)
        own = cipher_at(parties.sites[0]).key_id
        secret = parties.hosts[0].secret
        package = forged_package(parties, epoch, 1, 0, OTHER_SECRET)

        assert epoch.ask(0, T.PACKAGE, PackageDelivery(0, package)) == "KeyRefused"  # nobody is its own steward
        assert epoch.ask(0, T.E3, PackageRequest(epoch.epoch.epoch_hash), round_number=1) == "AlreadyAnswered"
        assert cipher_at(parties.sites[0]).key_id == own == epoch.key_id
        assert epoch.ask(0, T.PACKAGE, PackageDelivery(1, package)) is None
        assert cipher_at(parties.sites[0]).key_id != own
        assert parties.hosts[0].secret == OTHER_SECRET != secret  # no round was announced under the first
        another = forged_package(parties, epoch, 2, 0, OTHER_SECRET)
        assert epoch.ask(0, T.PACKAGE, PackageDelivery(2, another)) == "AlreadyAnswered"
    finally:
        parties.close()


def test_a_key_is_made_for_this_epoch_only(delivering):
    parties, epoch = delivering
    digest = epoch.epoch.epoch_hash

    assert epoch.ask(3, T.E3, PackageRequest(digest), epoch=1) == "EpochRefused"
    assert epoch.ask(0, T.R6, PolicyRequest(parties.hosts[0].held_tag()), epoch=1) == "EpochRefused"
    fresh = BlindFederation(3)
    try:
        waiting = SignedEpoch(fresh, 1, ask_steward=False)
        assert waiting.ask(0, T.E3, PackageRequest(b"\x05" * 32)) == "EpochRefused"
        assert waiting.ask(0, T.PACKAGE, PackageDelivery(0, b"x" * 200)) == "KeyRefused"
        assert waiting.ask(0, T.PACKAGE, PackageDelivery(7, b"x" * 200)) == "KeyRefused"  # not of the list
        assert cipher_at(fresh.sites[0]) is None
        assert fresh.hosts[0].secret is None
    finally:
        fresh.close()


@pytest.mark.parametrize("protection", ["ckks", "ckks+masking"])
def test_no_key_is_made_or_taken_once_a_round_has_begun(federations, protection):
    parties = federations(5, protection)
    machine = parties.next_round()
    parties.publish_blind(machine)
    held = [cipher_at(site).key_id for site in parties.sites]
    signed = SignedEpoch.of(parties)

    asked_again = PackageRequest(signed.epoch.epoch_hash)
    assert signed.ask(0, T.E3, asked_again) is None  # the bytes of the opening: they have their one answer
    assert signed.ask(0, T.E3, asked_again, round_number=1) == "EpochRefused"
    assert signed.ask(2, T.PACKAGE, PackageDelivery(0, b"x" * 200)) == "EpochRefused"
    assert [cipher_at(site).key_id for site in parties.sites] == held
    assert signed.ask(4, T.R6, PolicyRequest(parties.hosts[4].held_tag())) is None  # control: R6 has its turn now


def test_a_site_takes_the_first_site_secret_that_it_is_given_and_no_other():
    """Also over a restart: the host's disk has it."""
    parties = BlindFederation(3)
    try:
        parties.next_epoch()
        secrets = {host.secret for host in parties.hosts}
        assert len(secrets) == 1
        for host in parties.hosts:
            host.settled = host.secret  # a round was announced
        parties.restart(2)
        epoch = SignedEpoch(parties, 2)
        other = forged_package(parties, epoch, 0, 2, OTHER_SECRET)
        assert epoch.ask(2, T.PACKAGE, PackageDelivery(0, other)) == "KeyRefused"
        assert {host.secret for host in parties.hosts} == secrets
        assert epoch.ask(2, T.PACKAGE, PackageDelivery(0, epoch.packages[SiteId(2)])) is None
    finally:
        parties.close()


def test_a_key_that_ends_its_worker_or_is_none_is_refused_and_its_secret_not_kept(monkeypatch):
    """The steward signs it, so only the worker sees what it is."""
    parties = BlindFederation(3)
    try:
        epoch = SignedEpoch(parties, 1)
        context = Worker.ask

        def made(self: Worker, op, payload=b""):
            found = context(self, op, payload)
            return found[:-100] if op.name == "MAKE_KEY" else found

        monkeypatch.setattr(Worker, "ask", made)
        bad = forged_package(parties, epoch, 0, 1, parties.hosts[0].secret)
        monkeypatch.undo()
        assert epoch.ask(1, T.PACKAGE, PackageDelivery(0, bad)) == "KeyRefused"
        assert parties.hosts[1].secret is None
        assert cipher_at(parties.sites[1]) is None
        assert epoch.ask(1, T.PACKAGE, PackageDelivery(0, epoch.packages[SiteId(1)])) is None
    finally:
        parties.close()
