"""The audit's row: correct code stays below its claim, and none of four faults does."""

from __future__ import annotations

from pathlib import Path

import pytest

from secure_frl.study_file import load_study
from threat_models.audit_faults import DIVIDED, DOUBLED, HALVED, MISSING, audit_faults
from threat_models.defences import changed
from threat_models.evaluation import Effort
from threat_models.evaluations import dp_audit
from threat_models.results import Kind, Verdict, judge

pytestmark = [pytest.mark.threats, pytest.mark.statistical]
STUDY = load_study(Path(__file__).parents[3] / "examples" / "icu_sepsis" / "study.toml")


def test_each_fault_is_a_control_above_its_claim_and_correct_code_between_three_quarters_and_one() -> None:
    effort = Effort()
    tasks = [task for task in dp_audit.AuditEvaluation().tasks(STUDY, effort) if task.title.endswith("epsilon 4")]
    cells = [cell for task in tasks for cell in task.measure(STUDY, effort)]
    correct, broken = cells[-1], cells[:-1]

    assert [cell.defence for cell in broken] == [HALVED, DOUBLED, MISSING, DIVIDED]
    assert {cell.kind for cell in broken} == {Kind.CONTROL}
    assert all(cell.value > cell.figures["claimed"] for cell in broken)
    assert 0.75 * correct.figures["claimed"] <= correct.value <= correct.figures["claimed"]
    assert correct.figures["shares"] == STUDY.sites.min_survivors - STUDY.sites.max_colluders
    assert judge(cells) == [Verdict.WINS] * 4 + [Verdict.HOLDS]
    assert len({cell.defence_digest for cell in cells}) == 1  # a fault is in the code, not in what was promised
    assert cells[0].defence_digest


def test_a_fault_that_a_batch_of_one_does_not_have_is_no_control() -> None:
    assert DIVIDED not in audit_faults(changed(STUDY, {"training.episodes_per_site": 1}))


def test_an_audit_that_would_take_hours_is_not_tested() -> None:
    one_a_site = load_study(Path(__file__).parents[3] / "examples" / "cartpole" / "dqn.toml")

    assert dp_audit.AuditEvaluation().why_not(one_a_site)
    assert not dp_audit.AuditEvaluation().why_not(STUDY)
