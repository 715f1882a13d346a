"""The README keeps its word: its Python runs as printed, its links lead somewhere, its commands exist."""

from __future__ import annotations

import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from secure_frl.cli.main import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    str(page.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "examples/*/README.md", "secure_frl/**/README.md")
    for page in ROOT.glob(pattern)
)


@pytest.mark.slow
def test_the_python_example_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
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


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"`([\w/.]+\.py)::(\w+)`", (ROOT / page).read_text()))

    assert len(named) >= {"SECURITY.md": 20, "docs/privacy.md": 60}.get(page, 0)
    absent = [f"{path}::{test}" for path, test in named if f"def {test}(" not in (ROOT / path).read_text()]
    assert absent == []


@pytest.mark.parametrize("command", sorted({*re.findall(r"^secure-frl (\w+)", README, flags=re.M)}))
def test_every_command_of_the_readme_has_help(command: str) -> None:
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_the_readme_numbers_follow_from_the_plan() -> None:
    from secure_frl.privacy.planning import make_plan
    from secure_frl.study_file import load_study

    plan = make_plan(load_study(ROOT / "examples" / "icu_sepsis" / "study.toml"))
    text = README

    assert f"with one fewer it is {plan.epsilon_if_one_more_colludes:.2f}" in text
    assert f"at two: {plan.epsilon_if_one_more_site:.2f}" in text
    assert f"{plan.constants.honest_shares} honest shares" in text
    assert f"{plan.declared_units:,} declared patients" in text


def test_the_protections_pages_numbers_follow_from_the_plan() -> None:
    from secure_frl.privacy.planning import make_plan
    from secure_frl.study_file import load_study

    study = ROOT / "examples" / "icu_sepsis" / "study.toml"
    plan = make_plan(load_study(study, {"protection.method": "ckks"}))
    text = " ".join((ROOT / "docs" / "protections.md").read_text().split())

    assert len(plan.cost_by_protection) == 3
    for one in plan.cost_by_protection:
        assert f"| `{one.protection}` | {one.upload_bytes:,} | {one.download_bytes:,} |" in text
    assert f"an epsilon of {plan.epsilon_if_key_holder_colludes:.2f} in place of {plan.epsilon:.0f}" in text
    assert f"({plan.constants.length:,} values a site, {plan.constants.sites} sites)" in text


def test_the_privacy_pages_numbers_follow_from_the_plan() -> None:
    # The ceilings of any attack are those of one Gaussian (Dong, Roth and Su 2022): written out here a second time.
    from scipy.stats import norm

    from secure_frl.privacy import accountant
    from secure_frl.privacy.charging import WhatIf
    from secure_frl.privacy.planning import make_plan, planned_event
    from secure_frl.study_file import load_study

    study = load_study(ROOT / "examples" / "icu_sepsis" / "study.toml")
    plan = make_plan(study)
    event = planned_event(study, plan.constants)
    sigma = accountant.effective_sigma(event)
    mu = 1 / sigma
    text = " ".join((ROOT / "docs" / "privacy.md").read_text().split())

    assert f"| {norm.cdf(mu / 2):.1%} |".replace("%", " %") in text
    assert f"| {norm.cdf(norm.ppf(0.01) + mu):.1%} |".replace("%", " %") in text
    assert f"| {norm.cdf(mu / 2**0.5):.3f} |".replace("0.", ".") in text
    swap = f"at most {norm.cdf(2 * mu / 2**0.5):.3f}, and {norm.cdf(norm.ppf(0.01) + 2 * mu):.1%} at 1 in 100"
    assert swap.replace("0.", ".").replace("%", " %") in text
    fewer = [accountant.epsilon([event], event.delta, WhatIf(shares=shares)) for shares in (6, 5, 4, 3, 2, 1)]
    assert "with 6: {:.2f}; 5: {:.2f}; 4: {:.2f}; 3: {:.2f}; 2: {:.2f}; 1: {:.1f}".format(*fewer) in text
    assert f"together have {plan.epsilon_household_of_2:.2f}, four have {plan.epsilon_household_of_4:.1f}" in text
    assert f"at two hospitals: {plan.epsilon_if_one_more_site:.2f}" in text
    twice = [replace(event, window=window, max_rounds_per_person=2) for window in ("1", "2")]
    assert f"in two rounds: {accountant.epsilon(twice, event.delta):.2f}" in text
    assert f"σ = {plan.constants.noise_multiplier:.4f}" in text
    assert f"σ_eff = {sigma:.4f}" in text
    assert f"κ = {plan.constants.scale:,.0f} " in text
    assert f"P = {plan.constants.length:,} " in text
    others = [accountant.epsilon([event], delta) for delta in (1e-5, 1e-8, 2.5e-11)]
    assert "ε = {:.2f} (1e-5), {:.2f} (1e-8), {:.2f} (2.5e-11".format(*others) in text
    all_honest = accountant.epsilon([event], event.delta, WhatIf(shares=9))
    assert f"ε is {all_honest:.2f}; that is not claimed" in text
