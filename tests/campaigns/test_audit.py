"""The audit of the shipped study on many seeds: each fault caught in every one, correct code accused in none."""

from __future__ import annotations

from pathlib import Path

import pytest

from secure_frl.federation.audit_study import audit_study
from secure_frl.privacy.audit_report import BROKEN, HOLDS, LEAST_RATIO
from secure_frl.study import Study
from secure_frl.study_file import load_study
from threat_models.audit_faults import DIVIDED, DOUBLED, HALVED, MISSING, audit_faults

pytestmark = [pytest.mark.campaign, pytest.mark.statistical]

SHIPPED = Path(__file__).parents[2] / "examples" / "icu_sepsis" / "study.toml"
FAULTS = (HALVED, DOUBLED, DIVIDED, MISSING)


def _study(epsilon: float, seed: int) -> Study:
    return load_study(SHIPPED, {"privacy.target_epsilon": epsilon, "study.seed": seed})


@pytest.mark.parametrize("epsilon", [4.0, 8.0])
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_caught_in_twenty_of_twenty_audits(fault: str, epsilon: float) -> None:
    caught = []
    for seed in range(20):
        study = _study(epsilon, seed)
        report = audit_study(study, parts=audit_faults(study)[fault])
        caught.append(report.verdict == BROKEN and report.ratio > 1)

    assert sum(caught) == 20


@pytest.mark.parametrize("epsilon", [4.0, 8.0])
def test_correct_code_is_above_its_claim_in_none_of_a_hundred_audits(epsilon: float) -> None:
    reports = [audit_study(_study(epsilon, seed)) for seed in range(100)]
    ratios = sorted(report.ratio for report in reports)
    print(f"epsilon {epsilon:g}: bound/claim {ratios[0]:.3f} to {ratios[-1]:.3f}, median {ratios[50]:.3f}")

    assert ratios[-1] <= 1.0
    # by the rule each is judged, and fewer than one in a thousand may be inconclusive
    assert all(report.is_judged for report in reports)
    assert ratios[0] >= LEAST_RATIO
    assert {report.verdict for report in reports} == {HOLDS}


def test_the_one_run_bound_is_never_above_the_claim_either() -> None:
    assert max(audit_study(_study(4.0, seed)).epsilon_bound_one_run for seed in range(20)) < 4.0
