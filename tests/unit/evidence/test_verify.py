"""verify: a real run folder holds; every way of changing it is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import made_runs
import pytest
from made_runs import CONSORTIUM, COORDINATOR, DELTA, NAMES, SIGMA, STUDY, build, named, replaced_result, resign

from secure_frl.evidence.verify import verify
from secure_frl.privacy.events import GaussianSumEvent
from secure_frl.records import chain
from secure_frl.secure_sum import Budget
from secure_frl.wire.canonical import canonical_json

# Analytic Gaussian, sigma = 2, delta = 1e-5 (Balle and Wang 2018, theorem 8): 1.9931. The accountant is pessimistic and
# adds rounding, by less than half a percent.
LEAST_EPSILON, MOST_EPSILON = 1.9931, 2.0031


# --- an honest folder ------------------------------------------------------------------------------------------------


def test_an_honest_run_holds_with_its_epsilon(run: Path) -> None:
    said = verify(run)

    assert said.findings == ()
    assert (said.holds, said.unfinished, said.is_rehearsal, said.rounds) == (True, False, False, 2)
    assert said.epsilon_recomputed is not None
    assert LEAST_EPSILON <= said.epsilon_recomputed <= MOST_EPSILON  # R = 1: the worst of three windows, not their sum
    assert said.epsilon_recomputed == said.epsilon_claimed


def test_events_that_cost_more_than_the_charter_promises_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STUDY["privacy"], "target_epsilon", 1.5)  # the noise is that of 1.99

    said = verify(build(tmp_path / "run"))

    assert named(said) == {"charter.json"}
    assert "promises epsilon 1.5" in said.findings[0].message


def test_a_ledger_beyond_its_lifetime_budget_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller = Budget(1.5, DELTA)
    monkeypatch.setattr(made_runs, "Budget", lambda epsilon, delta: smaller)  # an older, smaller one

    said = verify(build(tmp_path / "run"))

    assert named(said) == {f"ledgers/{holder}.jsonl" for holder in (*NAMES, "coordinator")}
    assert all("lifetime budget is 1.5" in one.message for one in said.findings)


def test_more_releases_than_announced_rounds_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDY["training"], "rounds", 2)  # three are booked

    assert named(verify(build(tmp_path / "run"))) == {f"ledgers/{holder}.jsonl" for holder in (*NAMES, "coordinator")}


def test_events_of_other_people_than_the_ledgers_are_named(tmp_path: Path) -> None:
    def of_another_ward(holder: str, event: GaussianSumEvent) -> GaussianSumEvent:
        return replace(event, dataset_id="ward-b") if holder == "site-2" else event

    assert "ledgers/site-2.jsonl" in named(verify(build(tmp_path / "run", of_another_ward)))


def test_books_under_another_name_than_the_charters_data_set_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STUDY, "data", {"dataset_id": "simulated"})
    assert verify(build(tmp_path / "one")).holds
    monkeypatch.setitem(STUDY, "data", {"dataset_id": "ward-a"})  # whose budget all these books leave alone

    found = verify(build(tmp_path / "other")).findings

    assert {one.file for one in found} == {f"ledgers/{holder}.jsonl" for holder in (*NAMES, "coordinator")}
    assert all("dataset_id='simulated' instead of 'ward-a'" in one.message for one in found)


def test_verifying_changes_nothing_in_the_folder(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    verify(run)

    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_it_says_what_no_file_can_prove(run: Path) -> None:
    text = " ".join(verify(run).not_proved)

    assert "clipped" in text
    assert "max_sites_per_person" in text
    assert "max_rounds_per_person" in text
    assert "fingerprint" in text


def test_it_states_epsilon_with_all_that_it_rests_on(run: Path) -> None:
    said = verify(run)

    (statement,) = (sentence for sentence in said.proved if sentence.startswith("epsilon"))
    assert f"epsilon {said.epsilon_recomputed:.6g} at delta 1e-05" in statement
    for part in ("add_or_remove_one", "PLD", "2 honest shares", "colluders: 1", "round(s)", "site(s)", "coordinator"):
        assert part in statement
    assert said.statement is not None
    assert said.statement["epsilon"] == said.epsilon_recomputed
    assert said.to_json()["statement"] == said.statement


@pytest.mark.parametrize("changes", [{"relation": "replace_one"}, {"epsilon_if_one_more_site": 1.0}, {"trust": "all"}])
def test_a_summary_that_states_other_terms_is_found(run: Path, changes: dict[str, object]) -> None:
    statement = verify(run).statement
    assert statement is not None

    replaced_result(run, statement=statement)
    assert verify(run).holds
    replaced_result(run, statement=statement | changes)

    (found,) = verify(run).findings
    assert found.file == "result.json"
    assert next(iter(changes)) in found.message


def test_a_roster_of_another_consortium_is_found_by_whoever_knows_the_key(run: Path) -> None:
    assert verify(run, consortium_public_key=CONSORTIUM.public_key).holds
    said = verify(run, consortium_public_key=COORDINATOR.public_key)
    assert named(said) == {"roster.toml"}
    assert not any("consortium's key" in sentence for sentence in said.proved)


# --- ledgers, under a coordinator that signs a new manifest after its changes ----------------------------------------


def rewritten(path: Path, drop: int) -> None:
    """Drop a row and recompute the chain of an export."""
    kept = [json.loads(line) for line in path.read_bytes().splitlines()]
    del kept[drop]
    rows: list[chain.Row] = []
    for plain in kept:
        rows.append(chain.next_row(rows[-1] if rows else None, plain["kind"], canonical_json(plain["payload"])))
    path.write_bytes(chain.encode_export(rows))


@pytest.mark.parametrize("dishonest", [False, True])
@pytest.mark.parametrize("drop", [1, 5, 9])
def test_a_dropped_row_with_a_recomputed_chain_is_named(run: Path, drop: int, dishonest: bool) -> None:
    rewritten(run / "ledgers/site-1.jsonl", drop)
    if dishonest:
        resign(run)

    assert "ledgers/site-1.jsonl" in named(verify(run))


def test_a_whole_round_dropped_from_a_ledger_is_named_under_a_new_manifest(run: Path) -> None:
    path = run / "ledgers/site-1.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-3]))  # a valid chain, only shorter
    resign(run)

    assert named(verify(run)) == {"ledgers/site-1.jsonl"}


def test_a_head_made_by_the_coordinator_for_a_shortened_ledger_is_named(run: Path) -> None:
    path = run / "ledgers/site-1.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-3]))
    rows = chain.decode_export(path.read_bytes(), "x")
    (run / "ledgers/site-1.head").write_bytes(chain.sign_head(COORDINATOR, chain.receipt_of(rows)).encode())
    resign(run)

    said = verify(run)

    assert named(said) == {"ledgers/site-1.head"}
    assert "not signed by the key" in said.findings[0].message


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("ending", ["jsonl", "head"])
def test_a_flipped_byte_of_a_ledger_is_named_under_a_new_manifest(run: Path, ending: str, place: float) -> None:
    path = run / f"ledgers/site-2.{ending}"
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 0x01
    path.write_bytes(data)
    resign(run)

    assert named(verify(run)) == {f"ledgers/site-2.{ending}"}


def test_one_sites_ledger_in_anothers_place_is_named(run: Path) -> None:
    for ending in ("jsonl", "head"):
        shutil.copy(run / f"ledgers/site-0.{ending}", run / f"ledgers/site-2.{ending}")
    resign(run)

    assert named(verify(run)) == {"ledgers/site-2.head"}  # signed by site-0


# --- what honest signatures can still contradict ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon_spent": 1.0},
        {"epsilon_spent": None},
        {"rounds_completed": 3},
        {"honest_shares_assumed": 3},
        {"protection": "ckks"},
        {"unit": "trajectory"},
        {"survivors_min": 2},
        {"survivor_difference_min": 2},
        {"survivor_difference_min": None},
        {"delta": 1e-3},
    ],
)
def test_a_claim_that_the_books_do_not_bear_is_found(run: Path, changes: dict[str, object]) -> None:
    replaced_result(run, **changes)

    assert named(verify(run)) == {"result.json"}


def test_an_epsilon_off_by_more_than_the_last_bits_is_found(run: Path) -> None:
    spent = json.loads((run / "result.json").read_bytes())["epsilon_spent"]
    replaced_result(run, epsilon_spent=spent - 1e-8)

    assert named(verify(run)) == {"result.json"}


def weaker(who: str, **changes: object) -> Callable[[str, GaussianSumEvent], GaussianSumEvent]:
    return lambda holder, event: replace(event, **changes) if holder == who and event.round == 3 else event


def test_books_that_agree_on_less_noise_than_the_charter_says_are_found(tmp_path: Path) -> None:
    halved = {"integer_noise_scale": 512, "noise_multiplier": SIGMA / 2}
    run = build(tmp_path / "run", lambda _, event: replace(event, **halved))

    found = [one.file for one in verify(run).findings if "contradicts the charter" in one.message]

    assert set(found) == {f"ledgers/{holder}.jsonl" for holder in (*NAMES, "coordinator")}


@pytest.mark.parametrize(
    "name", ["noised_sums", "declared_batch", "unit", "sampling_rate", "composition_group", "purpose"]
)
def test_books_that_agree_on_what_the_charter_does_not_say_are_found(name: str, tmp_path: Path) -> None:
    def changed(_: str, event: GaussianSumEvent) -> GaussianSumEvent:
        other: dict[str, object] = {
            "noised_sums": 2,
            "declared_batch": event.declared_batch + 1,
            "unit": "trajectory",
            "sampling_rate": 0.5,
            "purpose": "policy_update+mean_return",
            "composition_group": event.dataset_id,
        }
        more = {"sampler": "poisson"} if name == "sampling_rate" else {}
        return replace(event, **{name: other[name]}, **more)

    found = [
        one for one in verify(build(tmp_path / "run", changed)).findings if "contradicts the charter" in one.message
    ]

    assert {one.file for one in found} == {f"ledgers/{holder}.jsonl" for holder in (*NAMES, "coordinator")}
    assert all(f"{name}=" in one.message for one in found)


def test_one_site_that_booked_less_noise_than_the_others_is_found(tmp_path: Path) -> None:
    run = build(tmp_path / "run", weaker("site-1", integer_noise_scale=512, noise_multiplier=SIGMA / 2))

    found = [one.file for one in verify(run).findings if "differs from the coordinator's claim" in one.message]

    assert found == ["ledgers/site-1.jsonl"]


def test_a_site_that_booked_another_attempt_than_the_coordinator_claims_is_found(tmp_path: Path) -> None:
    run = build(tmp_path / "run", weaker("site-1", attempt=1, window="3/1"))

    assert named(verify(run)) == {"ledgers/site-1.jsonl", "ledgers/coordinator.jsonl"}


def test_a_rehearsal_holds_only_for_who_asks_for_one(tmp_path: Path) -> None:
    run = build(tmp_path / "run", lambda _, event: replace(event, random_source="rehearsal"))

    assert not verify(run).holds
    allowed = verify(run, allow_rehearsal=True)
    assert (allowed.holds, allowed.is_rehearsal) == (True, True)
    assert any("rehearsal" in one for one in allowed.not_proved)
    alone = verify(run / "ledgers" / f"{NAMES[0]}.jsonl")
    assert named(alone) == {f"{NAMES[0]}.jsonl"}


# --- unfinished runs, single ledgers ---------------------------------------------------------------------------------


def test_an_unfinished_run_says_so_and_claims_nothing(run: Path) -> None:
    for path in [*run.glob("manifest.*"), run / "result.json", *(run / "ledgers").iterdir()]:
        path.unlink()

    said = verify(run)

    assert (said.holds, said.unfinished, said.epsilon_recomputed, said.rounds) == (True, True, None, 2)
    assert any("unfinished" in one for one in said.not_proved)


def test_taking_the_manifest_away_does_not_make_a_run_unfinished(run: Path) -> None:
    for path in run.glob("manifest.*"):
        path.unlink()

    said = verify(run)

    assert named(said) == {"manifest.json", "manifest.sig"}
    assert not said.unfinished


def test_a_broken_chain_of_an_unfinished_run_is_named(run: Path) -> None:
    for path in [*run.glob("manifest.*"), run / "result.json", *(run / "ledgers").iterdir()]:
        path.unlink()
    path = run / "state/sites/site-0/ledger.sqlite"
    path.write_bytes(path.read_bytes().replace(b'"outcome":"summed"', b'"outcome":"unknown'))

    assert named(verify(run)) == {"state/sites/site-0/ledger.sqlite"}


def test_a_single_ledger_verifies_with_its_head(run: Path) -> None:
    said = verify(run / "ledgers/site-1.jsonl")

    assert said.holds
    assert said.epsilon_recomputed is not None
    assert LEAST_EPSILON <= said.epsilon_recomputed <= MOST_EPSILON
    assert any("fingerprint" in one for one in said.not_proved)


def test_a_shortened_single_ledger_is_named(run: Path) -> None:
    path = run / "ledgers/site-1.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))

    assert named(verify(path)) == {"site-1.jsonl"}


def test_a_ledger_without_its_head_proves_nothing(run: Path) -> None:
    (run / "ledgers/site-1.head").unlink()

    assert named(verify(run / "ledgers/site-1.jsonl")) == {"site-1.head"}


def test_what_is_not_there_is_a_finding_and_no_crash(tmp_path: Path) -> None:
    assert named(verify(tmp_path / "nothing.jsonl")) == {"nothing.head"}
    assert named(verify(tmp_path)) == {"roster.toml"}


def test_it_reaches_neither_federation_nor_learning_nor_torch(run: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from secure_frl.evidence.verify import verify\n"
        "assert verify(Path(sys.argv[1])).holds\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'opacus') or"
        " m.startswith(('secure_frl.federation', 'secure_frl.learning'))])"
    )

    done = subprocess.run([sys.executable, "-c", program, str(run)], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
