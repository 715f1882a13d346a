"""The manifest: every file that is changed, cut, removed or added is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import NAMES, SITES, named

from secure_frl.consortium.charter import SignedCharter
from secure_frl.evidence.manifest import write_manifest
from secure_frl.evidence.verify import verify

FILES = [
    *("study.toml", "charter.json", "roster.toml", "journal.sqlite", "rounds.jsonl", "metrics.jsonl", "result.json"),
    "protections.jsonl",
    *("manifest.json", "manifest.sig", "policies/round-0003.model", "policies/round-0003.safetensors"),
    *("ledgers/site-1.jsonl", "ledgers/site-1.head", "ledgers/coordinator.jsonl", "ledgers/coordinator.head"),
    *("state/sites/site-0/ledger.sqlite", "state/coordinator/ledger.sqlite"),
]


def test_the_list_above_names_every_file_of_the_folder(run: Path) -> None:
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.name != "identity.key"}

    assert found == set(FILES) | {
        f"{folder}/{name}{ending}"
        for name in NAMES
        for folder, ending in (("ledgers", ".jsonl"), ("ledgers", ".head"), ("state/sites", "/ledger.sqlite"))
    }


@pytest.mark.parametrize("place", [0.0, 0.37, 0.99])
@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_is_named(run: Path, file: str, place: float) -> None:
    data = bytearray((run / file).read_bytes())
    data[int(place * len(data))] ^= 0x01
    (run / file).write_bytes(data)

    files = named(verify(run))

    assert file.replace("manifest.sig", "manifest.json") in files


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_tail_is_named(run: Path, file: str) -> None:
    (run / file).write_bytes((run / file).read_bytes()[:-1])

    assert file.replace("manifest.sig", "manifest.json") in named(verify(run))


@pytest.mark.parametrize("file", FILES)
def test_a_removed_file_is_named(run: Path, file: str) -> None:
    (run / file).unlink()

    assert file in named(verify(run))


@pytest.mark.parametrize(
    "file",
    ["notes.txt", "ledgers/site-9.jsonl", "identity.key", "policies/identity.key", "policies/site-secret-1.key"],
)
def test_an_added_file_is_named(run: Path, file: str) -> None:
    (run / file).write_bytes(b"added")

    assert file in named(verify(run))


def test_a_link_is_no_evidence(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(run / "study.toml")

    assert "manifest.json" in named(verify(run))


def test_a_manifest_signed_by_anybody_else_is_found(run: Path) -> None:
    charter = SignedCharter.decode((run / "charter.json").read_bytes()).charter
    write_manifest(run, SITES["site-0"], charter_hash=charter.session, code_version="0.1.0")

    assert named(verify(run)) == {"manifest.json"}
