"""A blind site's tables, state by state, and sums that it refuses by name before anything is decrypted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from blind_federation import BlindFederation, combined
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from small_federation import Register

from secure_frl.ckks.coordinator_states import CkksSum, encrypted_of
from secure_frl.ckks.requests import Op
from secure_frl.ckks.site_states import CKKS_MASKING_TABLE, CKKS_TABLE, BlindParty
from secure_frl.ckks.worker import Worker
from secure_frl.encoding.slots import SLOTS
from secure_frl.errors import DataRefused
from secure_frl.masking.contexts import sizes_of
from secure_frl.masking.site_memory import left
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import COORDINATOR_ID, SiteId
from secure_frl.wire.envelope import Address, read_header
from secure_frl.wire.messages import MessageType
from secure_frl.wire.registry import REGISTRY

BOTH = ("ckks", "ckks+masking")
T = MessageType
MAX_CORRECTION_WORD = 1 << 24  # of the federation's ring


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


# --- R5C that is refused by name, before anything is decrypted -------------------------------------------------------

OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"\x66" * 32)


def correction(parties: BlindFederation, machine: CkksSum, change: str) -> bytes:
    honest = bytearray(machine._summed().total_bytes)
    if change == "a word beyond the ring":
        honest[8:12] = MAX_CORRECTION_WORD.to_bytes(4, "little")
    return bytes({"a word too few": honest[:-4], "a word too many": honest + bytes(4)}.get(change, honest))


REFUSED: dict[str, tuple[tuple[str, ...], Callable[[BlindFederation, CkksSum], dict[str, Any]], str]] = {
    "another key's id": (BOTH, lambda parties, machine: {"key_id": b"o" * 32}, "KeyRefused"),
    "no key's id": (BOTH, lambda parties, machine: {"key_id": bytes(32)}, "KeyRefused"),
    "signed by another": (BOTH, lambda parties, machine: {"signing_key": OTHER_KEY}, "BadSignature"),
    "one survivor": (BOTH, lambda parties, machine: {"survivors": [1]}, "SurvivorsRefused"),
    "too few survivors": (BOTH, lambda parties, machine: {"survivors": [0, 1, 2]}, "SurvivorsRefused"),
    "a survivor outside the cohort": (BOTH, lambda parties, machine: {"survivors": [0, 1, 2, 9]}, "SurvivorsRefused"),
    "survivors out of order": (BOTH, lambda parties, machine: {"survivors": [1, 0, 2, 3, 4]}, "SurvivorsRefused"),
    "a survivor twice": (BOTH, lambda parties, machine: {"survivors": [0, 1, 1, 2, 3]}, "SurvivorsRefused"),
    "another transcript": (BOTH, lambda parties, machine: {"transcript_hash": b"\x02" * 32}, "SurvivorsRefused"),
    "not the confirmed survivors": (
        ("ckks+masking",),
        lambda parties, machine: {"survivors": [0, 1, 2, 3]},
        "SurvivorsRefused",
    ),
    "a correction where nothing is masked": (
        ("ckks",),
        lambda parties, machine: {"correction": bytes(4 * 21)},
        "MalformedMessage",
    ),
    "no correction": (("ckks+masking",), lambda parties, machine: {"correction": b""}, "MalformedMessage"),
    **{
        change: (
            ("ckks+masking",),
            lambda parties, machine, change=change: {"correction": correction(parties, machine, change)},
            "MalformedMessage",
        )
        for change in ("a word too few", "a word too many", "a word beyond the ring")
    },
}


@pytest.fixture
def decrypted(monkeypatch: pytest.MonkeyPatch) -> list[Op]:
    """What any worker was asked to decrypt."""
    asked: list[Op] = []
    genuine = Worker.ask_each

    def watching(self: Worker, op: Op, payloads: Any) -> list[bytes]:
        asked.extend([op] if op is Op.DECRYPT else [])
        return genuine(self, op, payloads)

    monkeypatch.setattr(Worker, "ask_each", watching)
    return asked


@pytest.mark.parametrize("protection", BOTH)
def test_a_sum_that_is_wrong_before_it_is_opened_is_refused_by_name_and_not_opened(federations, protection, decrypted):
    parties = federations(5, protection)
    held = parties.hosts[0].held_tag()
    for name, (protections, change, code) in REFUSED.items():
        if protection not in protections:
            continue
        machine = parties.next_round()
        request = parties.total_of(machine, 1, **change(parties, machine))

        assert parties.answer(machine, 1, request) == code, name
        assert decrypted == [], name
        assert parties.sites[1].state_name == "EpochOpen"
        assert parties.hosts[1].closed[-1] == "unknown"
        assert parties.hosts[1].held_tag() == held
        assert parties.answer(machine, 1, parties.total_of(machine, 2)) == "UnexpectedMessage"  # another's frame

    assert parties.sites[1]._state.view.cipher.failures == 0
    machine = parties.next_round()  # control: the honest one is opened
    assert len(parties.answer(machine, 1, parties.total_of(machine, 1))) == 32
    assert decrypted == [Op.DECRYPT]


@pytest.mark.parametrize("protection", BOTH)
def test_bytes_that_its_tag_does_not_cover_leave_the_attempt_as_it_was(federations, protection, decrypted):
    parties = federations(5, protection)
    machine = parties.next_round()
    honest, site = parties.total_of(machine, 1), parties.sites[1]
    state = site._state

    for at in (125, 160, len(honest) - 30_000, len(honest) - 1):  # key id, body, ciphertexts twice
        changed = honest[:at] + bytes([honest[at] ^ 1]) + honest[at + 1 :]
        assert parties.answer(machine, 1, changed) == "BadSignature"
    for cut_short in (honest[:-1], honest + b"\x00"):
        assert parties.answer(machine, 1, cut_short) == "BadSignature"
    assert parties.answer(machine, 1, honest + bytes(70_000)) == "MalformedMessage"
    assert site._state is state
    assert decrypted == []
    assert len(parties.answer(machine, 1, honest)) == 32


# --- three failures of one key ---------------------------------------------------------------------------------------


def shifted(parties: BlindFederation, machine: CkksSum, slot: int, by: int) -> bytes:
    slots = np.zeros((parties.plan.chunks, SLOTS), np.int64)
    slots[0, slot] = by
    return combined(parties.plan, [(1, encrypted_of(machine._view).body)], slots)


FAILURES: dict[str, Callable[[BlindFederation, CkksSum], bytes]] = {
    "one site's in place of the sum": lambda parties, machine: parties.given[2],
    "no ciphertexts at all": lambda parties, machine: b"\x00\x00\x00\x04\x0a\x02\x80\x10",
    "a lane that is off": lambda parties, machine: shifted(parties, machine, 3, 1),  # the zero lane
    "a value out of range": lambda parties, machine: shifted(parties, machine, 9, 20_000),
}


@pytest.mark.parametrize("protection", BOTH)
def test_three_sums_that_are_none_make_the_key_suspect_until_the_next_epoch(federations, protection):
    """One failure of each kind: ciphertexts that do not open, lanes, range. Site 3 fails twice, which is not enough."""
    parties = federations(5, protection)
    held, answers = parties.hosts[0].held_tag(), set()
    for one, other in (
        ("one site's in place of the sum", ""),
        ("a lane that is off", "no ciphertexts at all"),
        ("a value out of range", "one site's in place of the sum"),
    ):
        machine = parties.next_round()
        assert machine.excluded == {}
        for site, name in ((4, one), (3, other)):
            body = FAILURES[name](parties, machine) if name else None
            answer = parties.answer(machine, site, parties.total_of(machine, site, body))
            assert (answer == parties.hosts[site].held_tag()) == (not name)
            assert parties.hosts[site].closed[-1] == ("unknown" if name else "summed")
            answers |= {answer} if name else set()
        assert parties.hosts[4].held_tag() == held
    assert len(answers) == 5  # none twice
    assert {len(answer) for answer in answers} == {32}
    assert not answers & {held, bytes(32)}

    fourth = parties.next_round()
    assert fourth.excluded == {4: "KeySuspect"}
    assert fourth.outcome().contributors == (0, 1, 2, 3)
    parties.next_epoch()
    assert parties.next_round().outcome().contributors == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("protection", BOTH)
def test_a_site_that_fails_and_one_that_does_not_answer_alike(federations, protection):
    """Type, length and everything in the header but the sender's own; state and rows go the same way."""
    parties = federations(5, protection)
    machine = parties.next_round()
    frames = {
        site: parties.sites[site].handle(parties.total_of(machine, site, *body))
        for site, body in {1: (), 2: (parties.given[2],)}.items()
    }

    good, bad = (read_header(frames[site]) for site in (1, 2))
    assert len(frames[1]) == len(frames[2])
    assert (good.type, good.body_bytes, good.key_id) == (bad.type, bad.body_bytes, bad.key_id)
    assert parties.sites[1].state_name == parties.sites[2].state_name == "EpochOpen"
    assert parties.registers[1].rows[-1] == parties.registers[2].rows[-1]
    assert parties.logs[1][-1:] == parties.logs[2][-1:] or not parties.logs[2]
    assert parties.hosts[1].total is not None
    assert parties.hosts[2].total is None


def test_a_party_shows_neither_host_nor_worker(recorded):
    party = recorded("ckks").twin("EpochOpen")._party

    assert isinstance(party, BlindParty)
    assert "Host" not in repr(party)
    assert "Workers" not in repr(party)
