"""Kept policies against the tags of their rounds, which under a blind coordinator are keyed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_runs import MODELS, TAGS, build, named, resign

from secure_frl.consortium.charter import SignedCharter
from secure_frl.evidence.verify import verify
from secure_frl.records.journal import Journal

LAST, FIRST = "policies/policy.json", "policies/round-0001.safetensors"


def test_another_policy_than_the_last_tag_is_found(run: Path) -> None:
    (run / "policies/round-0003.model").write_bytes(MODELS[1])
    resign(run)

    assert named(verify(run)) == {"policies/round-0003.model"}


def described_as(run: Path, **changes: str) -> None:
    plain = json.loads((run / LAST).read_bytes()) | changes
    (run / LAST).write_text(json.dumps(plain))
    resign(run)


def test_a_keyed_tag_is_taken_from_the_description_and_that_is_said(blind: Path) -> None:
    said = verify(blind)

    assert said.findings == ()
    assert any("ends at the tag that the last kept policy's description states" in one for one in said.proved)
    assert not any("ends at the kept policy" in one for one in said.proved)
    assert any("tags that only sites" in one for one in said.not_proved)


def test_where_the_coordinator_reads_policies_their_bytes_are_the_proof(run: Path) -> None:
    said = verify(run)

    assert any("ends at the kept policy" in one for one in said.proved)
    assert not any("keyed" in one or "blind" in one for one in said.not_proved)


@pytest.mark.parametrize("number", [1, 3])
def test_another_policy_than_is_described_is_found(blind: Path, number: int) -> None:
    (blind / f"policies/round-{number:04}.model").write_bytes(MODELS[2])
    resign(blind)

    assert named(verify(blind)) == {f"policies/round-{number:04}.model"}


@pytest.mark.parametrize("changes", [{"keyed_tag": TAGS[3].hex()}, {"keyed_tag": ""}, {"round": "1"}])
def test_a_description_of_another_round_or_with_an_open_tag_is_found(blind: Path, changes: dict[str, str]) -> None:
    described_as(blind, **changes)

    assert named(verify(blind)) == {LAST}


def test_a_description_of_another_policy_is_found(blind: Path) -> None:
    described_as(blind, policy_tag=TAGS[1].hex())

    assert named(verify(blind)) == {"policies/round-0003.model"}


@pytest.mark.parametrize("file", [LAST, FIRST])
@pytest.mark.parametrize("content", [None, b"", b"\xff" * 8, b"{}", bytes(8) + b"{}"])
def test_a_description_that_is_no_such_thing_is_found(blind: Path, file: str, content: bytes | None) -> None:
    if content is None:
        (blind / file).unlink()
    else:
        (blind / file).write_bytes(content)
    resign(blind)

    assert named(verify(blind)) == {file}


def test_an_earlier_policy_is_held_against_the_tag_of_its_own_round(blind: Path) -> None:
    old, new = (blind / f"policies/round-{number:04}.safetensors" for number in (1, 3))
    old.write_bytes(new.read_bytes())
    (blind / "policies/round-0001.model").write_bytes(MODELS[3])
    resign(blind)

    assert named(verify(blind)) == {FIRST}


def test_a_blind_run_without_its_last_policy_is_found(blind: Path) -> None:
    for path in (blind / "policies").iterdir():
        path.unlink()
    resign(blind)

    assert named(verify(blind)) == {"policies/round-0003.model"}


def test_a_policy_in_the_place_of_a_parcel_is_found(blind: Path) -> None:
    charter = SignedCharter.decode((blind / "charter.json").read_bytes()).charter
    with Journal.open(blind / "journal.sqlite", charter_hash=charter.session, code_version="0.1.0") as journal:
        journal.keep_parcel(MODELS[3])
    resign(blind)

    said = verify(blind)

    assert named(said) == {"journal.sqlite"}
    assert "sealed parcel" in said.findings[0].message


@pytest.fixture
def averaged(tmp_path: Path) -> Path:
    """A run that releases the mean of its last two policies, which are those of rounds 1 and 3."""
    run = build(tmp_path / "run", protection="ckks", tail_average=2)
    described_as(run, mean_of_rounds="[1, 3]")
    return run


def test_a_mean_that_the_charter_asks_for_has_its_rounds_kept_and_named(averaged: Path) -> None:
    assert verify(averaged).findings == ()


@pytest.mark.parametrize("rounds", ["", "[3]", "[2, 3]"])
def test_a_mean_of_other_rounds_than_the_charters_is_found(averaged: Path, rounds: str) -> None:
    described_as(averaged, mean_of_rounds=rounds)

    assert named(verify(averaged)) == {LAST}


def test_a_mean_of_a_policy_that_is_gone_is_found(averaged: Path) -> None:
    (averaged / "policies/round-0001.model").unlink()
    resign(averaged)

    assert named(verify(averaged)) == {"policies/round-0001.model"}
