"""The commands as people type them: last line JSON, documented exit codes, sentences that say what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from secure_frl.cli.main import app

SHIPPED = Path(__file__).parents[3] / "examples" / "icu_sepsis" / "study.toml"
TINY = Path(__file__).parents[2] / "studies" / "tiny.toml"


@pytest.fixture
def secure_frl() -> Callable[..., Result]:
    """Return a function that runs one command line."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def _json(result: Result) -> dict[str, Any]:
    return json.loads(result.stdout.splitlines()[-1])


def test_plan_says_sigma_epsilon_by_round_noise_bytes_and_seconds(secure_frl: Callable[..., Result]) -> None:
    result = secure_frl("plan", SHIPPED, "--json")

    plan = _json(result)
    assert result.exit_code == 0
    # one release at epsilon 4, delta 1e-6 needs 1.194 (privacy.md, section 6); integers cost a little more
    assert 1.194 <= plan["noise_multiplier"] <= 1.198
    assert len(plan["epsilon_by_round"]) == 10
    assert 3.99 < plan["epsilon_by_round"][-1] <= 4.0
    assert 0 < plan["noise_norm"] < 1
    assert plan["upload_bytes"] > 4 * 3427
    assert plan["round_seconds"] > 0
    assert plan["honest_shares_assumed"] == 7


def test_plan_solves_for_one_figure_and_draws_a_curve(secure_frl: Callable[..., Result], tmp_path: Path) -> None:
    picture = tmp_path / "plan.svg"

    found = secure_frl("plan", SHIPPED, "--solve", "epsilon", "--sigma", "2", "--curve", picture, "--json")
    two_unknown = secure_frl("plan", SHIPPED, "--solve", "rounds", "--json")
    beyond = secure_frl("plan", SHIPPED, "--solve", "rounds", "--sigma", "0.3", "--json")

    solved = _json(found)["solved"]
    assert found.exit_code == 0
    assert solved["unknown"] == "epsilon"
    assert solved["value"] == _json(found)["epsilon"] == _json(found)["statement"]["epsilon"]
    assert picture.read_text().startswith("<svg")
    assert "noise multiplier, in clips" in found.stderr
    assert (two_unknown.exit_code, _json(two_unknown)["error"]) == (2, "InvalidParameter")
    assert (beyond.exit_code, _json(beyond)["error"]) == (2, "CharterRefused")


def test_the_answer_is_on_standard_output_and_progress_is_not(secure_frl: Callable[..., Result]) -> None:
    for_people = secure_frl("plan", SHIPPED)
    for_machines = secure_frl("plan", SHIPPED, "--json")
    refused = secure_frl("plan", SHIPPED, "--protection", "rot13")

    assert "stated: epsilon 4" in for_people.stdout
    assert for_people.stderr == ""
    assert "stated: epsilon 4" in for_machines.stderr
    assert len(for_machines.stdout.splitlines()) == 1
    assert (refused.stdout, "StudyRefused" in refused.stderr) == ("", True)


def test_plan_compares_the_protections_and_says_what_a_key_holder_could_read(secure_frl: Callable[..., Result]) -> None:
    result = secure_frl("plan", SHIPPED, "--protection", "ckks", "--json")
    unknown = secure_frl("plan", SHIPPED, "--protection", "rot13", "--json")

    plan = _json(result)
    assert result.exit_code == 0
    assert set(plan["cost_by_protection"]) == {"masking", "ckks", "ckks+masking"}
    assert plan["upload_bytes"] == plan["cost_by_protection"]["ckks"]["upload_bytes"] > 2 * 61_000
    assert plan["epsilon_if_key_holder_colludes"] > plan["epsilon_if_one_more_colludes"] > plan["epsilon"]
    assert "one site in league with the coordinator" in result.stderr
    assert (unknown.exit_code, _json(unknown)["error"]) == (2, "StudyRefused")


@pytest.mark.parametrize(
    "options",
    [
        ("--sigma", "-1"),
        ("--sigma", "1", "--set", "privacy.noise=unsafe-none"),
        ("--noise-norm", "2"),
        ("--curve", "plan.png"),
        ("--curve", "no/such/folder/plan.svg"),
        ("--solve", "clip_norm"),
    ],
)
def test_plan_refuses_options_that_do_not_go_together(secure_frl: Callable[..., Result], options: tuple[str]) -> None:
    refused = secure_frl("plan", TINY, *options, "--json")

    assert (refused.exit_code, _json(refused)["error"]) == (2, "InvalidParameter")
    assert "stated:" not in refused.stderr  # before anything is computed


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("privacy.delta=1e-5", "200100 declared units"),
        ("sites.min_survivors=4", "min_survivors"),
        ("privacy.clip=1", "unknown key"),
        ("protection.modulus_bits=12", "would wrap"),
        ("privacy.max_rounds_per_person=999", "max_rounds_per_person"),
    ],
)
def test_plan_refuses_what_no_site_may_sign(secure_frl: Callable[..., Result], override: str, word: str) -> None:
    result = secure_frl("plan", SHIPPED, "--set", override, "--json")

    assert result.exit_code == 2
    assert word in _json(result)["message"]


