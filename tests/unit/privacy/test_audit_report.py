"""From scores to a verdict: which bound decides, where an audit is judged, and what each outcome is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.privacy.audit import CanaryScores
from secure_frl.privacy.audit_report import BROKEN, HOLDS, INCONCLUSIVE, NOT_JUDGED, audited_release, judge, verdict
from secure_frl.privacy.events import GaussianSumEvent
from secure_frl.privacy.planning import planned_event, sum_constants
from secure_frl.study import Study


@pytest.fixture
def release(tiny: Callable[..., Study]) -> Callable[..., GaussianSumEvent]:
    """Return a function: overrides -> what an audit of the tiny study goes through; epsilon 4 at delta 1e-6."""

    def made(overrides: dict[str, object] | None = None) -> GaussianSumEvent:
        study = tiny({"privacy.delta": 1e-6, **(overrides or {})})
        return audited_release(planned_event(study, sum_constants(study)))

    return made


def scores(mu: float, count: int = 8000, seed: int = 0) -> CanaryScores:
    generator = np.random.default_rng(seed)
    included = generator.random(count) < 0.5
    return CanaryScores(included + generator.standard_normal(count) / mu, included)


@pytest.mark.parametrize(
    ("bound", "is_judged", "expected"),
    [
        (4.01, True, BROKEN),
        (4.01, False, BROKEN),
        (4.0, True, HOLDS),
        (3.0, True, HOLDS),
        (2.99, True, INCONCLUSIVE),
        (2.99, False, NOT_JUDGED),
    ],
)
def test_the_verdict_follows_from_bound_claim_and_whether_it_is_judged(
    bound: float, is_judged: bool, expected: str
) -> None:
    assert verdict(4.0, bound, is_judged=is_judged) == expected


def test_honest_scores_hold_and_scores_with_half_the_deviation_break_the_claim(
    release: Callable[..., GaussianSumEvent],
) -> None:
    claim = judge(scores(1.0), release(), 1.0)

    assert judge(scores(claim.mu_claimed), release(), 1.0).verdict == HOLDS
    assert judge(scores(2 * claim.mu_claimed), release(), 1.0).verdict == BROKEN
    assert judge(scores(0.5 * claim.mu_claimed), release(), 1.0).verdict == INCONCLUSIVE


def test_figures_of_honest_scores_stand_in_the_order_that_their_strength_says(
    release: Callable[..., GaussianSumEvent],
) -> None:
    claimed = judge(scores(1.0), release(), 1.0).mu_claimed

    report = judge(scores(claimed), release(), 1.0)

    assert report.epsilon_bound is not None
    assert report.epsilon_bound_threshold is not None
    assert report.epsilon_point_estimate is not None
    assert 0 < report.epsilon_bound_one_run < report.epsilon_bound_threshold < report.epsilon_bound
    assert report.epsilon_bound < report.epsilon_point_estimate
    assert report.claimed_epsilon == pytest.approx(4.0, abs=1e-3)
    assert report.plain()["ratio"] == report.epsilon_bound / report.claimed_epsilon


def test_a_small_epsilon_is_printed_and_not_judged(release: Callable[..., GaussianSumEvent]) -> None:
    # privacy.md, section 8: about .6 of the claim is expected at epsilon 1 and 4,000 canaries
    small = release({"privacy.target_epsilon": 1.0})
    claimed = judge(scores(1.0), small, 1.0).mu_claimed

    report = judge(scores(claimed, count=4000), small, 1.0)

    assert not report.is_judged
    assert report.verdict == NOT_JUDGED
    assert judge(scores(3 * claimed, count=4000), small, 1.0).verdict == BROKEN


def test_under_sampling_only_the_one_run_bound_is_stated(release: Callable[..., GaussianSumEvent]) -> None:
    sampled = replace(release(), sampling_rate=0.2, sampler="poisson")

    report = judge(scores(1.0), sampled, 1.0)

    assert report.epsilon_bound is None
    assert report.epsilon_bound_threshold is None
    assert report.epsilon_point_estimate is None
    assert report.deciding_bound == report.epsilon_bound_one_run
    assert report.verdict == NOT_JUDGED
    # present whenever the coin says so: what sampling was meant to hide is there for all to see
    assert judge(scores(20.0), sampled, 1.0).verdict == BROKEN


def test_an_audited_release_is_one_noised_sum(release: Callable[..., GaussianSumEvent]) -> None:
    local = {"privacy.noise": "local", "privacy.max_sites_per_person": 2, "privacy.max_rounds_per_person": 2}

    assert release({"privacy.max_rounds_per_person": 2}).max_rounds_per_person == 1
    assert release({"privacy.max_sites_per_person": 2}).max_sites_per_person == 2  # one sum moves twice
    assert release(local).max_sites_per_person == 1  # two messages, each an event


def test_a_study_without_noise_has_no_claim_to_audit(tiny: Callable[..., Study]) -> None:
    study = tiny({"privacy.noise": "unsafe-none"})

    with pytest.raises(InvalidParameter, match="no claim to audit"):
        audited_release(planned_event(study, sum_constants(study)))


def test_canaries_shorter_than_a_unit_lower_what_correct_code_is_expected_to_reach(
    release: Callable[..., GaussianSumEvent],
) -> None:
    whole, shorter = judge(scores(1.0), release(), 1.0), judge(scores(1.0), release(), 0.9)

    assert whole.expected_ratio is not None
    assert shorter.expected_ratio is not None
    assert shorter.expected_ratio < 0.95 * whole.expected_ratio
    assert shorter.mu_claimed == whole.mu_claimed
