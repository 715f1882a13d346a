"""R5C: sums that a site refuses by name before anything is decrypted, and what it does about those that are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from blind_federation import BlindFederation, cipher_at, combined
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secure_frl.ckks.coordinator_states import CkksSum, encrypted_of
from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Worker
from secure_frl.encoding.slots import SLOTS
from secure_frl.errors import LedgerCorrupt
from secure_frl.masking.contexts import sizes_of
from secure_frl.wire.envelope import read_header
from secure_frl.wire.messages import MessageType
from secure_frl.wire.registry import REGISTRY

BOTH = ("ckks", "ckks+masking")
MAX_CORRECTION_WORD = 1 << 24  # of the federation's ring

# --- refused by name, before anything is decrypted -------------------------------------------------------

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
def test_a_part_that_is_too_large_inside_the_greatest_total_is_refused_before_its_tag_is_checked(
    federations, protection
):
    parties = federations(5, protection)
    header, site = read_header(parties.total_of(parties.next_round(), 1)), parties.sites[1]
    spec, sizes = REGISTRY[MessageType.R5C], sizes_of(parties.terms)
    body, rest = spec.limit(sizes), spec.rest(sizes)
    before = site._state

    def code(body_bytes: int, rest_bytes: int) -> str | None:
        frame = replace(header, body_bytes=body_bytes).encode() + bytes(body_bytes + spec.trailer_bytes + rest_bytes)
        return parties.refusal(1, frame, site.handle(frame))

    assert code(body + 1, 0) == "MalformedMessage"
    assert code(1, rest + 1) == "MalformedMessage"
    assert code(body, rest) == "BadSignature"  # both may be that large
    assert site._state is before


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
    before = [len(log) for log in parties.logs]  # of rounds that other tests had with these sites
    frames = {
        site: parties.sites[site].handle(parties.total_of(machine, site, *body))
        for site, body in {1: (), 2: (parties.given[2],)}.items()
    }

    good, bad = (read_header(frames[site]) for site in (1, 2))
    assert len(frames[1]) == len(frames[2])
    assert (good.type, good.body_bytes, good.key_id) == (bad.type, bad.body_bytes, bad.key_id)
    assert parties.sites[1].state_name == parties.sites[2].state_name == "EpochOpen"
    assert parties.registers[1].rows[-1] == parties.registers[2].rows[-1]
    assert parties.logs[1][before[1] :] == []
    assert [name for name, _ in parties.logs[2][before[2] :]] == ["DecryptionFailed"]  # at home only
    assert parties.hosts[1].total is not None
    assert parties.hosts[2].total is None


# --- what fails after a sum is open ----------------------------------------------------------------------------------

FULL = OSError(28, "No space left on device", "policy.held")
FAULTS: dict[str, tuple[dict[str, Exception], list[tuple[str, str]]]] = {  # what raises -> the site's log
    "a program": ({"next_tag": RuntimeError("the sum is 4711")}, [("RuntimeError", "failed in failing")]),
    "a disk, in the step": ({"next_tag": FULL}, [("OSError", "No space left on device: policy.held")]),
    "books": ({"next_tag": LedgerCorrupt("expected rows, got none.")}, [("LedgerCorrupt", "expected rows, got none.")]),
    "a disk, at the end": ({"summed": FULL}, [("OSError", "policy.held")]),
    "a disk, twice": ({"next_tag": FULL, "unknown": FULL}, [("OSError", "policy.held"), ("OSError", "policy.held")]),
    "a disk, and the log on it": ({"next_tag": FULL, "log": FULL}, []),
}


def break_(parties: BlindFederation, site: int, faults: dict[str, Exception], patch: pytest.MonkeyPatch) -> None:
    host, machine = parties.hosts[site], parties.sites[site]
    close = host.close

    def failing(*given: Any) -> Any:
        raise faults["next_tag"]

    def closing(outcome: str) -> None:
        close(outcome)
        if outcome in faults:
            raise faults[outcome]

    def logging(name: str, text: str) -> None:
        raise faults["log"]

    patch.setattr(host, "close", closing)
    if "next_tag" in faults:
        patch.setattr(host, "next_tag", failing)
    if "log" in faults:
        patch.setattr(machine, "_party", replace(machine._party, log=logging))


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("protection", BOTH)
def test_whatever_fails_after_the_sum_is_open_answers_like_a_site_that_followed(
    federations, protection, name, monkeypatch
):
    parties = federations(5, protection)
    faults, said = FAULTS[name]
    machine = parties.next_round()
    before = len(parties.logs[2])
    requests = {site: parties.total_of(machine, site) for site in (1, 2)}
    break_(parties, 2, faults, monkeypatch)

    frames = {site: parties.sites[site].handle(request) for site, request in requests.items()}
    answer = parties.answer(machine, 2, requests[2])  # the same bytes, the same answer

    good, bad = (read_header(frames[site]) for site in (1, 2))
    assert len(frames[1]) == len(frames[2])
    assert (good.type, good.body_bytes, good.key_id) == (bad.type, bad.body_bytes, bad.key_id)
    assert len(answer) == 32
    assert answer not in {parties.hosts[1].held_tag(), parties.hosts[2].held_tag(), bytes(32)}
    assert parties.sites[2].state_name == "EpochOpen"
    assert parties.registers[2].rows[-1][2] == "closed"
    assert parties.hosts[2].closed[-1] == "unknown"
    assert cipher_at(parties.sites[2]).failures == 1
    log = parties.logs[2][before:]
    assert [name for name, _ in log] == [name for name, _ in said]
    assert all(text in line for (_, line), (_, text) in zip(log, said, strict=True))
    assert "4711" not in str(log)  # what the program's error quotes

    monkeypatch.undo()
    assert parties.next_round().outcome().contributors == (0, 1, 2, 3, 4)  # nothing of it stays in the way
