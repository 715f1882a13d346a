"""Frames changed on the way, repeated, reflected, or moved to another round: refused by name, and the round goes on."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secure_frl.errors import BadSignature, LateMessage, PeerError, SecureFrlError, UnexpectedMessage
from secure_frl.masking.contexts import members_hash, model_tag, sizes_of
from secure_frl.masking.coordinator_epoch import EpochOpening
from secure_frl.masking.refusals import read_refusal
from secure_frl.masking.site_memory import EpochOpen
from secure_frl.wire.envelope import HEADER_BYTES, Address, read_header, seal_frame
from secure_frl.wire.messages import (
    Announcement,
    Confirmations,
    Inbox,
    MessageType,
    PublishedSum,
    ReturnedShares,
    Survivors,
    encode_body,
)
from secure_frl.wire.records import Confirmation, Member, pack_members, pack_records
from secure_frl.wire.registry import REGISTRY

NAMED = {"MalformedMessage", "UnexpectedMessage", "BadSignature", "AlreadyAnswered", "RoundRefused", "EpochRefused"}


def positions(frame: bytes) -> list[int]:
    """Every field of the header, then samples of body and trailer; the last byte always."""
    fields = [0, 3, 4, 5, 7, 8, 39, 40, 47, 48, 55, 56, 63, 64, 71, 72, 79, 80, 111, 112, 119, 120, 151]
    rest = list(range(HEADER_BYTES, len(frame), max(1, (len(frame) - HEADER_BYTES) // 7)))
    return [*fields, *rest, len(frame) - 1]


def flipped(frame: bytes, position: int) -> bytes:
    changed = bytearray(frame)
    changed[position] ^= 1 << (position % 8)
    return bytes(changed)


def refusal_code(parties, site, request, reply):
    assert read_header(reply).type == MessageType.REFUSAL
    return read_refusal(reply, parties.terms.site_public_keys[site], hashlib.sha256(request).digest())


def tampered_exchange(parties, machine, seen):
    """One stage in which every frame is first delivered in many changed forms, then as it is."""
    for site, request in list(machine.requests()):
        protocol = parties.sites[site]
        for position in positions(request) if site == 0 else [60]:
            before = protocol.state_name
            bad = flipped(request, position)
            code = refusal_code(parties, site, bad, protocol.handle(bad))
            assert code in NAMED, (position, code)
            if read_header(request).type > MessageType.R0 and (40 <= position < 64 or 80 <= position < 112):
                assert code in {"UnexpectedMessage", "AlreadyAnswered"}  # epoch, round, attempt, fresh
            assert protocol.state_name == before
        reply = protocol.handle(request)
        for position in positions(reply) if site == 0 else []:
            with pytest.raises(PeerError) as caught:
                machine.receive(site, flipped(reply, position))
            if 8 <= position < 80:  # session, epoch, round, attempt, sender, receiver
                assert isinstance(caught.value, UnexpectedMessage)
            seen.add(machine._letters._excluded.pop(site, "LateMessage"))  # the test lets the site in again
            assert site not in machine.refusals
        machine.receive(site, reply)


@pytest.mark.parametrize("with_model", [False, True])
def test_every_changed_frame_is_refused_and_the_round_still_gives_the_exact_sum(federation, with_model):
    parties, seen = federation(3), set()
    opening = EpochOpening(parties.terms, parties.coordinator_key, parties.random, lambda: parties.now, 1, 1, 1_003_600)
    for _ in range(2):
        tampered_exchange(parties, opening, seen)
        opening.close_stage()
    models = dict.fromkeys(range(3), b"first model") if with_model else {}
    machine = parties.begin(opening.outcome(), models=models)
    for _ in range(4):
        tampered_exchange(parties, machine, seen)
        machine.close_stage()

    assert machine.outcome().integers.tolist() == parties.plain_sum(range(3)).tolist()
    assert seen <= {"MalformedMessage", "UnexpectedMessage", "LateMessage", "BadSignature"}
    assert "BadSignature" in seen


def recorded(federation, rounds=2, seed=1):
    parties = federation(3, seed=seed)
    epoch, model = parties.open(), b"first model"
    for number in range(1, rounds + 1):
        machine = parties.begin(epoch, number)
        parties.drive(machine)
        parties.publish(machine, model)
        model = parties.hosts[0].model
    return parties, epoch


def test_frames_of_an_earlier_round_epoch_or_session_are_refused(federation):
    parties, _ = recorded(federation)
    old = [frame for direction, site, frame in parties.frames if direction == "down" and site == 0]
    parties.open(epoch=2, first_round=3)
    other = federation(3, charter=b"another charter")  # the same people, keys and random bytes
    other.open()

    for frame in old:
        again = refusal_code(parties, 0, frame, parties.sites[0].handle(frame))
        assert again in {"AlreadyAnswered", "UnexpectedMessage", "EpochRefused"}
        assert refusal_code(other, 0, frame, other.sites[0].handle(frame)) == "UnexpectedMessage"
    assert isinstance(parties.sites[0]._state, EpochOpen)


def test_replies_of_another_site_stage_round_or_attempt_are_refused(federation):
    parties, epoch = recorded(federation, rounds=1)
    old = [frame for direction, _, frame in parties.frames if direction == "up"]
    machine = parties.begin(epoch, 2, tag=hashlib.sha256(b"").digest())
    list(machine.requests())

    for frame in old:
        for site in (0, 1):
            with pytest.raises(PeerError) as caught:
                machine.receive(site, frame)
            assert isinstance(caught.value, LateMessage) == (read_header(frame).sender == site)
            assert (site in machine.excluded) != isinstance(caught.value, LateMessage)
            machine._letters._excluded.pop(site, None)


def test_a_late_or_repeated_answer_leaves_its_sender_in(federation):
    parties, epoch = recorded(federation, rounds=1)
    old = [frame for direction, site, frame in parties.frames if (direction, site) == ("up", 0)]
    machine = parties.begin(epoch, 2, tag=model_tag(parties.hosts[0].model))
    for _ in range(4):
        requests = dict(machine.requests())
        for frame in old:  # of round 1 and of the epoch's opening
            with pytest.raises(LateMessage):
                machine.receive(0, frame)
        for site, request in requests.items():
            answer = parties.sites[site].handle(request)
            machine.receive(site, answer)
            if site == 0:
                old_answer = answer
        machine.close_stage()
        machine.receive(0, old_answer)  # accepted in the stage before: harmless

    assert machine.excluded == {}
    assert machine.outcome().contributors == (0, 1, 2)


def test_a_repeated_input_with_another_vector_is_refused_and_its_sender_stays(federation):
    parties = federation(3)
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    machine.close_stage()
    parties.exchange(machine)
    sent = next(frame for way, site, frame in reversed(parties.frames) if (way, site) == ("up", 1))
    other = sent[:HEADER_BYTES] + bytes([sent[HEADER_BYTES] ^ 1]) + sent[HEADER_BYTES + 1 :]  # header and tag as before

    for _ in range(3):  # while inputs come in, and in both stages after
        with pytest.raises(BadSignature):
            machine.receive(1, other)
        machine.receive(1, sent)
        parties.exchange(machine)
        machine.close_stage()

    assert machine.excluded == {}
    assert machine.outcome().integers.tolist() == parties.plain_sum(range(3)).tolist()


def test_a_reflected_frame_is_refused_on_both_sides(federation):
    parties = federation(3)
    machine = parties.begin(parties.open())
    for site, request in list(machine.requests()):
        with pytest.raises(PeerError):
            machine.receive(site, request)
        machine._letters._excluded.pop(site)
        reply = parties.sites[site].handle(request)
        assert refusal_code(parties, site, reply, parties.sites[site].handle(reply)) == "UnexpectedMessage"
        machine.receive(site, reply)


def test_a_request_for_another_site_is_refused(federation):
    parties = federation(3)
    machine = parties.begin(parties.open())
    requests = dict(machine.requests())

    assert refusal_code(parties, 0, requests[1], parties.sites[0].handle(requests[1])) == "UnexpectedMessage"


def test_an_identical_request_gets_identical_bytes_and_another_one_is_refused(federation):
    parties = federation(5)
    machine = parties.begin(parties.open())
    for _ in range(2):
        parties.exchange(machine)
        machine.close_stage()
    state = machine._state
    requests = dict(machine.requests())
    first = parties.sites[0].handle(requests[0])
    other = state.view.seal(0, MessageType.R3A, state.ctx2, Survivors((0, 1, 2, 3), bytes(64)))

    assert parties.sites[0].handle(requests[0]) == first
    assert refusal_code(parties, 0, other, parties.sites[0].handle(other)) == "AlreadyAnswered"
    assert parties.registers[0].trail.count("record R3b") == 1


def test_a_site_that_joined_a_newer_attempt_gives_no_old_answer_again(federation):
    parties = federation(5)
    epoch = parties.open()
    machine = parties.begin(epoch)
    started = dict(machine.requests())
    parties.exchange(machine)
    machine.close_stage()
    asked = dict(machine.requests())
    parties.exchange(machine, lost=range(5))
    site = parties.sites[0]
    assert read_header(site.handle(asked[0])).type == MessageType.R2  # while its attempt lasts

    parties.exchange(parties.begin(epoch, 1, 1))

    kinds = {MessageType.E0, MessageType.E1, MessageType.R0}
    assert set(site._sent) == kinds  # no vector of a spent attempt stays in memory
    assert refusal_code(parties, 0, asked[0], site.handle(asked[0])) == "AlreadyAnswered"
    assert refusal_code(parties, 0, started[0], site.handle(started[0])) == "AlreadyAnswered"


def test_a_site_that_complained_gives_no_answer_of_its_attempt_again(federation):
    parties = federation(5)
    machine = parties.begin(parties.open())
    started = dict(machine.requests())
    parties.exchange(machine)
    machine.close_stage()
    state, site = machine._state, parties.sites[0]
    spoiled = Inbox(state.dealt.of(0)[:-1] + bytes([state.dealt.of(0)[-1] ^ 1]))
    asked = state.view.seal(0, MessageType.R1P, state.view.ctx1, spoiled, state.packed, state.packed_hash)
    assert read_header(site.handle(asked)).type == MessageType.BAD_SHARE

    assert refusal_code(parties, 0, started[0], site.handle(started[0])) == "AlreadyAnswered"
    assert set(site._sent) == {MessageType.R1P}


@pytest.mark.parametrize("kind", [MessageType.R0, MessageType.R1P], ids=lambda kind: kind.name)
def test_a_part_that_is_too_large_inside_the_greatest_total_is_refused_before_its_tag_is_checked(federation, kind):
    parties = federation(3)
    machine = parties.begin(parties.open())
    if kind is MessageType.R1P:
        parties.exchange(machine)
        machine.close_stage()
    header, site = read_header(dict(machine.requests())[0]), parties.sites[0]
    spec, sizes = REGISTRY[kind], sizes_of(parties.terms)
    body, rest = spec.limit(sizes), spec.rest(sizes)
    before = site._state

    def code(body_bytes, rest_bytes):
        frame = replace(header, body_bytes=body_bytes).encode() + bytes(body_bytes + spec.trailer_bytes + rest_bytes)
        return refusal_code(parties, 0, frame, site.handle(frame))

    assert code(body + 1, 0) == "MalformedMessage"
    assert code(1, rest + 1) == "MalformedMessage"
    assert code(body, rest) == "BadSignature"  # both may be that large
    assert site._state is before


# --- an insider with valid keys -------------------------------------------------------------------------------------

ID = st.integers(0, 12)
B32, B64 = st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64)
BODIES = {
    MessageType.R1P: st.builds(Inbox, st.binary(max_size=500)),
    MessageType.R3A: st.builds(Survivors, st.lists(ID, max_size=8).map(tuple), B64),
    MessageType.R3C: st.builds(
        Confirmations,
        st.lists(st.builds(Confirmation, ID, ID, B32, B32), max_size=8).map(pack_records) | st.binary(max_size=150),
    ),
    MessageType.R5: st.builds(PublishedSum, st.lists(ID, max_size=8).map(tuple), st.binary(max_size=90), B32, B32, B64),
}
ROWS = st.lists(st.builds(Member, st.integers(0, 2**64 - 1) | ID, B32, B32), max_size=5)
LISTS = ROWS.map(pack_members) | st.binary(max_size=200)  # U2 behind R1', under its tag
RAW = st.binary(max_size=200) | st.just(b"\x91" * 1000) | st.just(encode_body(Inbox(b"")))


@pytest.mark.parametrize("kind", list(BODIES), ids=lambda kind: kind.name)
def test_whatever_the_coordinator_seals_a_site_refuses_it_by_name(federation, kind):
    parties = federation(3)
    machine = parties.begin(parties.open())
    before = {MessageType.R1P: 1, MessageType.R3A: 2, MessageType.R3C: 3, MessageType.R5: 4}[kind]
    for _ in range(before):
        parties.exchange(machine)
        machine.close_stage()
    site, view, start = parties.sites[0], machine._view, parties.sites[0]._state
    salt = view.ctx1 if kind in (MessageType.R1P, MessageType.R5) else start.ctx2
    fresh = view.fresh if kind is MessageType.R5 else view.fresh_of[0]

    @given(plain=RAW | BODIES[kind].map(encode_body), listed=LISTS)
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    def insider(plain, listed):
        site._state = start
        parties.registers[0].rows = parties.registers[0].rows[:before]
        clear = (listed, members_hash(listed)) if kind is MessageType.R1P else ()
        request = seal_frame(view.address(0, fresh), kind, plain, view.link(0, kind, salt, fresh), *clear)
        code = refusal_code(parties, 0, request, site.handle(request))
        assert code != "SiteFailed", parties.logs[0][-1]

    insider()


@pytest.mark.parametrize("kind", ["R1", "R3B", "R4", "R5_REPLY"])
def test_whatever_a_peer_seals_the_coordinator_names_the_peer(federation, kind):
    parties = federation(3)
    machine = parties.begin(parties.open())
    before = {"R1": 0, "R3B": 2, "R4": 3, "R5_REPLY": 4}[kind]
    for _ in range(before):
        parties.exchange(machine)
        machine.close_stage()
    if kind == "R5_REPLY":
        machine.publish(bytes(32))
    view, message = machine._view, MessageType[kind]
    salt = view.ctx1 if kind in ("R1", "R5_REPLY") else machine._state.ctx2
    fresh = view.fresh_of.get(0, b"\x07" * 32)
    address = Address(parties.terms.session, 1, 1, 0, 0, 2**64 - 1, fresh)
    empty = Announcement((), bytes(32), bytes(32), bytes(32), bytes(32))
    shares = st.builds(ReturnedShares, st.binary(max_size=150), st.binary(max_size=150))
    shaped = BODIES[MessageType.R3C] | shares | st.just(empty)

    @given(plain=RAW | shaped.map(encode_body))
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    def insider(plain):
        frame = seal_frame(address, message, plain, view.link(0, message, salt, fresh))
        with pytest.raises(PeerError):
            machine.receive(0, frame)
        machine._letters._excluded.pop(0)

    insider()


def test_no_bytes_crash_a_site_or_the_coordinator(federation):
    parties = federation(3)
    machine = parties.begin(parties.open())
    genuine = dict(machine.requests())[0]

    @given(st.binary(max_size=400), st.booleans())
    @settings(max_examples=300, deadline=None)
    def anybody(data, with_header):
        frame = genuine[:HEADER_BYTES] + data if with_header else data
        assert refusal_code(parties, 0, frame, parties.sites[0].handle(frame)) in NAMED
        with pytest.raises(SecureFrlError):
            machine.receive(0, frame)
        machine._letters._excluded.pop(0)

    anybody()
