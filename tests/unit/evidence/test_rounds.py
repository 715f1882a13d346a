"""rounds.jsonl against itself, the charter and the journal, under a coordinator that signs a new manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from made_runs import NAMES, TAGS, named, read_lines, resign, write_lines

from secure_frl.consortium.charter import SignedCharter
from secure_frl.evidence.rounds import smallest_difference
from secure_frl.evidence.verify import verify
from secure_frl.records.journal import Journal


def test_an_unbroken_tag_chain_is_required(run: Path) -> None:
    lines = read_lines(run / "rounds.jsonl")
    lines[2]["policy_tag"] = TAGS[0].hex()
    write_lines(run / "rounds.jsonl", lines)
    resign(run)

    assert any("tag chain is broken" in one.message for one in verify(run).findings)


def test_a_sum_over_too_few_sites_is_found(run: Path) -> None:
    lines = read_lines(run / "rounds.jsonl")
    lines[0]["survivors"] = lines[0]["survivors"][:2]
    write_lines(run / "rounds.jsonl", lines)
    resign(run)

    messages = [one.message for one in verify(run).findings]

    assert any("sum over 2 sites" in one for one in messages)
    assert any("differs from what journal.sqlite says" in one for one in messages)


def test_a_blind_journal_with_figures_of_a_policy_is_found(blind: Path) -> None:
    charter = SignedCharter.decode((blind / "charter.json").read_bytes()).charter
    lines = read_lines(blind / "rounds.jsonl")
    with Journal.open(blind / "journal.sqlite", charter_hash=charter.session, code_version="0.1.0") as journal:
        journal.begin_round(4, 0, NAMES)
        journal.publish_round(NAMES, {})
        journal.lose_round("TagsDiffer", {"shown": {"return": 0.5}})
    last = lines[-1]["next_tag"]
    lost = {"round": 4, "outcome": "lost", "survivors": (), "policy_tag": last, "next_tag": last}
    write_lines(blind / "rounds.jsonl", [*lines, lines[-1] | lost])
    in_force = read_lines(blind / "protections.jsonl")
    write_lines(blind / "protections.jsonl", [*in_force, in_force[-1] | {"round": 4}])
    resign(blind)

    said = verify(blind)

    assert named(said) == {"journal.sqlite"}
    assert "figures of the policy of round 4" in said.findings[0].message


def test_a_published_round_is_no_outcome_of_an_ended_run(blind: Path) -> None:
    lines = read_lines(blind / "rounds.jsonl")
    lines[1]["outcome"] = "published"
    write_lines(blind / "rounds.jsonl", lines)
    resign(blind)

    found = verify(blind).findings

    assert [one.message[:6] for one in found if one.file == "rounds.jsonl"] == ["line 2"]


def test_an_unfinished_blind_run_with_a_published_round_claims_nothing(blind: Path) -> None:
    for path in [*blind.glob("manifest.*"), blind / "result.json", *(blind / "ledgers").iterdir()]:
        path.unlink()
    charter = SignedCharter.decode((blind / "charter.json").read_bytes()).charter
    with Journal.open(blind / "journal.sqlite", charter_hash=charter.session, code_version="0.1.0") as journal:
        journal.begin_round(4, 0, NAMES)
        journal.publish_round(NAMES, {})

    said = verify(blind)

    assert (said.holds, said.unfinished, said.rounds) == (True, True, 2)


# --- by how many sites two sums differ -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sums", "difference"),
    [
        ([], None),
        ([(0, 1, 2)], None),
        ([(0, 1, 2), (2, 1, 0)], 0),
        ([(0, 1, 2), (0, 1, 2), (0, 1)], 1),  # two that are alike do not hide the one that is not
        ([(0, 1, 2), (0, 1, 3)], 2),  # one left and one came
        ([(0, 1, 2, 3), (4, 5), (0, 1, 2, 3, 4, 5, 6)], 3),
        ([("a", "b"), ("c", "d"), ("a", "b", "c", "d", "e")], 3),  # far from each other, and in one that has both
        ([range(10_000), range(1, 10_000), range(3, 9_990)], 1),
    ],
)
def test_the_smallest_difference_is_that_of_the_two_most_alike_sums_over_other_sites(
    sums: list[Sequence[int]] | list[Sequence[str]], difference: int | None
) -> None:
    assert smallest_difference(sums) == difference
    assert smallest_difference(reversed(sums)) == difference


def test_a_summary_of_a_version_that_did_not_say_it_holds(run: Path) -> None:
    plain = json.loads((run / "result.json").read_bytes())
    del plain["survivor_difference_min"]
    (run / "result.json").write_text(json.dumps(plain))
    resign(run)

    assert verify(run).findings == ()
