"""Intervals and areas against what is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from secure_frl.errors import InvalidParameter
from threat_models.statistics import (
    auc,
    auc_interval,
    auc_lower_limit,
    holm_levels,
    mean_interval,
    operating_point,
    predictive_value,
    proportion,
    roc,
)

pytestmark = pytest.mark.threats
GROUPS, EACH = 40, 20


def _gaussian(mu: float, seed: int, groups: int = GROUPS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, membership and groups of a mu-Gaussian game, whose area is Phi(mu / sqrt 2)."""
    rng = np.random.default_rng(seed)
    is_member = rng.random(groups * EACH) < 0.5
    return rng.normal(size=is_member.size) + mu * is_member, is_member, np.repeat(np.arange(groups), EACH)


def test_nothing_found_in_so_many_trials_still_has_an_upper_bound() -> None:
    # Clopper-Pearson of 0 of n is 1 - (alpha / 2)^(1 / n); 0 of 229 is at most 1.6 %.
    low, high = proportion(0, 229)

    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 229))
    assert round(high, 3) == 0.016
    assert proportion(229, 229) == pytest.approx((0.025 ** (1 / 229), 1.0))


def test_an_interval_of_a_mean_is_student_s() -> None:
    # t at 0.975 and 4 degrees of freedom is 2.7764; the deviation of 1..5 is sqrt(2.5).
    mean, low, high = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])

    assert mean == 3.0
    assert high - mean == pytest.approx(2.7764 * np.sqrt(2.5 / 5), rel=1e-4)
    assert mean - low == pytest.approx(high - mean)


def test_an_area_counts_pairs_and_ties_by_half() -> None:
    scores, is_member = np.array([3.0, 1.0, 2.0, 1.0, 0.0]), np.array([True, True, False, False, False])

    pairs = [float(x < one) + float(x == one) / 2 for one in (3, 1) for x in (2, 1, 0)]
    assert auc(scores, is_member) == pytest.approx(sum(pairs) / 6)
    assert auc(-scores, is_member) == pytest.approx(1 - sum(pairs) / 6)
    assert np.isnan(auc(scores, np.ones(5, dtype=np.bool_)))


def test_intervals_of_an_area_hold_the_known_one() -> None:
    mu, rng = 1.0, np.random.default_rng(0)
    known = norm.cdf(mu / np.sqrt(2))
    held = limit_held = 0
    for seed in range(12):
        scores, is_member, groups = _gaussian(mu, seed)
        low, high = auc_interval(scores, is_member, groups, rng)
        held += low <= known <= high
        limit_held += auc_lower_limit(scores, is_member, groups, rng) <= known

    assert held >= 9
    assert limit_held == 12


def test_a_limit_far_below_what_was_measured_is_not_vacuous() -> None:
    scores, is_member, groups = _gaussian(3.0, 0)

    assert auc_lower_limit(scores, is_member, groups, np.random.default_rng(0)) > norm.cdf(1.0 / np.sqrt(2))
    assert auc_lower_limit(scores, is_member, np.zeros_like(groups), np.random.default_rng(0)) == -np.inf


def test_decisions_that_share_a_model_are_no_independent_ones() -> None:
    scores, is_member, _ = _gaussian(1.0, 0, groups=4)
    rng = np.random.default_rng(1)
    shared = scores + np.repeat(rng.normal(size=4) * 3, EACH) * is_member  # whole models are good or bad
    alone = np.arange(shared.size)

    low, high = auc_interval(shared, is_member, np.repeat(np.arange(4), EACH), rng)
    naive_low, naive_high = auc_interval(shared, is_member, alone, rng)

    assert high - low > 2 * (naive_high - naive_low)


def test_people_whom_all_models_decide_about_are_resampled_too() -> None:
    rng = np.random.default_rng(2)
    people, models = 20, 30
    easy = np.repeat(rng.normal(size=people)[None] * 2, models, axis=0)  # some people are easy in every model
    is_member = rng.random((models, people)) < 0.5
    scores = rng.normal(size=is_member.shape) * 0.1 + np.where(is_member, easy, -easy)
    flat = (scores.ravel(), is_member.ravel(), np.repeat(np.arange(models), people))

    low, high = auc_interval(*flat, rng)
    two_low, two_high = auc_interval(*flat, rng, targets=np.tile(np.arange(people), models))

    assert two_high - two_low > 1.5 * (high - low)


def test_a_threshold_is_set_on_one_half_and_read_on_the_other() -> None:
    scores, is_member, _ = _gaussian(2.0, 5, groups=1000)
    point = operating_point(scores, is_member, 0.01, np.random.default_rng(0))

    assert point.others == (~is_member).sum() - (~is_member).sum() // 2
    low, high = point.false_interval(0.999)
    assert low <= 0.01 <= high
    low, high = point.true_interval(0.999)
    assert low <= norm.cdf(norm.ppf(0.01) + 2.0) + 0.03
    assert high >= norm.cdf(norm.ppf(0.01) + 2.0) - 0.03


def test_a_rate_that_too_few_non_members_can_show_is_refused() -> None:
    rng = np.random.default_rng(0)
    few = np.r_[np.ones(10, dtype=np.bool_), np.zeros(499, dtype=np.bool_)]

    with pytest.raises(InvalidParameter, match=r"expected 500 non-members at a rate of 0\.01, got 499"):
        operating_point(rng.normal(size=few.size), few, 0.01, rng)
    with pytest.raises(InvalidParameter, match="expected 5000"):
        operating_point(rng.normal(size=few.size), few, 0.001, rng)


def test_a_curve_of_no_knowledge_is_the_diagonal() -> None:
    scores, is_member, _ = _gaussian(0.0, 3, groups=1000)

    assert roc(scores, is_member, [0.1, 0.5]) == pytest.approx([0.1, 0.5], abs=0.02)


def test_base_rates_make_a_sharp_attack_dull() -> None:
    # The two figures of threats at a prior of 1 %: .66 / .01 names two in five rightly, .075 / .01 one in fourteen.
    assert predictive_value(0.66, 0.01, 0.01) == pytest.approx(0.40, abs=0.005)
    assert predictive_value(0.075, 0.01, 0.01) == pytest.approx(0.07, abs=0.005)
    assert predictive_value(0.0, 0.0, 0.01) == 0.0


def test_levels_of_a_family_start_at_bonferroni() -> None:
    assert holm_levels(4) == pytest.approx([1 - 0.001 / 4, 1 - 0.001 / 3, 1 - 0.001 / 2, 0.999])
