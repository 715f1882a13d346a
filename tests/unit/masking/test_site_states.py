"""A site's table, state by state: what is answered, what is refused by name, what leaves in a refusal."""

from __future__ import annotations

import gc
import hashlib
from dataclasses import replace

import pytest

from secure_frl.errors import DataRefused, InvalidParameter
from secure_frl.masking.refusals import CODES, REFUSAL_BYTES, read_refusal
from secure_frl.masking.site_memory import left
from secure_frl.masking.site_states import TABLE, SiteProtocol
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import COORDINATOR_ID, SiteId
from secure_frl.wire.envelope import Address, Header, read_header
from secure_frl.wire.messages import MessageType
from secure_frl.wire.registry import REGISTRY, Sizes

STATES = [
    "WithoutEpoch",
    "KeysAdvertised",
    "EpochOpen",
    "SharesSent",
    "InputSent",
    "SetConfirmed",
    "SumAwaited",
    "Departed",
]
REACHED_BY = {  # the design's stages
    "WithoutEpoch": (),
    "KeysAdvertised": ("E0",),
    "EpochOpen": ("E0", "E1"),
    "SharesSent": ("E0", "E1", "R0"),
    "InputSent": ("E0", "E1", "R0", "R1P"),
    "SetConfirmed": ("E0", "E1", "R0", "R1P", "R3A"),
    "SumAwaited": ("E0", "E1", "R0", "R1P", "R3A", "R3C"),
}
ALLOWED = {  # written out from section 5, not read from the table under test
    "WithoutEpoch": {"E0"},
    "KeysAdvertised": {"E0", "E1"},
    "NonceShown": {"E0", "E2"},  # of cross_device: every message in it in test_cross_device.py
    "EpochOpen": {"E0", "R0"},
    "SharesSent": {"E0", "R0", "R1P", "R5"},
    "InputSent": {"E0", "R0", "R3A", "R5"},
    "SetConfirmed": {"E0", "R0", "R3C", "R5"},
    "SumAwaited": {"E0", "R0", "R5"},
    "Departed": {"E0", "R0", "R5"},
}


def recorded_requests(parties):
    """One honest epoch and round; the requests to site 0 by type."""
    machine = parties.begin(parties.open())
    parties.drive(machine)
    parties.publish(machine)
    requests = {}
    for direction, site, frame in parties.frames:
        if direction == "down" and site == 0:
            requests[MessageType(read_header(frame).type).name] = frame
    return requests


def code_of(parties, site, request, reply):
    return read_refusal(reply, parties.terms.site_public_keys[site], hashlib.sha256(request).digest())


def fresh_site(federation):
    """A site in its first state that gives the same bytes as the recorded one."""
    parties = federation(3)
    requests = recorded_requests(federation(3))
    return parties, requests


def bring_to(parties, requests, state):
    site = parties.sites[0]
    if state == "Departed":
        bring_to(parties, requests, "InputSent")
        site._state, _ = left(site._state)
        site._sent.clear()
    else:
        for name in REACHED_BY[state]:
            site.handle(requests[name])
    assert site.state_name == state


def forged(parties, kind, like=None):
    """A frame of any type with a plausible header and a body of zeros."""
    spec = REGISTRY[kind]
    size = spec.limit(Sizes(3, 17))
    if like is not None:
        header = read_header(like)
        address = Address(
            header.session, header.epoch, header.round, header.attempt, header.sender, header.receiver, header.fresh
        )
    else:
        address = Address(parties.terms.session, 1, 1, 0, COORDINATOR_ID, 0, bytes(32))
    return address.header(kind, size).encode() + bytes(size + spec.trailer_bytes)


def test_the_table_is_the_design(federation):
    found = {state: {kind.name for owner, kind in TABLE if owner.__name__ == state} for state in ALLOWED}

    assert found == ALLOWED


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", list(MessageType), ids=lambda kind: kind.name)
def test_every_message_in_every_state_is_refused_unless_genuine_and_leaves_the_state(federation, state, kind):
    parties, requests = fresh_site(federation)
    bring_to(parties, requests, state)
    site, closed = parties.sites[0], list(parties.hosts[0].closed)
    request = forged(parties, kind, requests.get(kind.name))

    reply = site.handle(request)

    code = code_of(parties, 0, request, reply)
    if kind.name in ALLOWED[state]:
        assert code == "BadSignature"
    else:
        assert code in {"UnexpectedMessage", "AlreadyAnswered"}
    assert site.state_name == state
    assert parties.hosts[0].closed == closed


