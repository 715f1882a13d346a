"""Ledgers at the command line: one budget for the studies on one data set, what is shown, exported and held against."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from secure_frl.cli.main import app
from secure_frl.consortium.identity import Identity
from secure_frl.consortium.keystore import write_simulated_key
from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
from secure_frl.federation.results import RoundReport
from secure_frl.federation.run_folder import RunOptions
from secure_frl.records.journal import read_journal
from secure_frl.records.ledger import Ledger, read_ledger_state
from secure_frl.secure_sum import Budget
from secure_frl.study import Study

TINY = Path(__file__).parents[2] / "studies" / "tiny.toml"
FORMATS = Path(__file__).parents[1] / "records" / "formats"
WARD = ("--set", "data.dataset_id=ward-a", "--set", "data.lifetime_epsilon=4")


def secure_frl(*arguments: object) -> Result:
    """Run one command line."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def last_line(result: Result) -> dict[str, Any]:
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_studies_on_one_data_set_share_its_budget_and_one_that_does_not_fit_sends_nothing(tmp_path: Path) -> None:
    def run(name: str, epsilon: float) -> Result:
        state = ("--state", tmp_path / "state", *WARD)
        return secure_frl("run", TINY, "--out", tmp_path / name, "--epsilon", epsilon, *state, "--json")

    first, too_much, smaller = run("one", 2.5), run("two", 3.5), run("three", 1)

    assert (first.exit_code, too_much.exit_code, smaller.exit_code) == (0, 3, 0)
    assert last_line(too_much)["error"] == "BudgetExhausted"
    assert "other studies spent 2.5" in last_line(too_much)["message"]
    journal = read_journal(tmp_path / "two/journal.sqlite")
    assert (journal.rounds, journal.last_epoch) == ([], 0)  # not one frame was sent
    shown = last_line(secure_frl("ledger", "show", tmp_path / "state/sites/site-01/ledger.sqlite", "--json"))
    assert shown["epsilon_budget"] == 4.0
    assert sorted(round(spent, 1) for spent in shown["studies"].values()) == [1.0, 2.5]
    assert max(shown["studies"].values()) < shown["epsilon_spent"] < 4.0
    assert len({event["charter_hash"] for event in shown["events"]}) == 2  # the refused study booked nothing


@pytest.mark.slow
def test_a_study_that_others_have_blocked_for_good_is_ended_with_what_it_has(
    tiny: Callable[..., Study], tmp_path: Path
) -> None:
    ward = {"data.dataset_id": "ward-a", "data.lifetime_epsilon": 4.0}
    shared = RunOptions(state=tmp_path / "state")

    class Interrupted:
        def round_ended(self, report: RoundReport) -> None:
            raise KeyboardInterrupt

    twice = tiny(ward | {"privacy.target_epsilon": 2.5, "privacy.max_rounds_per_person": 2})
    with pytest.raises(KeyboardInterrupt):
        simulation.run(twice, tmp_path / "blocked", shared, watch=lambda rounds: Interrupted())
    simulation.run(tiny(ward | {"privacy.target_epsilon": 3.3}), tmp_path / "other", shared)

    resumed = secure_frl("resume", tmp_path / "blocked", "--json")
    again = secure_frl("resume", tmp_path / "blocked", "--json")
    ended = secure_frl("resume", tmp_path / "blocked", "--end", "--json")

    assert (resumed.exit_code, again.exit_code, ended.exit_code) == (3, 3, 0)
    assert "--end" in resumed.stderr
    assert last_line(ended)["rounds_completed"] == 1
    assert verify(tmp_path / "blocked").findings == ()
    assert (tmp_path / "blocked/policies/round-0001.model").is_file()
    assert secure_frl("resume", tmp_path / "blocked", "--end", "--json").exit_code == 2  # it is finished


@pytest.mark.slow
def test_a_study_refused_before_its_first_round_is_ended_with_nothing_spent(
    tiny: Callable[..., Study], tmp_path: Path
) -> None:
    ward = {"data.dataset_id": "ward-a", "data.lifetime_epsilon": 4.0, "privacy.target_epsilon": 3.9}
    shared = RunOptions(state=tmp_path / "state")
    simulation.run(tiny(ward), tmp_path / "first", shared)
    refused = secure_frl("run", TINY, *WARD, "--state", tmp_path / "state", "--out", tmp_path / "second")

    ended = secure_frl("resume", tmp_path / "second", "--end", "--json")

    assert (refused.exit_code, ended.exit_code) == (3, 0)
    assert (last_line(ended)["epsilon_spent"], last_line(ended)["epsilon_if_one_more_colludes"]) == (0.0, None)
    assert verify(tmp_path / "second").findings == ()


@pytest.mark.slow
def test_a_study_ended_before_any_sum_claims_no_policy_and_verifies(tmp_path: Path) -> None:
    drop = 'sites.simulate_drop={"before_masked": 0, "after_masked": 1}'
    stopped = secure_frl("run", TINY, "--out", tmp_path / "run", "--set", drop, "--set", "training.rounds=4", "--json")

    ended = secure_frl("resume", tmp_path / "run", "--end", "--json")

    assert (stopped.exit_code, ended.exit_code) == (6, 0)
    assert (last_line(ended)["rounds_completed"], last_line(ended)["rounds_lost"]) == (0, 3)
    assert last_line(ended)["epsilon_spent"] > 3.9  # what left stays spent, though nothing came of it
    assert verify(tmp_path / "run").findings == ()


