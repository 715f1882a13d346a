"""Dealt shares: they open only for their holder, in their attempt, under their commitments."""

from __future__ import annotations

import pytest

from secure_frl.masking.keys import KeyPair, open_channels, share_key
from secure_frl.masking.secret_sharing import combine
from secure_frl.masking.site_shares import (
    deal,
    key_share_commitment,
    open_dealt,
    seed_commitment,
    seed_share_commitment,
)
from secure_frl.randomness import rehearsal_source
from secure_frl.wire.envelope import seal
from secure_frl.wire.hashing import lp
from secure_frl.wire.records import DealtShares, Member, MemberList, pack_members, unpack_records

EPOCH, CTX1, OTHER_CTX1 = b"e" * 32, b"1" * 32, b"2" * 32
OWN = [KeyPair.from_secret(bytes([7 + i]) * 32) for i in range(3)]
PUBLIC = {i: OWN[i].public for i in range(3)}
MASK_KEY, SEED = KeyPair.from_secret(b"\x31" * 32), b"\x32" * 32


def channels(site):
    opened = open_channels(OWN[site], site, PUBLIC, EPOCH, 1)
    opened.advance_to(1)
    return opened


def dealt():
    body, own = deal(channels(0), CTX1, 0, (1, 2), (MASK_KEY, SEED), 2, rehearsal_source(1))
    return body, own, Member(0, body.public_key, body.seed_commitment)


def opened_at(channels, ctx1, me, dealer, item):
    """The two shares of the one dealer, or None when it is to blame."""
    members = MemberList.read(pack_members([dealer]))
    opened, bad = open_dealt(channels, ctx1, me, members, [item])
    assert (list(opened), bad) in (([0], []), ([0], [0]), ([], [0]))
    return None if bad else opened[0]


def as_received(item, **changes):
    fields = {"commitment_s": item.commitment_s, "commitment_b": item.commitment_b, "sealed": item.sealed, **changes}
    return DealtShares(0, fields["commitment_s"], fields["commitment_b"], fields["sealed"])


def test_holders_open_their_shares_and_together_rebuild_both_secrets():
    body, own, dealer = dealt()
    items = unpack_records(DealtShares, body.dealt)
    opened = {item.site: opened_at(channels(item.site), CTX1, item.site, dealer, as_received(item)) for item in items}

    assert combine({site: shares[0] for site, shares in opened.items()}) == MASK_KEY.secret
    assert combine({0: own, 1: opened[1][1]}) == SEED
    assert [item.site for item in items] == [1, 2]  # nobody deals a share of a key to its owner
    assert body.own_commitment == seed_share_commitment(CTX1, 0, 0, own)


def test_shares_do_not_open_for_another_holder_attempt_key_or_commitment():
    body, _, dealer = dealt()
    item = unpack_records(DealtShares, body.dealt)[0]
    assert opened_at(channels(1), CTX1, 1, dealer, as_received(item)) is not None
    other_key = Member(0, OWN[2].public, dealer.seed_commitment)
    other_seed = Member(0, dealer.public_key, b"h" * 32)
    tries = [
        (channels(2), CTX1, 2, dealer, as_received(item)),
        (channels(1), OTHER_CTX1, 1, dealer, as_received(item)),
        (channels(1), CTX1, 1, other_key, as_received(item)),
        (channels(1), CTX1, 1, other_seed, as_received(item)),
        (channels(1), CTX1, 1, dealer, as_received(item, commitment_s=b"g" * 32)),
        (channels(1), CTX1, 1, dealer, as_received(item, commitment_b=b"h" * 32)),
        (channels(1), CTX1, 1, dealer, as_received(item, sealed=bytes(144))),
    ]

    for attempt in tries:
        assert opened_at(*attempt) is None


@pytest.mark.parametrize("lie", ["key share", "seed share", "word out of range"])
def test_a_dealer_that_seals_other_shares_than_it_committed_to_is_named(lie):
    _, _, dealer = dealt()
    of_key, of_seed = bytes(64), bytes(64)
    g = key_share_commitment(CTX1, 0, 1, of_key if lie != "key share" else b"\x01" + bytes(63))
    h = seed_share_commitment(CTX1, 0, 1, of_seed if lie != "seed share" else b"\x01" + bytes(63))
    if lie == "word out of range":
        of_key = (65_537).to_bytes(4, "little") + bytes(60)
        g = key_share_commitment(CTX1, 0, 1, of_key)
    key = share_key(channels(0).key(1), CTX1, 0, 1, dealer.public_key, dealer.seed_commitment)
    item = DealtShares(0, g, h, seal(key, of_key + of_seed, lp(0, 1, g, h)))

    assert opened_at(channels(1), CTX1, 1, dealer, item) is None


def test_the_commitment_of_a_seed_binds_site_and_attempt():
    ones = {seed_commitment(CTX1, 0, SEED), seed_commitment(CTX1, 1, SEED), seed_commitment(OTHER_CTX1, 0, SEED)}

    assert len(ones) == 3