@pytest.mark.parametrize(
    ("state", "kind", "code"),
    [
        ("WithoutEpoch", "R3A", "UnexpectedMessage"),
        ("EpochOpen", "R1P", "UnexpectedMessage"),
        ("EpochOpen", "E1", None),  # the identical request has its identical answer
        ("InputSent", "R0", None),
        ("SharesSent", "R3A", "UnexpectedMessage"),
        ("InputSent", "R3C", "UnexpectedMessage"),
        ("Departed", "R1P", "AlreadyAnswered"),
        ("Departed", "R3A", "AlreadyAnswered"),
    ],
)
def test_genuine_messages_out_of_turn(federation, state, kind, code):
    parties, requests = fresh_site(federation)
    bring_to(parties, requests, state)

    reply = parties.sites[0].handle(requests[kind])

    if code is None:
        assert MessageType(read_header(reply).type) is not MessageType.REFUSAL
        assert reply == parties.sites[0].handle(requests[kind])
    else:
        assert code_of(parties, 0, requests[kind], reply) == code
    assert parties.sites[0].state_name == state


def test_a_restarted_site_refuses_everything_inside_a_round(federation):
    parties, requests = fresh_site(federation)
    bring_to(parties, requests, "InputSent")
    parties.restart(0)

    codes = [
        code_of(parties, 0, requests[name], parties.sites[0].handle(requests[name]))
        for name in ("R0", "R1P", "R3A", "R3C", "R5")
    ]

    assert codes == ["AlreadyAnswered"] * 5


def test_the_row_is_written_before_each_answer_and_the_spend_before_the_masked_input(federation):
    parties, requests = fresh_site(federation)
    bring_to(parties, requests, "SumAwaited")

    assert parties.registers[0].trail == ["record R1", "record R2", "release", "record R3b", "record R4"]


@pytest.mark.parametrize("stage", ["R1", "R2", "R3b", "R4"])
def test_nothing_leaves_when_the_row_cannot_be_written(federation, stage):
    parties, requests = fresh_site(federation)
    site, register = parties.sites[0], parties.registers[0]
    genuine = register.record

    def full(round_number, attempt, name, digest):
        if name == stage:
            raise OSError("expected room on the disk, got none: patient 4711")
        genuine(round_number, attempt, name, digest)

    register.record = full
    request = {"R1": "R0", "R2": "R1P", "R3b": "R3A", "R4": "R3C"}[stage]
    for name in ("E0", "E1", "R0", "R1P", "R3A", "R3C"):
        reply = site.handle(requests[name])
        if name == request:
            break

    assert code_of(parties, 0, requests[request], reply) == "SiteFailed"
    assert b"4711" not in reply
    assert ("release" in register.trail) == (stage in ("R3b", "R4"))


@pytest.mark.parametrize("failure", [DataRefused("patient 4711"), ValueError("patient 4711"), KeyError("4711")])
def test_a_failing_host_tells_nothing_but_that_the_site_failed(federation, failure):
    parties = federation(3)
    parties.hosts[1].failure = failure
    epoch = parties.open()
    machine = parties.begin(epoch)
    parties.exchange(machine)

    assert machine.excluded == {1: "SiteFailed"}
    assert not any(b"4711" in frame for _, _, frame in parties.frames)
    assert parties.logs[1][-1][0] == type(failure).__name__
    assert parties.hosts[1].closed == ["aborted"]


def test_a_host_that_fails_at_every_call_brings_no_old_attempt_back(federation):
    parties = federation(3)
    epoch = parties.open()
    machine = parties.begin(epoch)
    parties.exchange(machine)
    machine.close_stage()
    old = dict(machine.requests())[0]

    def failing(outcome):
        raise OSError("no room on the disk")

    parties.hosts[0].close = failing
    parties.exchange(parties.begin(epoch, 1, 1))

    assert parties.sites[0].state_name == "EpochOpen"
    assert parties.refusal(0, old, parties.sites[0].handle(old)) is not None
    assert "release" not in parties.registers[0].trail


def test_a_host_that_cannot_close_does_not_keep_a_refused_attempt_alive(federation):
    parties = federation(3)
    machine = parties.up_to_survivors()

    def failing(outcome):
        raise OSError("no room on the disk")

    parties.hosts[0].close = failing
    request = parties.name_survivors(machine._state, 0, [0, 1])

    assert parties.refusal(0, request, parties.sites[0].handle(request)) == "SiteFailed"
    assert parties.sites[0].state_name == "Departed"


def test_an_exhausted_budget_is_named_and_closes_the_round_at_this_site(federation):
    parties = federation(5)
    parties.hosts[1].budget = 0
    epoch = parties.open()
    machine = parties.begin(epoch)

    total = parties.drive(machine)

    assert machine.refusals == {1: "BudgetExhausted"}
    assert machine.excluded == {1: "BudgetExhausted"}
    assert total.contributors == (0, 2, 3, 4)
    assert parties.registers[1].rows[-1] == (1, 0, "closed")
    assert "release" not in parties.registers[1].trail


