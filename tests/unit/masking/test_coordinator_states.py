"""The coordinator's table, its letters, and what its driver may ask at each stage."""

from __future__ import annotations

import pytest

from secure_frl.errors import (
    InvalidParameter,
    PeerError,
    RoundAborted,
    TooFewSurvivors,
    UnexpectedMessage,
    UnexpectedState,
)
from secure_frl.masking.coordinator_states import TABLE, EpochOpening
from secure_frl.wire.envelope import Address
from secure_frl.wire.messages import MessageType
from secure_frl.wire.registry import REGISTRY, Sizes

STAGES = [
    "AskingKeys",
    "AskingInputs",
    "AskingConfirmations",
    "AskingShares",
    "Summed",
    "Publishing",
    "Published",
    "Aborted",
]
ASKING = (*STAGES[:4], "Publishing")
TAKES = {  # written out from section 5
    "AskingKeys": {"R1"},
    "AskingInputs": {"R2", "BAD_SHARE"},
    "AskingConfirmations": {"R3B"},
    "AskingShares": {"R4"},
    "Summed": set(),
    "Publishing": {"R5_REPLY"},
    "Published": set(),
    "Aborted": set(),
}


def bring_to(parties, stage):
    machine = parties.begin(parties.open())
    if stage == "Aborted":
        with pytest.raises(TooFewSurvivors):  # nobody has answered
            machine.close_stage()
    for _ in range(0 if stage == "Aborted" else min(STAGES.index(stage), 4)):
        parties.exchange(machine)
        machine.close_stage()
    if stage in ("Publishing", "Published"):
        machine.publish(bytes(32))
    if stage == "Published":
        machine.close_stage()
    assert machine.state_name == stage
    return machine


def test_the_table_is_the_design():
    found = {stage: {kind.name for owner, kind in TABLE if owner.__name__ == stage} for stage in STAGES}

    assert found == TAKES


@pytest.mark.parametrize("stage", STAGES)
def test_every_message_in_every_stage_is_refused_unless_genuine(federation, stage):
    parties = federation(3)
    machine = bring_to(parties, stage)
    fresh = machine._view.fresh_of.get(0, bytes(32))
    address = Address(parties.terms.session, 1, 1, 0, 0, 2**64 - 1, fresh)

    for kind, spec in REGISTRY.items():
        size = spec.limit(Sizes(3, 17))
        frame = address.header(kind, size).encode() + bytes(size + spec.trailer_bytes)
        with pytest.raises(PeerError) as caught:
            machine.receive(0, frame)
        is_taken = kind.name in TAKES[stage] or kind is MessageType.REFUSAL
        named = {"BadSignature"} if is_taken and stage in ASKING else {"UnexpectedMessage"}
        assert type(caught.value).__name__ in named, kind
        assert machine.state_name == stage
        machine._letters._excluded.clear()


@pytest.mark.parametrize("stage", STAGES[:4])
def test_there_is_no_outcome_before_the_sum(federation, stage):
    machine = bring_to(federation(3), stage)

    for ask in (machine.outcome, lambda: machine.transcript_hash, lambda: machine.publish(bytes(32))):
        with pytest.raises(UnexpectedState):
            ask()


def test_after_the_sum_only_its_publication_is_left(federation):
    machine = bring_to(federation(3), "Summed")

    assert list(machine.requests()) == []
    with pytest.raises(UnexpectedState):
        machine.close_stage()
    with pytest.raises(UnexpectedState):
        machine.publish(b"short")


def test_an_abort_is_final(federation):
    parties = federation(5)
    machine = parties.begin(parties.open())
    replies = {site: parties.sites[site].handle(request) for site, request in machine.requests()}
    machine.receive(0, replies[0])

    with pytest.raises(TooFewSurvivors):
        machine.close_stage()
    machine.receive(0, replies[0])  # the same bytes again are harmless
    for site in range(1, 5):
        with pytest.raises(UnexpectedMessage):
            machine.receive(site, replies[site])

    assert machine.state_name == "Aborted"
    assert machine.excluded == {}
    assert list(machine.requests()) == []
    for ask in (machine.close_stage, machine.outcome, lambda: machine.survivors):
        with pytest.raises(UnexpectedState):
            ask()


def test_a_stage_asks_only_those_who_have_not_answered_and_with_the_same_bytes(federation):
    parties = federation(5)
    machine = parties.begin(parties.open())
    first = dict(machine.requests())
    machine.receive(2, parties.sites[2].handle(first[2]))

    again = dict(machine.requests())

    assert machine.awaiting == (0, 1, 3, 4)
    assert again == {site: frame for site, frame in first.items() if site != 2}


def test_one_accumulator_and_no_inputs_are_held(federation):
    parties = federation(10, length=5000)
    machine = bring_to(parties, "AskingInputs")
    before = machine._state.accumulator

    parties.exchange(machine)

    assert machine._state.accumulator is before
    known = ("view", "ctx2", "members", "packed", "packed_hash", "dealt")  # before any input came
    held = [name for name in type(machine._state).__slots__ if name not in known]
    assert held == ["accumulator", "added", "complaints"]


def test_a_word_beyond_the_ring_puts_its_sender_out(federation):
    from secure_frl.wire.envelope import mac_frame

    parties = federation(5)
    machine = bring_to(parties, "AskingInputs")
    view, state = machine._view, machine._state
    fresh = view.fresh_of[1]
    address = Address(parties.terms.session, 1, 1, 0, 1, 2**64 - 1, fresh)
    words = bytes(4 * 20) + (1 << 24).to_bytes(4, "little")
    frame = mac_frame(address, MessageType.R2, memoryview(words), view.link(1, MessageType.R2, state.ctx2, fresh))

    with pytest.raises(PeerError, match="words below"):
        machine.receive(1, frame)

    assert machine.excluded == {1: "MalformedMessage"}
    assert not state.accumulator.any()


def test_an_epoch_needs_enough_sites_and_goes_on_without_the_silent(federation):
    parties = federation(5)
    opening = EpochOpening(parties.terms, parties.coordinator_key, parties.random, lambda: parties.now, 1, 1, 1_003_600)
    parties.exchange(opening, lost=[3])
    opening.close_stage()
    parties.exchange(opening)
    opening.close_stage()
    assert opening.outcome().members == (0, 1, 2, 4)

    total = parties.drive(parties.begin(opening.outcome()))
    assert total.contributors == (0, 1, 2, 4)
    failing = EpochOpening(parties.terms, parties.coordinator_key, parties.random, lambda: parties.now, 2, 2, 1_003_600)
    parties.exchange(failing, lost=[0, 3])
    with pytest.raises(RoundAborted):
        failing.close_stage()
    with pytest.raises(UnexpectedState):
        failing.outcome()


@pytest.mark.parametrize(
    "changes", [{"cohort": (0, 1, 2)}, {"cohort": (1, 0, 2, 3, 4)}, {"cohort": (0, 1, 2, 9)}, {"tag": b"short"}]
)
def test_an_attempt_outside_the_charter_is_not_begun(federation, changes):
    parties = federation(5)
    epoch = parties.open()

    with pytest.raises(InvalidParameter):
        parties.begin(epoch, **changes)


def test_no_secret_is_in_a_repr(federation):
    parties = federation(3)
    machine = bring_to(parties, "AskingShares")
    parties.exchange(machine)
    epoch = machine._view.epoch
    text = repr(machine) + repr(machine._state) + repr(epoch)

    assert "array(" not in text
    assert repr(epoch.channels.key(0)) not in text
    assert epoch.signing_key.private_bytes_raw().hex() not in text
    assert "Ed25519PrivateKey" not in text
