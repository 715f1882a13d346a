"""The audit's row: correct code stays below its claim, and halved noise does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from secure_frl.study_file import load_study
from threat_models.evaluation import Effort
from threat_models.evaluations import dp_audit
from threat_models.results import Kind, Verdict, judge

pytestmark = [pytest.mark.threats, pytest.mark.statistical]
STUDY = load_study(Path(__file__).parents[3] / "examples" / "icu_sepsis" / "study.toml")


def test_the_control_is_above_its_claim_and_correct_code_between_three_quarters_and_one() -> None:
    effort = Effort(quick=True)
    cells = [*dp_audit._measure(4.0, True, STUDY, effort), *dp_audit._measure(4.0, False, STUDY, effort)]
    broken, correct = cells

    assert broken.kind is Kind.CONTROL
    assert broken.value > broken.figures["claimed"]
    assert 0.75 * correct.figures["claimed"] <= correct.value <= correct.figures["claimed"]
    assert correct.figures["shares"] == STUDY.sites.min_survivors - STUDY.sites.max_colluders
    assert judge(cells) == [Verdict.WINS, Verdict.HOLDS]


def test_an_audit_that_would_take_hours_is_not_tested() -> None:
    one_a_site = load_study(Path(__file__).parents[3] / "examples" / "cartpole" / "dqn.toml")

    assert dp_audit.AuditEvaluation().why_not(one_a_site)
    assert not dp_audit.AuditEvaluation().why_not(STUDY)