def test_all_refusals_have_one_size(federation):
    parties, requests = fresh_site(federation)
    bring_to(parties, requests, "SharesSent")
    sizes = {len(parties.sites[0].handle(frame)) for frame in (b"", b"x" * 5000, requests["R3A"], requests["E1"][:-1])}

    assert sizes == {REFUSAL_BYTES}
    assert len(CODES) == len(set(CODES)) <= 128


def test_a_refusal_is_bound_to_its_request_and_its_site(federation):
    parties = federation(3)
    machine = parties.begin(parties.open())
    requests = dict(machine.requests())
    of_another = parties.sites[0].handle(requests[0][:-1] + bytes([requests[0][-1] ^ 1]))  # same header

    with pytest.raises(Exception, match="refusal of our request"):
        machine.receive(0, of_another)
    with pytest.raises(Exception, match="expected a frame"):
        machine.receive(1, parties.sites[2].handle(requests[1]))

    assert machine.refusals == {}


def test_a_site_needs_its_own_key_and_a_sound_charter(federation, make_constants):
    parties = federation(3)
    common = (parties.registers[0], rehearsal_source(1), lambda: 0.0, parties.hosts[0])
    with pytest.raises(InvalidParameter):
        SiteProtocol(parties.terms, SiteId(0), parties.keys[1], *common)
    with pytest.raises(InvalidParameter):
        SiteProtocol(parties.terms, SiteId(3), parties.keys[0], *common)
    weak = replace(parties.terms, constants=replace(parties.constants, threshold=2))
    with pytest.raises(Exception, match="2t > n"):
        SiteProtocol(weak, SiteId(0), parties.keys[0], *common)


def test_an_expired_or_far_epoch_and_an_older_one_are_refused(federation):
    parties = federation(3)
    epoch = parties.open(epoch=4)
    parties.now += 3601
    machine = parties.begin(epoch)
    parties.exchange(machine)
    assert set(machine.excluded.values()) == {"RoundRefused"}

    with pytest.raises(Exception, match="at least 3 sites"):
        parties.open(epoch=4)
    assert {log[-1][0] for log in parties.logs} == {"EpochRefused"}
    with pytest.raises(InvalidParameter):
        parties.open(epoch=5, first_round=0)


def test_a_session_of_another_charter_is_refused(federation):
    parties, requests = fresh_site(federation)
    header = read_header(requests["E0"])
    other = Header(
        1,
        b"o" * 32,
        *[getattr(header, name) for name in ("epoch", "round", "attempt", "sender")],
        0,
        header.fresh,
        header.body_bytes,
    )
    request = other.encode() + requests["E0"][152:]

    assert code_of(parties, 0, request, parties.sites[0].handle(request)) == "UnexpectedMessage"


def test_no_secret_is_in_a_repr_of_any_state(federation):
    parties, requests = fresh_site(federation)
    site = parties.sites[0]
    bring_to(parties, requests, "SharesSent")
    state = site._state
    secrets = [state.keys.secret, state.seed, state.own_share, state.words, site._party.signing_key.private_bytes_raw()]
    text = repr(state) + repr(site) + repr(site._party)
    for name in ("R1P", "R3A"):
        site.handle(requests[name])
        secrets += [*site._state.seed_shares.values(), *site._state.key_shares.values()]
        text += repr(site._state)

    for secret in secrets:
        assert repr(secret) not in text
        assert bytes(secret).hex() not in text
    assert "array(" not in text


def _flipped(frame):
    return frame[:-1] + bytes([frame[-1] ^ 1])


def _secret_states():
    kinds = ("KeysAdvertised", "NonceShown", "SharesSent", "InputSent", "SetConfirmed")
    return {id(kept) for kept in gc.get_objects() if type(kept).__name__ in kinds}


def test_a_refused_frame_keeps_no_state_alive_beyond_its_life(federation):
    # the cycle collector is off: a state that only it would free may live for hundreds of rounds in a quiet process
    parties, requests = fresh_site(federation)
    site = parties.sites[0]
    gc.collect()
    gc.disable()
    try:
        before = _secret_states()
        for name in ("E0", "E1", "R0", "R1P", "R3A", "R3C"):
            site.handle(_flipped(requests[name]))  # noise: one bit, no key
            site.handle(requests[name])
            kept = _secret_states() - before - {id(site._state)}
            assert kept == set(), name
    finally:
        gc.enable()


def test_secrets_are_gone_when_their_life_is_over(federation):
    parties, requests = fresh_site(federation)
    site = parties.sites[0]
    names = {}
    for name in ("E0", "E1", "R0", "R1P", "R3A", "R3C"):
        site.handle(requests[name])
        names[name] = set(type(site._state).__slots__)

    assert "keys" in names["E0"]
    assert "keys" not in names["E1"]
    assert {"keys", "seed", "words"} <= names["R0"]
    assert not {"keys", "seed", "words"} & names["R1P"]
    assert {"seed_shares", "key_shares"} <= names["R3A"]
    assert names["R3C"] == {"attempt", "ctx2", "survivors"}
