"""A blind site's tables, state by state: what is answered, what is refused by name, what leaves in a refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from blind_federation import BlindFederation
from small_federation import Register

from secure_frl.ckks.site_states import CKKS_MASKING_TABLE, CKKS_TABLE, BlindParty
from secure_frl.errors import DataRefused
from secure_frl.masking.contexts import sizes_of
from secure_frl.masking.site_memory import left
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import COORDINATOR_ID, SiteId
from secure_frl.wire.envelope import Address, read_header, sign_frame
from secure_frl.wire.messages import MessageType, PolicyRequest, encode_body
from secure_frl.wire.registry import REGISTRY

BOTH = ("ckks", "ckks+masking")
T = MessageType


# --- the tables ------------------------------------------------------------------------------------------------------

ALWAYS = {"E0", "R0", "R5C"}  # in every state of an attempt
ALLOWED = {  # written out from docs/protocol.md, section 18
    "ckks": {
        "WithoutEpoch": {"E0"},
        "KeysAdvertised": {"E0", "E1"},
        "EpochOpen": {"E0", "E3", "PACKAGE", "R0", "R6"},
        "InputSent": ALWAYS,
        "Departed": ALWAYS,
    },
    "ckks+masking": {
        "WithoutEpoch": {"E0"},
        "KeysAdvertised": {"E0", "E1"},
        "EpochOpen": {"E0", "E3", "PACKAGE", "R0", "R6"},
        "SharesSent": ALWAYS | {"R1P"},
        "InputSent": ALWAYS | {"R3A"},
        "SetConfirmed": ALWAYS | {"R3C"},
        "SumAwaited": ALWAYS,
        "Departed": ALWAYS,
    },
}
REACHED_BY = {
    "ckks": {
        "WithoutEpoch": (),
        "KeysAdvertised": ("E0",),
        "EpochOpen": ("E0", "E1", "PACKAGE"),
        "InputSent": ("E0", "E1", "PACKAGE", "R0"),
    },
    "ckks+masking": {
        "WithoutEpoch": (),
        "KeysAdvertised": ("E0",),
        "EpochOpen": ("E0", "E1", "PACKAGE"),
        "SharesSent": ("E0", "E1", "PACKAGE", "R0"),
        "InputSent": ("E0", "E1", "PACKAGE", "R0", "R1P"),
        "SetConfirmed": ("E0", "E1", "PACKAGE", "R0", "R1P", "R3A"),
        "SumAwaited": ("E0", "E1", "PACKAGE", "R0", "R1P", "R3A", "R3C"),
    },
}
ME = SiteId(1)  # not the steward


@dataclass
class Recorded:
    """An honest epoch and round, and what site 1 was sent in it, by type."""

    parties: BlindFederation
    requests: dict[str, bytes]

    def twin(self, state: str) -> SiteProtocol:
        """Site 1 once more, with its random bytes and a disk of its own, in one of its states."""
        parties = self.parties
        host = parties.host(ME)
        register = Register()
        host.trail = register.trail
        site = parties.machine(
            terms=parties.terms,
            me=ME,
            signing_key=parties.keys[ME],
            register=register,
            random=rehearsal_source(parties.seed, "site", "1", "2"),
            clock=lambda: parties.now,
            host=host,
        )
        reached = REACHED_BY[parties.constants.protection]
        for name in reached["InputSent" if state == "Departed" else state]:
            site.handle(self.requests[name])
        if state == "Departed":
            site._state, _ = left(site._state)
            site._sent.clear()
        assert site.state_name == state
        return site


@pytest.fixture(scope="module")
def recorded() -> Iterator[Callable[[str], Recorded]]:
    made: dict[str, Recorded] = {}

    def record(protection: str) -> Recorded:
        if protection not in made:
            parties = BlindFederation(3, protection)
            machine = parties.begin_blind()
            parties.drive_blind(machine)
            parties.publish_blind(machine)
            parties.fetch(parties.hosts[0].held_tag(), [1])
            down = [frame for direction, site, frame in parties.frames if direction == "down" and site == ME]
            made[protection] = Recorded(parties, {T(read_header(frame).type).name: frame for frame in down})
        return made[protection]

    yield record
    for one in made.values():
        one.parties.close()


@pytest.mark.parametrize(("protection", "table"), [("ckks", CKKS_TABLE), ("ckks+masking", CKKS_MASKING_TABLE)])
def test_the_tables_are_the_designs(protection, table):
    found = {state: {kind.name for owner, kind in table if owner.__name__ == state} for state in ALLOWED[protection]}

    assert found == ALLOWED[protection]


PAIRS = [(protection, state) for protection in BOTH for state in ALLOWED[protection]]


def forged(parties: BlindFederation, kind: MessageType, like: bytes | None) -> bytes:
    """A frame of any type with a genuine header, where there is one, and a body of zeros."""
    spec = REGISTRY[kind]
    size = spec.limit(sizes_of(parties.terms))
    if like is None:
        header = Address(parties.terms.session, 1, 1, 0, COORDINATOR_ID, ME, bytes(32)).header(kind, size)
    else:
        found = read_header(like)
        names = ("session", "epoch", "round", "attempt", "sender", "receiver", "fresh", "key_id")
        header = Address(*(getattr(found, name) for name in names)).header(kind, size)
    return header.encode() + bytes(size + spec.trailer_bytes)


@pytest.mark.parametrize(("protection", "state"), PAIRS)
def test_every_message_in_every_state_is_refused_unless_genuine_and_leaves_the_state(recorded, protection, state):
    given = recorded(protection)
    site, parties = given.twin(state), given.parties
    before, rows = site._state, list(site._party.register.rows)

    for kind in MessageType:
        request = forged(parties, kind, given.requests.get(kind.name))
        code = parties.refusal(ME, request, site.handle(request))
        allowed = kind.name in ALLOWED[protection][state]
        assert code in ({"BadSignature"} if allowed else {"UnexpectedMessage", "AlreadyAnswered"}), kind
        assert site._state is before

    assert site._party.register.rows == rows
    assert site._party.host.closed == []


@pytest.mark.parametrize(("protection", "state"), PAIRS)
def test_genuine_messages_out_of_turn_are_refused_or_have_their_one_answer(recorded, protection, state):
    given = recorded(protection)
    site = given.twin(state)
    before, answered = site._state, REACHED_BY[protection].get(state, ())

    for name, request in given.requests.items():
        if name in ALLOWED[protection][state] and name not in answered:
            continue  # its turn
        code = given.parties.refusal(ME, request, site.handle(request))
        if name in answered:
            assert code is None, name
            assert site.handle(request) == site.handle(request)
        else:
            assert code in {"UnexpectedMessage", "AlreadyAnswered", "EpochRefused"}, name
        assert site._state is before


@pytest.mark.parametrize("protection", BOTH)
def test_rows_are_written_before_answers_and_the_spend_before_the_ciphertexts(recorded, protection):
    given = recorded(protection)
    last = "InputSent" if protection == "ckks" else "SumAwaited"
    site = given.twin(last)
    site.handle(given.requests["R5C"])

    shares = ["record R1"] if protection == "ckks+masking" else []
    confirmed = ["record R3b", "record R4"] if protection == "ckks+masking" else []
    assert site._party.register.trail == [*shares, "record R2", "release", *confirmed, "record closed"]


@pytest.mark.parametrize(("protection", "stage"), [("ckks", "R2"), ("ckks+masking", "R2"), ("ckks", "closed")])
def test_nothing_leaves_when_the_row_cannot_be_written(recorded, protection, stage):
    given = recorded(protection)
    before = {"R2": "EpochOpen" if protection == "ckks" else "SharesSent", "closed": "InputSent"}[stage]
    site = given.twin(before)
    released = list(site._party.register.trail).count("release")

    def full(*row: Any) -> None:
        raise OSError("expected room on the disk, got none: patient 4711")

    site._party.register.record = full  # type: ignore[method-assign]
    request = given.requests["R5C" if stage == "closed" else "R0" if protection == "ckks" else "R1P"]
    reply = site.handle(request)

    assert given.parties.refusal(ME, request, reply) == "SiteFailed"
    assert site._party.register.trail.count("release") == released
    assert site._party.host.total is None


def test_a_round_before_the_key_is_refused_and_no_vector_is_made(recorded):
    given = recorded("ckks")
    site = given.twin("WithoutEpoch")
    for name in ("E0", "E1"):
        site.handle(given.requests[name])

    assert given.parties.refusal(ME, given.requests["R0"], site.handle(given.requests["R0"])) == "RoundRefused"
    assert site._party.host.contexts == []


def test_a_restarted_site_answers_nothing_of_its_round_and_hands_over_no_policy(recorded):
    given = recorded("ckks")
    old = given.twin("InputSent")
    party = old._party
    site = given.parties.machine(
        terms=party.terms,
        me=ME,
        signing_key=party.signing_key,
        register=party.register,
        random=party.random,
        clock=party.clock,
        host=party.host,
    )

    for name in ("E0", "E1", "PACKAGE", "R0", "R5C", "R6"):
        reply = site.handle(given.requests[name])
        assert given.parties.refusal(ME, given.requests[name], reply) in {"AlreadyAnswered", "EpochRefused"}, name


def test_only_frames_with_ciphertexts_may_name_a_key(federations):
    parties = federations(5, "ckks")
    parties.publish_blind(parties.next_round())
    body = encode_body(PolicyRequest(parties.hosts[1].held_tag()))
    codes = []
    for key_id in (b"o" * 32, parties.blind.key_id, bytes(32)):
        address = Address(
            parties.terms.session, parties.blind.epoch.epoch, 0, 0, COORDINATOR_ID, ME, bytes(32), key_id=key_id
        )
        request = sign_frame(address.header(T.R6, len(body)), body, parties.coordinator_key)
        codes.append(parties.refusal(ME, request, parties.sites[ME].handle(request)))

    assert codes == ["UnexpectedMessage", "UnexpectedMessage", None]


def test_a_failing_host_tells_nothing_but_that_the_site_failed(federations):
    parties = federations(5, "ckks")
    machine = parties.next_attempt()
    parties.hosts[3].failure = DataRefused("patient 4711")
    parties.drive_blind(machine)
    parties.hosts[3].failure = None

    assert machine.excluded == {3: "SiteFailed"}
    assert machine.outcome().contributors == (0, 1, 2, 4)
    assert not any(b"4711" in frame for _, _, frame in parties.frames)
    assert parties.hosts[3].closed[-1] == "aborted"


def test_a_party_shows_neither_host_nor_worker(recorded):
    party = recorded("ckks").twin("EpochOpen")._party

    assert isinstance(party, BlindParty)
    assert "Host" not in repr(party)
    assert "Workers" not in repr(party)
