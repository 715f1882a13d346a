"""A site's epoch: a coordinator that swaps keys, repeats numbers or stretches the expiry gets no channel."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from secure_frl.masking.coordinator_epoch import EpochOpening
from secure_frl.masking.keys import KeyPair
from secure_frl.masking.refusals import read_refusal
from secure_frl.secure_sum import COORDINATOR_ID
from secure_frl.wire.envelope import EMPTY_32, HEADER_BYTES, SIGNATURE_BYTES, Address, read_header, sign_frame
from secure_frl.wire.messages import EpochEntry, EpochList, MessageType, OpenEpoch, decode_body, encode_body
from secure_frl.wire.signatures import signed_bytes


def ask(parties, kind, body, epoch=1, site=0):
    """Deliver a frame that the coordinator has signed; return the refusal's name, or None."""
    encoded = encode_body(body)
    address = Address(parties.terms.session, epoch, 0, 0, COORDINATOR_ID, site, EMPTY_32)
    request = sign_frame(address.header(kind, len(encoded)), encoded, parties.coordinator_key)
    reply = parties.sites[site].handle(request)
    if read_header(reply).type != MessageType.REFUSAL:
        return None
    return read_refusal(reply, parties.terms.site_public_keys[site], hashlib.sha256(request).digest())


def advertised(parties):
    """All keys are in; return the honest list."""
    opening = EpochOpening(parties.terms, parties.coordinator_key, parties.random, lambda: parties.now, 1, 1, 1_003_600)
    parties.exchange(opening)
    opening.close_stage()
    frame = dict(opening.requests())[0]
    return list(decode_body(EpochList, frame[HEADER_BYTES:-SIGNATURE_BYTES]).entries)


def swapped(entries, site, key=b"", signature=b""):
    entry = entries[site]
    changed = EpochEntry(site, key or entry.public_key, b"", signature or entry.signature)
    return [changed if other.site == site else other for other in entries]


FOREIGN = KeyPair.from_secret(b"\x42" * 32).public


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda entries: swapped(entries, 1, key=FOREIGN), "BadSignature"),  # the coordinator in the middle
        (lambda entries: swapped(entries, 1, signature=bytes(64)), "BadSignature"),
        (lambda entries: swapped(entries, 0, key=FOREIGN), "RosterRefused"),
        (lambda entries: entries[1:], "RosterRefused"),  # this site left out
        (lambda entries: entries[:3], "RosterRefused"),  # fewer than min_survivors = 4
        (lambda entries: entries[::-1], "RosterRefused"),
        (lambda entries: [*entries[:-1], entries[-2]], "RosterRefused"),
        (lambda entries: [*entries[:-1], EpochEntry(9, FOREIGN, b"", bytes(64))], "RosterRefused"),
        (lambda entries: entries, None),
    ],
    ids=["other key", "other signature", "own key", "own missing", "few", "order", "twice", "not enrolled", "honest"],
)
def test_a_list_of_keys_is_believed_only_as_everybody_signed_it(federation, change, code):
    parties = federation(5)
    entries = advertised(parties)

    assert ask(parties, MessageType.E1, EpochList(tuple(change(entries)))) == code
    assert parties.sites[0].state_name == ("KeysAdvertised" if code else "EpochOpen")


def test_a_key_signed_for_another_epoch_is_refused(federation):
    parties = federation(5)
    entries = advertised(parties)
    fields = (parties.terms.session, 2, 1, FOREIGN, b"", parties.terms.roster_hash, 1_003_600)
    old = parties.keys[1].sign(signed_bytes("epoch", *fields))

    assert ask(parties, MessageType.E1, EpochList(tuple(swapped(entries, 1, FOREIGN, old)))) == "BadSignature"


@pytest.mark.parametrize("public", [bytes(32), b"\x01" + bytes(31), "copy"])
def test_a_low_order_or_copied_key_is_refused_though_its_owner_signed_it(federation, public):
    parties = federation(5)
    entries = advertised(parties)
    key = entries[2].public_key if public == "copy" else public
    fields = (parties.terms.session, 1, 1, key, b"", parties.terms.roster_hash, 1_003_600)
    signature = parties.keys[1].sign(signed_bytes("epoch", *fields))

    assert ask(parties, MessageType.E1, EpochList(tuple(swapped(entries, 1, key, signature)))) == "KeyRefused"


@pytest.mark.parametrize(
    ("epoch", "named", "first_round", "expiry_s", "code"),
    [
        (5, 5, 8, 1_003_600, None),
        (5, 6, 8, 1_003_600, "EpochRefused"),  # header and body differ
        (4, 4, 8, 1_003_600, "EpochRefused"),  # not newer than the last one
        (5, 5, 7, 1_003_600, "EpochRefused"),  # round 7 is closed here
        (5, 5, 8, 1_000_000, "EpochRefused"),  # expired
        (5, 5, 8, 1_086_401, "EpochRefused"),  # more than 24 h ahead
        (5, 5, 8, 1_086_400, None),
    ],
)
def test_an_epoch_is_newer_begins_later_and_lives_a_day_at_most(federation, epoch, named, first_round, expiry_s, code):
    parties = federation(3)
    parties.registers[0].epoch = 4
    parties.registers[0].rows.append((7, 0, "R3b"))

    found = ask(parties, MessageType.E0, OpenEpoch(named, b"\x09" * 32, first_round, expiry_s), epoch)

    assert found == code
    assert parties.registers[0].epoch == (4 if code else 5)  # written down before the key leaves


def test_a_round_that_was_not_confirmed_may_begin_again_in_a_new_epoch(federation):
    parties = federation(3)
    parties.registers[0].rows.append((7, 0, "R2"))

    assert ask(parties, MessageType.E0, OpenEpoch(1, b"\x09" * 32, 7, 1_003_600)) is None


def test_a_low_order_key_of_a_site_puts_it_out_of_the_epoch(federation, monkeypatch):
    parties, genuine = federation(5), KeyPair.draw
    low = replace(KeyPair.from_secret(bytes(32)), public=bytes(32))
    opening = EpochOpening(parties.terms, parties.coordinator_key, parties.random, lambda: parties.now, 1, 1, 1_003_600)
    for site, request in list(opening.requests()):
        if site == 2:
            monkeypatch.setattr(KeyPair, "draw", classmethod(lambda cls, random: low))
        reply = parties.sites[site].handle(request)
        monkeypatch.setattr(KeyPair, "draw", genuine)
        if site == 2:
            with pytest.raises(Exception, match="full order"):
                opening.receive(site, reply)
        else:
            opening.receive(site, reply)
    opening.close_stage()
    parties.exchange(opening)
    opening.close_stage()

    assert opening.excluded == {2: "KeyRefused"}
    assert opening.outcome().members == (0, 1, 3, 4)