# --- one ledger ------------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A site's ledger of format 2 with two summed rounds, and a key."""
    path = Path(shutil.copy(FORMATS / "ledger_v2.sqlite", tmp_path / "ledger.sqlite"))
    write_simulated_key(tmp_path / "identity.key", Identity(bytes([7]) * 32))
    return path


def test_show_prints_every_field_of_every_event(ledger: Path) -> None:
    plain = secure_frl("ledger", "show", ledger)
    whole = secure_frl("ledger", "show", ledger, "--all", "--json")

    assert plain.exit_code == whole.exit_code == 0
    for word in ("site-01", "summed", "policy_update", "patient", "data set", "lifetime", "last row"):
        assert word in plain.stdout
    for name in last_line(whole)["events"][0]:
        assert f"  {name}: " in whole.stderr
    # privacy.md, section 7: what an event must say, beside what the chain and its head say
    assert set(last_line(whole)["events"][0]) >= {
        "charter_hash",
        "round",
        "attempt",
        "window",
        "composition_group",
        "mechanism",
        "purpose",
        "unit",
        "relation",
        "max_rounds_per_person",
        "max_sites_per_person",
        "blocks",
        "noise_multiplier",
        "integer_noise_scale",
        "scale",
        "length",
        "rounding_bound",
        "rounding_beta",
        "honest_shares",
        "max_colluders",
        "min_survivors",
        "survivors",
        "sampling_rate",
        "sampler",
        "declared_batch",
        "delta",
        "random_source",
        "code_version",
        "register_root_before",
        "register_root_after",
        "time",
    }
    assert all(event["register_root_after"] for event in last_line(whole)["events"])


def test_an_export_is_what_the_site_exports_itself_and_verifies(ledger: Path, tmp_path: Path) -> None:
    before = ledger.read_bytes()

    result = secure_frl("ledger", "export", ledger, "--out", tmp_path / "out", "--json")

    assert result.exit_code == 0
    assert (tmp_path / "out/site-01.jsonl").read_bytes() == (FORMATS / "ledger_v2.jsonl").read_bytes()
    assert last_line(result)["fingerprint"] in verify(tmp_path / "out/site-01.jsonl").not_proved[0]
    assert verify(tmp_path / "out/site-01.jsonl").findings == ()
    assert ledger.read_bytes() == before


def test_an_export_without_the_holders_key_is_refused(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "identity.key").unlink()

    result = secure_frl("ledger", "export", ledger, "--out", tmp_path / "out", "--json")

    assert result.exit_code == 2
    assert "--key" in last_line(result)["message"]
    assert not (tmp_path / "out").exists()


def reopened(path: Path) -> Ledger:
    state = read_ledger_state(path)
    return Ledger.open(
        path,
        holder=state.holder,
        dataset_id=state.dataset_id,
        budget=Budget(4.0, 1e-3),
        guard=lambda *_: None,
        signer=Identity(bytes([1]) * 32),
        code_version="x",
    )


def test_check_says_which_heads_a_ledger_contains(ledger: Path, tmp_path: Path) -> None:
    with reopened(ledger) as longer:
        longer.reserve(longer.events()[0])
        (tmp_path / "newer.head").write_bytes(longer.signed_head().encode())
    older = FORMATS / "ledger_v2.sqlite"
    heads = (FORMATS / "ledger_v2.head", tmp_path / "newer.head", FORMATS / "ledger_v1.head")

    now = secure_frl("ledger", "check", ledger, *heads[:2], "--json")
    rolled_back = secure_frl("ledger", "check", older, *heads[:2], "--json")
    another = secure_frl("ledger", "check", ledger, heads[2], "--json")

    assert (now.exit_code, rolled_back.exit_code, another.exit_code) == (0, 1, 1)
    assert [one["holds"] for one in last_line(now)["heads"]] == [True, True]
    assert "has 1 more" in last_line(now)["heads"][0]["message"]
    assert [one["holds"] for one in last_line(rolled_back)["heads"]] == [True, False]
    assert "an older one forgets what was spent" in last_line(rolled_back)["heads"][1]["message"]
    assert "ledger forgets what was spent" in last_line(another)["heads"][0]["message"]


def test_check_takes_a_mistyped_head_for_bad_input_and_not_for_a_rollback(ledger: Path, tmp_path: Path) -> None:
    result = secure_frl("ledger", "check", ledger, FORMATS / "ledger_v2.head", tmp_path / "mistyped.head", "--json")

    assert (result.exit_code, last_line(result)["error"]) == (2, "ConfigError")
    assert str(tmp_path / "mistyped.head") in last_line(result)["message"]


def test_check_refuses_a_head_that_was_changed(ledger: Path, tmp_path: Path) -> None:
    changed = (FORMATS / "ledger_v2.head").read_bytes().replace(b'"sequence":6', b'"sequence":5')
    (tmp_path / "changed.head").write_bytes(changed)

    result = secure_frl("ledger", "check", ledger, tmp_path / "changed.head", "--json")

    assert result.exit_code == 1
    assert "not signed" in last_line(result)["heads"][0]["message"]


def test_a_clock_that_was_ahead_is_accepted_at_the_command_line(ledger: Path) -> None:
    before = read_ledger_state(ledger).time
    assert before is not None
    with reopened(ledger) as ahead:
        ahead._clock = lambda: before + 1e9
        ahead.reserve(ahead.events()[0])

    result = secure_frl("ledger", "accept-clock", ledger, "--json")

    assert result.exit_code == 0
    assert last_line(result)["time_before"] == int(before + 1e9)
    assert abs(last_line(result)["time_now"] - time.time()) < 3600
