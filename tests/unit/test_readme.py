"""The README keeps its word: its Python runs as printed, its links lead somewhere, its commands exist."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from secure_frl.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "SECURITY.md", "docs/architecture.md")


@pytest.mark.slow
def test_the_python_example_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    script = tmp_path / "example.py"
    script.write_text(example)
    monkeypatch.chdir(tmp_path)

    names = runpy.run_path(str(script))

    assert names["policy"].probabilities.shape == (716, 25)
    assert names["result"].epsilon_spent <= 4.0


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page: str) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())

    missing = [target for target in targets if not ((ROOT / page).parent / target).exists()]
    assert missing == []


def test_every_test_that_security_names_exists() -> None:
    named = set(re.findall(r"`(tests/[\w/.]+)::(\w+)`", (ROOT / "SECURITY.md").read_text()))

    assert named
    absent = [f"{path}::{test}" for path, test in named if f"def {test}(" not in (ROOT / path).read_text()]
    assert absent == []


@pytest.mark.parametrize("command", ["plan", "run", "resume", "verify", "audit"])
def test_every_command_of_the_readme_has_help(command: str) -> None:
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_the_readme_numbers_follow_from_the_plan() -> None:
    from secure_frl.privacy.planning import make_plan
    from secure_frl.study_file import load_study

    plan = make_plan(load_study(ROOT / "examples" / "icu_sepsis" / "study.toml"))
    text = (ROOT / "README.md").read_text()

    assert f"with one fewer it is {plan.epsilon_if_one_more_colludes:.2f}" in text
    assert f"at two: {plan.epsilon_if_one_more_site:.2f}" in text
    assert f"{plan.constants.honest_shares} honest shares" in text
    assert f"{plan.declared_units:,} declared patients" in text
