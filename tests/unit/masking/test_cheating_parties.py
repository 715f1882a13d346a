"""Published sums and peers that lie with valid keys: refused by name, the others go on."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from secure_frl.errors import DealerCheated, SecureFrlError
from secure_frl.masking import contexts, coordinator_requests, site_attempt
from secure_frl.masking.keys import KeyPair
from secure_frl.wire import envelope
from secure_frl.wire.envelope import read_header
from secure_frl.wire.messages import (
    Inbox,
    MessageType,
    PublishedSum,
    ReturnedShares,
    Survivors,
    decode_body,
    encode_body,
)
from secure_frl.wire.records import DEALT_BYTES, Member, Share, pack_members, pack_records, unpack_records

# --- published sums --------------------------------------------------------------------------------------------------


def publish_changed(parties, change):
    machine = parties.begin(parties.open())
    parties.drive(machine)
    summed = machine._state
    body, codes = {}, {}
    body["survivors"], body["total"] = summed.survivors, summed.total_bytes
    body["tag"], body["transcript"] = b"\x01" * 32, summed.transcript_hash
    change(parties, body, summed)
    signed = envelope.signed_bytes(
        "R5", summed.view.ctx1, list(body["survivors"]), hashlib.sha256(body["total"]).digest(), body["tag"],
        body["transcript"],
    )  # fmt: skip
    sealed = PublishedSum(
        body["survivors"], body["total"], body["tag"], body["transcript"], parties.coordinator_key.sign(signed)
    )
    for site in range(parties.n):
        view = summed.view
        key = view.link(site, MessageType.R5, view.ctx1, view.fresh)
        request = envelope.seal_frame(view.address(site, view.fresh), MessageType.R5, encode_body(sealed), key)
        codes[site] = parties.refusal(site, request, parties.sites[site].handle(request))
    return set(codes.values())


def retranscribe(parties, body, summed):
    state = parties.sites[0]._state
    digest = contexts.survivors_hash(state.ctx2, body["survivors"])
    body["transcript"] = contexts.transcript_hash(state.ctx2, digest, hashlib.sha256(body["total"]).digest())


def add_to(index, amount):
    def change(parties, body, summed):
        words = np.frombuffer(body["total"], "<i4").copy()
        words[index] += amount
        body["total"] = words.tobytes()
        retranscribe(parties, body, summed)

    return change


def drop_survivor(parties, body, summed):
    body["survivors"] = body["survivors"][1:]
    retranscribe(parties, body, summed)


def cut_short(parties, body, summed):
    body["total"] = body["total"][:-4]
    retranscribe(parties, body, summed)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda parties, body, summed: None, "ModelDoesNotFollow"),
        (add_to(0, 1), "LaneMismatch"),
        (add_to(1, 1), "LaneMismatch"),
        (add_to(-2, 1), "LaneMismatch"),
        (add_to(-1, -1), "LaneMismatch"),
        (add_to(5, 20_000), "SumOutOfRange"),
        (add_to(5, 2**24), "MalformedMessage"),
        (cut_short, "MalformedMessage"),
        (drop_survivor, "SurvivorsRefused"),
        (lambda parties, body, summed: body.update(transcript=b"\x02" * 32), "SurvivorsRefused"),
    ],
)
def test_a_published_sum_that_cannot_be_is_refused_by_every_site(federation, change, code):
    parties = federation(5)

    assert publish_changed(parties, change) == {code}
    assert {site.state_name for site in parties.sites} == {"EpochOpen"}
    assert all(register.rows[-1][2] == "closed" for register in parties.registers)
    assert [host.closed for host in parties.hosts] == [["unknown"]] * 5  # each host hears that its round is over


# --- peers that cheat ------------------------------------------------------------------------------------------------


def spoil(parties, site, mutate):
    """Let one site send a changed body, sealed with its own valid key."""

    def wire(direction, who, frame):
        header = read_header(frame)
        if direction == "up" and who == site and header.type != MessageType.REFUSAL:
            return mutate(header, frame) or frame
        return frame

    parties.wire = wire


def resealed(view, site, header, salt, frame, change):
    plain = view.unseal(site, header, salt, frame)
    body = change(plain)
    address = envelope.Address(
        header.session, header.epoch, header.round, header.attempt, header.sender, header.receiver, header.fresh
    )
    key = view.link(site, MessageType(header.type), salt, header.fresh)
    return envelope.seal_frame(address, header.type, body, key)


def test_a_dealer_whose_shares_do_not_open_is_named_and_the_complaining_site_counts_as_lost(federation):
    parties = federation(5)
    machine = parties.begin(parties.open())
    view = machine._view

    def mutate(header, frame):
        if header.type != MessageType.R1:
            return None

        def change(plain):
            body = decode_body(site_attempt.RoundKeys, plain)
            first = body.dealt[:DEALT_BYTES]
            bad = first[:-144] + bytes(144) + body.dealt[DEALT_BYTES:]
            return encode_body(type(body)(body.public_key, body.seed_commitment, body.own_commitment, bad))

        return resealed(view, 4, header, view.ctx1, frame, change)

    spoil(parties, 4, mutate)
    total = parties.drive(machine)

    assert machine.complaints == {0: (4,)}
    assert machine.excluded == {0: "BadShare"}
    assert total.contributors == (1, 2, 3, 4)
    assert total.integers.tolist() == parties.plain_sum([1, 2, 3, 4]).tolist()
    assert "release" not in parties.registers[0].trail  # its update has not left
    assert parties.hosts[0].closed[0] == "aborted"


@pytest.mark.parametrize("owner", [0, 3], ids=["another site's", "its own"])
def test_a_holder_that_returns_other_shares_is_out_and_the_sum_is_exact(federation, owner):
    parties = federation(10)
    machine = parties.begin(parties.open())
    view = machine._view

    def mutate(header, frame):
        if header.type != MessageType.R4:
            return None
        salt = machine._state.ctx2

        def change(plain):
            body = decode_body(ReturnedShares, plain)
            found = unpack_records(Share, body.of_seeds)
            shares = [Share(site, bytes(64) if site == owner else words) for site, words in found]
            return encode_body(ReturnedShares(pack_records(shares), body.of_keys))

        return resealed(view, 3, header, salt, frame, change)

    spoil(parties, 3, mutate)
    total = parties.drive(machine)

    assert machine.excluded == {3: "HolderCheated"}
    assert total.integers.tolist() == parties.plain_sum(range(10)).tolist()


def test_a_dealer_whose_seed_contradicts_its_commitment_aborts_the_round(federation):
    parties = federation(5)
    machine = parties.begin(parties.open())
    for _ in range(3):
        parties.exchange(machine)
        machine.close_stage()
    parties.exchange(machine)
    keys = machine._state.members[2]
    machine._state.members[2] = type(keys)(keys.public_key, b"\x01" * 32, keys.own_commitment)

    with pytest.raises(DealerCheated, match="site 2"):
        machine.close_stage()
    with pytest.raises(SecureFrlError):
        machine.outcome()


def test_a_dealer_whose_key_shares_rebuild_another_key_aborts_the_round(federation):
    parties = federation(5)
    machine = parties.begin(parties.open())
    for lost in ((), (2,), ()):
        parties.exchange(machine, lost)
        machine.close_stage()
    parties.exchange(machine)
    keys = machine._state.members[2]
    other = KeyPair.from_secret(b"\x09" * 32).public
    machine._state.members[2] = type(keys)(other, keys.seed_commitment, keys.own_commitment)

    with pytest.raises(DealerCheated, match="site 2"):
        machine.close_stage()


@pytest.mark.parametrize(
    "public", [bytes(32), b"\x01" + bytes(31), "copy"], ids=["zero point", "order one", "another site's key"]
)
def test_a_low_order_or_copied_mask_key_puts_its_sender_out_and_the_others_go_on(federation, public):
    parties = federation(5)
    machine = parties.begin(parties.open())
    view = machine._view

    def mutate(header, frame):
        if header.type != MessageType.R1:
            return None

        def change(plain):
            body = decode_body(site_attempt.RoundKeys, plain)
            key = machine._state.members[0].public_key if public == "copy" else public
            return encode_body(type(body)(key, body.seed_commitment, body.own_commitment, body.dealt))

        return resealed(view, 4, header, view.ctx1, frame, change)

    spoil(parties, 4, mutate)
    total = parties.drive(machine)

    assert machine.excluded == {4: "KeyRefused"}
    assert total.integers.tolist() == parties.plain_sum(range(4)).tolist()


def members_in(state):
    return [Member(site, keys.public_key, keys.seed_commitment) for site, keys in state.members.items()]


@pytest.mark.parametrize(
    "fault", ["low order", "equal", "own entry", "missing item", "fewer members", "foreign member"]
)
def test_a_site_refuses_a_member_list_that_the_coordinator_has_changed(federation, fault):
    parties = federation(5)
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    machine.close_stage()
    state = machine._state
    request = dict(coordinator_requests.requests_of(state, [0]))[0]
    view = state.view
    fresh = view.fresh_of[0]
    link = view.link(0, MessageType.R1P, view.ctx1, fresh)
    plain = envelope.unseal_frame(request, link, len(state.packed), contexts.members_hash(state.packed))
    members, dealt = members_in(state), decode_body(Inbox, plain).dealt
    assert request.endswith(pack_members(members))
    kind = Member
    if fault == "low order":
        members[1] = kind(1, bytes(32), members[1].seed_commitment)
    elif fault == "equal":
        members[1] = kind(1, members[2].public_key, members[1].seed_commitment)
    elif fault == "own entry":
        members[0] = kind(0, KeyPair.from_secret(b"\x09" * 32).public, members[0].seed_commitment)
    elif fault == "missing item":
        dealt = dealt[DEALT_BYTES:]
    elif fault == "fewer members":
        members, dealt = members[:3], dealt[: 2 * DEALT_BYTES]
    else:
        members[-1] = kind(9, KeyPair.from_secret(b"\x09" * 32).public, bytes(32))
    packed = pack_members(members)
    changed = view.seal(0, MessageType.R1P, view.ctx1, Inbox(dealt), packed, contexts.members_hash(packed))

    code = parties.refusal(0, changed, reply := parties.sites[0].handle(changed))

    if fault in ("low order",):
        # the dealer's key is inside the share key, so its shares do not open: the dealer is named before
        assert read_header(reply).type == MessageType.BAD_SHARE
    else:
        assert code == {"equal": "KeyRefused"}.get(fault, "RosterRefused")
    assert parties.sites[0].state_name == "Departed"
    assert "record R2" not in parties.registers[0].trail


@pytest.mark.parametrize(
    ("survivors", "code"),
    [
        ([0, 1, 2], "SurvivorsRefused"),  # fewer than min_survivors = 4
        ([1, 2, 3, 4], "SurvivorsRefused"),  # without this site
        ([0, 1, 2, 3, 9], "SurvivorsRefused"),  # not a member
        ([1, 0, 2, 3, 4], "SurvivorsRefused"),  # not ascending
        ([0, 1, 2, 3, 3], "SurvivorsRefused"),
        ([0, 1, 2, 3], None),
    ],
)
def test_a_survivor_set_is_confirmed_only_inside_the_charter(federation, survivors, code):
    parties = federation(5)
    machine = parties.up_to_survivors()
    request = parties.name_survivors(machine._state, 0, survivors)

    assert parties.refusal(0, request, parties.sites[0].handle(request)) == code


def test_fewer_survivors_than_min_survivors_are_refused_where_only_that_rule_stands_in_the_way(federation):
    parties = federation(10, noise="local")  # t = 6, min_survivors = 8: seven would satisfy every other bound
    machine = parties.up_to_survivors()
    request = parties.name_survivors(machine._state, 0, [0, 1, 2, 3, 4, 5, 6])

    assert parties.refusal(0, request, parties.sites[0].handle(request)) == "SurvivorsRefused"
    assert "min_survivors" not in parties.logs[0][-1][1]
    assert "at least 8 survivors" in parties.logs[0][-1][1]


def test_a_refused_survivor_set_drops_what_the_attempt_left_in_memory(federation):
    parties = federation(5)
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    machine.close_stage()
    before = dict(machine.requests())[0]
    parties.exchange(machine)
    machine.close_stage()
    parties.sites[0].handle(parties.name_survivors(machine._state, 0, [0, 1, 2]))

    assert parties.sites[0].state_name == "Departed"
    assert parties.sites[0]._sent == {}
    assert parties.refusal(0, before, parties.sites[0].handle(before)) == "AlreadyAnswered"
    assert parties.hosts[0].closed == ["unknown"]


def test_a_survivor_list_without_the_coordinator_signature_is_refused(federation):
    parties = federation(5)
    machine = parties.up_to_survivors()
    state = machine._state
    request = state.view.seal(0, MessageType.R3A, state.ctx2, Survivors((0, 1, 2, 3, 4), bytes(64)))

    assert parties.refusal(0, request, parties.sites[0].handle(request)) == "BadSignature"