@pytest.mark.slow
def test_run_verify_and_ledger_speak_json_on_their_last_line(secure_frl: Callable[..., Result], tmp_path: Path) -> None:
    run = secure_frl("run", TINY, "--out", tmp_path / "run", "--seed", "5", "--epsilon", "2", "--json")
    checked = secure_frl("verify", tmp_path / "run", "--json")
    ledger = secure_frl("ledger", "show", tmp_path / "run/state/sites/site-01/ledger.sqlite", "--json")
    exported = secure_frl("ledger", "show", tmp_path / "run/ledgers/site-01.jsonl", "--json")

    assert (run.exit_code, checked.exit_code, ledger.exit_code, exported.exit_code) == (0, 0, 0, 0)
    assert _json(run)["seed"] == 5
    assert _json(run)["epsilon_spent"] <= 2.0
    assert _json(checked)["epsilon_recomputed"] == _json(run)["epsilon_spent"]
    assert _json(ledger)["epsilon_spent"] == _json(run)["epsilon_spent"]
    assert _json(ledger) == _json(exported)
    assert len(_json(ledger)["events"]) == 2


@pytest.mark.slow
def test_an_existing_folder_is_refused_with_the_word_resume(secure_frl: Callable[..., Result], tmp_path: Path) -> None:
    result = secure_frl("run", TINY, "--out", tmp_path, "--json")

    assert result.exit_code == 2
    assert "resume" in _json(result)["message"]


@pytest.mark.slow
def test_a_spent_budget_exits_3(secure_frl: Callable[..., Result], tmp_path: Path) -> None:
    same_people = ("--state", tmp_path / "state", "--set", "data.dataset_id=ward-a", "--json")

    first = secure_frl("run", TINY, "--out", tmp_path / "one", *same_people)
    second = secure_frl("run", TINY, "--out", tmp_path / "two", *same_people)

    assert (first.exit_code, second.exit_code) == (0, 3)
    assert _json(second)["error"] == "BudgetExhausted"


@pytest.mark.slow
def test_a_study_that_cannot_go_on_exits_6_and_resume_says_so_again(
    secure_frl: Callable[..., Result], tmp_path: Path
) -> None:
    drop = 'sites.simulate_drop={"before_masked": 0, "after_masked": 1}'

    stopped = secure_frl("run", TINY, "--out", tmp_path / "run", "--set", drop, "--set", "training.rounds=4", "--json")
    resumed = secure_frl("resume", tmp_path / "run", "--json")

    assert stopped.exit_code == 6
    assert _json(stopped)["error"] == "StudyStopped"
    assert resumed.exit_code == 6


@pytest.mark.slow
def test_a_damaged_run_exits_1_and_names_the_file(secure_frl: Callable[..., Result], copied_run: Path) -> None:
    path = copied_run / "policies" / "policy.json"
    path.write_bytes(path.read_bytes().replace(b"research", b"Research"))

    result = secure_frl("verify", copied_run, "--json")

    assert result.exit_code == 1
    assert [finding["file"] for finding in _json(result)["findings"]] == ["policies/policy.json"]


def test_a_study_file_with_mistakes_exits_2(secure_frl: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text("[study]\nschema = 1\nname = 'x'\nsead = 4\n")

    result = secure_frl("run", path, "--out", tmp_path / "run", "--json")

    assert result.exit_code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [("run",), ("run", "x", "--nonsense"), ("nonsense",), ("verify",)])
def test_a_wrong_command_line_exits_2(secure_frl: Callable[..., Result], arguments: tuple[str, ...]) -> None:
    assert secure_frl(*arguments).exit_code == 2


def test_a_set_option_without_a_value_is_refused(secure_frl: Callable[..., Result]) -> None:
    result = secure_frl("plan", SHIPPED, "--set", "privacy.noise", "--json")

    assert result.exit_code == 2
    assert "KEY=VALUE" in _json(result)["message"]


def test_what_is_no_evidence_at_all_exits_2_and_not_as_a_claim_that_fails(
    secure_frl: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("x")

    results = [secure_frl("verify", tmp_path / name, "--json") for name in ("none", "none.jsonl", "notes.txt", ".")]

    assert [result.exit_code for result in results] == [2, 2, 2, 2]
    assert "does not exist" in _json(results[0])["message"]
    assert "run.json" in _json(results[3])["message"]


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_exits_2_with_its_name(
    secure_frl: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")

    result = secure_frl("run", TINY, "--out", tmp_path / "file" / "run", "--json")

    assert result.exit_code == 2
    assert str(tmp_path / "file") in _json(result)["message"]


def test_an_interrupt_exits_130_and_says_so_in_json(
    secure_frl: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("secure_frl.cli.plan.read_study", interrupted)

    result = secure_frl("plan", SHIPPED, "--json")

    assert result.exit_code == 130
    assert _json(result)["exit_code"] == 130


@pytest.mark.slow
def test_a_run_without_masks_says_unsafe_beside_its_epsilon(secure_frl: Callable[..., Result], tmp_path: Path) -> None:
    run = secure_frl(
        "run", TINY, "--out", tmp_path / "run", "--protection", "unsafe-plain", "--set", "training.rounds=1"
    )
    checked = secure_frl("verify", tmp_path / "run", "--json")

    assert run.exit_code == 0
    assert "UNSAFE: protection.method = unsafe-plain" in run.stdout
    assert any("unsafe-plain" in sentence for sentence in _json(checked)["not_proved"])


@pytest.mark.slow
@pytest.mark.parametrize(("set_before", "expected"), [(None, "1"), ("2", "2")])
def test_a_run_keeps_to_one_thread_unless_told_otherwise(
    set_before: str | None,
    expected: str,
    secure_frl: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", set_before or "")
    if set_before is None:
        monkeypatch.delenv("OMP_NUM_THREADS")

    secure_frl("resume", tmp_path)  # no run is there: it ends before it trains

    assert os.environ["OMP_NUM_THREADS"] == expected
