"""The blind coordinator's tables, and what contributions that are none do to a round."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from blind_federation import BlindFederation
from small_federation import Federation

from secure_frl.ckks.coordinator_states import CkksMaskedSum, CkksSum
from secure_frl.ckks.envelopes import pack_chunks, unpack_chunks
from secure_frl.errors import (
    BadSignature,
    LocalProtocolError,
    PeerError,
    TooFewSurvivors,
    UnexpectedMessage,
    UnexpectedState,
)
from secure_frl.masking.contexts import sizes_of
from secure_frl.wire.envelope import Address, read_header
from secure_frl.wire.messages import MessageType
from secure_frl.wire.registry import REGISTRY

BOTH = ("ckks", "ckks+masking")
T = MessageType


def sums_at(parties: BlindFederation) -> list[list[int] | None]:
    return [None if host.total is None else host.total.integers.tolist() for host in parties.hosts]


# --- the tables ------------------------------------------------------------------------------------------------------

TAKES = {  # written out from docs/protocol.md, section 18
    CkksSum: {
        "AskingCiphertexts": {"R2C"},
        "Summed": set(),
        "Publishing": {"R5C_REPLY"},
        "Published": set(),
        "Aborted": set(),
    },
    CkksMaskedSum: {
        "AskingKeys": {"R1"},
        "AskingInputs": {"R2C", "BAD_SHARE"},
        "AskingConfirmations": {"R3B"},
        "AskingShares": {"R4"},
        "Summed": set(),
        "Publishing": {"R5C_REPLY"},
        "Published": set(),
        "Aborted": set(),
    },
}
ASKING = ("AskingCiphertexts", "AskingKeys", "AskingInputs", "AskingConfirmations", "AskingShares", "Publishing")
STAGES = [(kind, stage) for kind, stages in TAKES.items() for stage in stages]


def bring_to(parties: BlindFederation, stage: str) -> CkksSum:
    machine = parties.next_attempt()
    if stage == "Aborted":
        with pytest.raises(TooFewSurvivors):  # nobody has answered
            machine.close_stage()
    for _ in range(5):
        if machine.state_name in (stage, "Summed"):
            break
        parties.exchange(machine)
        machine.close_stage()
    if stage in ("Publishing", "Published"):
        machine.publish()
    if stage == "Published":
        machine.close_stage()
    assert machine.state_name == stage
    return machine


@pytest.mark.parametrize("kind", TAKES)
def test_the_tables_are_the_designs(kind):
    found: dict[str, set[str]] = {stage: set() for stage in TAKES[kind]}
    for owner, message in kind.table:
        found[owner.__name__].add(message.name)

    assert found == TAKES[kind]


@pytest.mark.parametrize(("kind", "stage"), STAGES)
def test_every_message_in_every_stage_is_refused_unless_genuine(federations, kind, stage):
    parties = federations(3, "ckks" if kind is CkksSum else "ckks+masking")
    machine = bring_to(parties, stage)
    fresh = machine._view.fresh_of.get(0, bytes(32))
    address = Address(parties.terms.session, parties.blind.epoch.epoch, parties.rounds, 0, 0, 2**64 - 1, fresh)

    for message, spec in REGISTRY.items():
        size = spec.limit(sizes_of(parties.terms))
        frame = address.header(message, size).encode() + bytes(size + spec.trailer_bytes)
        with pytest.raises(PeerError) as caught:
            machine.receive(0, frame)
        is_taken = message.name in TAKES[kind][stage] or message is T.REFUSAL
        named = "BadSignature" if is_taken and stage in ASKING else "UnexpectedMessage"
        assert type(caught.value).__name__ == named, message
        assert machine.state_name == stage
        machine._letters._excluded.clear()


def test_an_attempt_without_an_encrypted_sum_is_this_programs_own_fault(federations):
    parties = federations(5, "ckks")
    machine = parties.next_attempt()
    object.__setattr__(machine._view, "encrypted", None)
    request = dict(machine.requests())[0]

    with pytest.raises(LocalProtocolError):
        machine.receive(0, parties.sites[0].handle(request))
    assert machine.excluded == {}


@pytest.mark.parametrize(("kind", "stage"), [row for row in STAGES if row[1].startswith("Asking")])
def test_there_is_no_outcome_before_the_sum(federations, kind, stage):
    machine = bring_to(federations(3, "ckks" if kind is CkksSum else "ckks+masking"), stage)

    for ask in (machine.outcome, machine.publish, lambda: machine.transcript_hash, lambda: machine.sum_digest):
        with pytest.raises(UnexpectedState):
            ask()


# --- contributions that are none -------------------------------------------------------------------------------------


def emptied(chunk: bytes) -> bytes:
    """An honest form around a ciphertext whose compressed stream is gone."""
    return chunk[:24] + bytes(len(chunk) - 33) + chunk[-9:]


KILLER = bytes.fromhex("0a028010")  # a size and no ciphertext: TenSEAL loads it and dies at the addition
BODIES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {  # made of the two honest chunks
    "a chunk too few": (lambda chunks: chunks[:1], "EnvelopeRefused"),
    "a chunk too many": (lambda chunks: [*chunks, chunks[0]], "MalformedMessage"),
    "nothing": (lambda chunks: [], "EnvelopeRefused"),
    "four bytes that end TenSEAL": (lambda chunks: [chunks[0], KILLER], "EnvelopeRefused"),
    "no ciphertext inside its form": (lambda chunks: [chunks[0], emptied(chunks[1])], "CiphertextRefused"),
}
HEADERS = {"another key's id": b"o" * 32, "no key's id": bytes(32)}
FLIPPED = {"a flipped bit": -20, "a flipped bit of the key's id": 121, "a flipped bit of the tag": -1}
PLAIN = "plain words"


def spoiled(name: str, parties: BlindFederation, machine: CkksSum, frame: bytes) -> tuple[bytes, str]:
    """What site 4 sends, with all its valid keys, and the name under which it is out."""
    if name in FLIPPED:
        changed = bytearray(frame)
        changed[FLIPPED[name]] ^= 1
        return bytes(changed), "BadSignature"
    body = machine._view.unseal(4, read_header(frame), machine._state.ctx2, frame)
    if name in HEADERS:
        return parties.contribution(machine, 4, frame, body, key_id=HEADERS[name]), "KeyRefused"
    if name == PLAIN:
        words = parties.words(4).tobytes()
        return parties.contribution(machine, 4, frame, words, kind=T.R2, key_id=bytes(32)), "UnexpectedMessage"
    change, error = BODIES[name]
    chunks = [bytes(chunk) for chunk in unpack_chunks(body, parties.plan)]
    return parties.contribution(machine, 4, frame, pack_chunks(change(chunks))), error


@pytest.mark.parametrize("name", [*BODIES, *HEADERS, *FLIPPED, PLAIN])
@pytest.mark.parametrize("protection", BOTH)
def test_a_contribution_that_is_none_puts_its_site_out_and_the_round_completes(federations, protection, name):
    """Two chunks a site; site 4 has valid keys and sends something else."""
    parties = federations(5, protection, length=2100)
    machine, names = parties.next_attempt(), []

    def wire(direction: str, site: int, frame: bytes) -> bytes:
        if direction != "up" or site != 4 or read_header(frame).type != T.R2C:
            return frame
        sent, error = spoiled(name, parties, machine, frame)
        names.append(error)
        return sent

    parties.wire = wire
    parties.drive_blind(machine)
    parties.wire = lambda direction, site, frame: frame
    parties.publish_blind(machine)

    assert parties.errors == {4: names}
    assert machine.excluded == {4: names[0]}
    assert machine.outcome().contributors == (0, 1, 2, 3)
    assert sums_at(parties)[:4] == [parties.plain_sum(range(4)).tolist()] * 4


def test_ciphertexts_are_not_taken_where_words_are_asked_for():
    parties = Federation(5)
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    machine.close_stage()
    for site, request in list(machine.requests()):
        header = read_header(parties.sites[site].handle(request))
        frame = bytes([*b"SFS1", T.R2C]) + header.encode()[5:] + bytes(header.body_bytes + 16)
        with pytest.raises(PeerError, match="R2C"):
            machine.receive(site, frame)

    assert set(machine.excluded.values()) == {"MalformedMessage"}  # such a charter has no ciphertext of any size


@pytest.mark.parametrize("protection", BOTH)
def test_a_second_contribution_is_refused_and_the_first_one_stands(federations, protection):
    parties = federations(5, protection)
    machine = parties.next_attempt()
    seen = {}

    def wire(direction: str, site: int, frame: bytes) -> bytes:
        if direction == "up" and read_header(frame).type == T.R2C:
            seen[site] = frame
        return frame

    parties.wire = wire
    if protection == "ckks+masking":
        parties.exchange(machine)
        machine.close_stage()
    parties.exchange(machine)
    other = parties.contribution(machine, 4, seen[4], parties.given[3])
    with pytest.raises(UnexpectedMessage, match="one answer"):
        machine.receive(4, other)
    with pytest.raises(BadSignature):  # header and tag of the first around other ciphertexts
        machine.receive(4, seen[4][:300] + bytes([seen[4][300] ^ 1]) + seen[4][301:])
    machine.receive(4, seen[4])  # the same again is harmless
    machine.close_stage()
    while machine.state_name != "Summed":
        parties.exchange(machine)
        machine.close_stage()
    parties.publish_blind(machine)

    assert machine.excluded == {}
    assert sums_at(parties) == [parties.plain_sum(range(5)).tolist()] * 5


@pytest.mark.parametrize("protection", BOTH)
@pytest.mark.parametrize("name", ["chunks in another order", "one chunk twice"])
def test_what_the_coordinator_cannot_see_no_site_makes_a_policy_of(federations, protection, name):
    parties = federations(5, protection, length=2100)
    held = parties.hosts[0].held_tag()
    machine = parties.next_attempt()

    def wire(direction: str, site: int, frame: bytes) -> bytes:
        header = read_header(frame)
        if direction != "up" or site != 4 or header.type != T.R2C:
            return frame
        first, second = unpack_chunks(machine._view.unseal(4, header, machine._state.ctx2, frame), parties.plan)
        order = [second, first] if name == "chunks in another order" else [first, first]
        return parties.contribution(machine, 4, frame, pack_chunks([bytes(chunk) for chunk in order]))

    parties.wire = wire
    parties.drive_blind(machine)
    parties.publish_blind(machine)

    assert machine.excluded == {}
    assert len(set(machine.followers.values())) == 5  # random, each its own: none has a majority
    assert held not in machine.followers.values()
    assert [host.held_tag() for host in parties.hosts] == [held] * 5
    assert [host.closed[-1] for host in parties.hosts] == ["unknown"] * 5


def test_a_worker_that_dies_under_a_sum_loses_nobody(federations):
    parties = federations(5, "ckks")
    machine = parties.next_attempt()
    for number, (site, request) in enumerate(list(machine.requests())):
        if number in (1, 4):
            os.kill(parties.adder.process_id, signal.SIGKILL)
        machine.receive(site, parties.sites[site].handle(request))
    machine.close_stage()
    parties.publish_blind(machine)

    assert sums_at(parties) == [parties.plain_sum(range(5)).tolist()] * 5


def test_after_the_sum_of_ciphertexts_only_its_publication_is_left(federations):
    parties = federations(5, "ckks")
    machine = parties.next_round()

    assert list(machine.requests()) == []
    with pytest.raises(UnexpectedState):
        machine.close_stage()
    with pytest.raises(LocalProtocolError):  # U3 is fixed: no other attempt of this round
        parties.begin_blind(parties.rounds, 1)
