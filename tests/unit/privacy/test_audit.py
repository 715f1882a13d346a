"""The audit's statistics: against the design's computed figures, exact fractions, and simulated scores of known mu."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian, get_sigma_gaussian
from scipy.stats import norm

from secure_frl.errors import InvalidParameter
from secure_frl.privacy import audit
from secure_frl.privacy.audit import CanaryScores


def scores(mu: float, count: int, generator: np.random.Generator) -> CanaryScores:
    """Scores of a Gaussian mechanism: shift 1, deviation 1 / mu."""
    included = generator.random(count) < 0.5
    return CanaryScores(included + generator.standard_normal(count) / mu, included)


@pytest.mark.parametrize(
    ("epsilon", "ratio", "variance_factor"), [(4.0, 0.87, 0.67), (8.0, 0.92, 0.77), (1.0, 0.6, None)]
)
def test_power_at_4000_canaries_is_the_computed_one(
    epsilon: float, ratio: float, variance_factor: float | None
) -> None:
    # privacy.md, section 8, delta = 1e-5
    mu = 1 / get_sigma_gaussian(epsilon, 1e-5)

    found = audit.power(4000, mu, mu)

    assert get_epsilon_gaussian(1 / found.expected_mu, 1e-5) / epsilon == pytest.approx(ratio, abs=0.008)
    if variance_factor is not None:
        assert found.variance_factor == pytest.approx(variance_factor, abs=0.008)


def test_more_canaries_see_smaller_faults_and_a_handful_sees_none() -> None:
    factors = [audit.power(count, 0.84, 0.84).variance_factor for count in (10, 1000, 4000, 16000)]

    assert factors[0] == 0.0
    assert factors == sorted(factors)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("bound", "mu", "least"), [("shift", 0.5, 0.3), ("shift", 1.5, 0.75), ("threshold", 1.5, 0.55)]
)
def test_lower_bounds_are_above_the_true_mu_once_in_a_thousand(bound: str, mu: float, least: float) -> None:
    # 3,000 audits; 3 exceedances expected, 15 or more with probability 1e-6; a 99 % bound would have 30
    generator = np.random.default_rng(1)
    lower = {"shift": lambda s: audit.mean_shift(s).lower, "threshold": audit.threshold_lower_mu}[bound]

    found = np.array([lower(scores(mu, 500, generator)) for _ in range(3000)])

    assert int((found > mu).sum()) < 15
    assert np.median(found) > least * mu


def test_the_threshold_bound_is_that_of_exact_binomial_limits() -> None:
    # Clopper and Pearson 1934 at .0005 a side: n of n above prove TPR >= .0005^(1/n), none of n FPR <= 1 - .0005^(1/n).
    included = np.arange(60) < 20

    found = audit.threshold_lower_mu(CanaryScores(included.astype(np.float64), included))

    assert found == pytest.approx(norm.ppf(0.0005 ** (1 / 20)) - norm.ppf(1 - 0.0005 ** (1 / 40)), abs=1e-9)


@pytest.mark.statistical
def test_the_stated_standard_error_is_the_deviation_of_the_estimate() -> None:
    # 3,000 draws know a deviation to 1.3 %: five of those are 6.5 %
    generator = np.random.default_rng(2)

    found = [audit.mean_shift(scores(1.5, 1000, generator)).estimate for _ in range(3000)]

    assert np.std(found) == pytest.approx(audit.standard_error(1.5, 500, 500), rel=0.065)
    assert np.mean(found) == pytest.approx(1.5, abs=0.01)


@pytest.mark.statistical
def test_noise_at_the_stated_factor_is_caught() -> None:
    # Missed once in a thousand: 6 or more of 300 with probability 1e-6.
    generator, mu = np.random.default_rng(3), 1 / get_sigma_gaussian(4.0, 1e-6)
    fault = mu / math.sqrt(audit.power(8000, mu, mu).variance_factor)

    missed = sum(audit.mean_shift(scores(fault, 8000, generator)).lower <= mu for _ in range(300))

    assert missed < 6


def test_scores_without_any_noise_give_a_huge_but_finite_mu() -> None:
    included = np.arange(100) % 2 == 0

    found = audit.mean_shift(CanaryScores(included.astype(np.float64), included))

    assert 1e5 < found.lower < found.estimate < math.inf


def test_canaries_that_never_arrived_prove_nothing() -> None:
    included = np.arange(1000) % 2 == 0
    noise = np.random.default_rng(0).standard_normal(1000)

    assert audit.mean_shift(CanaryScores(noise - included, included)).lower == 0.0
    assert audit.threshold_lower_mu(CanaryScores(noise - included, included)) == 0.0


@pytest.mark.parametrize(
    ("values", "included"),
    [
        (np.zeros(4), np.array([True, False, False, False])),
        (np.array([0.0, math.nan, 1.0, 1.0]), np.array([True, True, False, False])),
        (np.zeros(3), np.array([True, True, False, False])),
    ],
)
def test_scores_that_say_nothing_are_refused(values: np.ndarray, included: np.ndarray) -> None:
    with pytest.raises(InvalidParameter):
        CanaryScores(values, included)


# --- the one-run bound -----------------------------------------------------------------------------------------------


def exact_p_value(m: int, r: int, v: int, odds: int, delta: Fraction) -> Fraction:
    """Steinke, Nasr and Jagielski 2023, Theorem 5.2 with e^epsilon = `odds`, by sums of exact fractions."""
    q = Fraction(odds, odds + 1)
    pmf = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    alpha = max((sum(pmf[v - i : v]) / i for i in range(1, v + 1)), default=Fraction(0))
    return min(Fraction(1), sum(pmf[v:]) + 2 * m * delta * alpha)


@pytest.mark.parametrize(("m", "r", "v"), [(40, 40, 31), (40, 12, 12), (200, 30, 27), (10, 10, 0), (10, 4, 1)])
@pytest.mark.parametrize("odds", [1, 3, 20])
@pytest.mark.parametrize("delta", [Fraction(0), Fraction(1, 10_000), Fraction(1, 20)])
def test_one_run_p_value_is_the_theorem_in_exact_fractions(m: int, r: int, v: int, odds: int, delta: Fraction) -> None:
    found = audit.one_run_p_value(m, r, v, math.log(odds), float(delta))

    expected = 1.0 if v == 0 else float(exact_p_value(m, r, v, odds, delta))
    assert found == pytest.approx(expected, rel=1e-9)


def test_one_run_epsilon_of_a_hundred_right_guesses_has_a_closed_form() -> None:
    # delta = 0, all right: P = q^100 = .001, so e^eps = q / (1 - q)
    q = 0.001 ** (1 / 100)

    assert audit.one_run_epsilon(100, 100, 100, 0.0) == pytest.approx(math.log(q / (1 - q)), abs=1e-5)
    assert audit.one_run_epsilon(100, 100, 50, 0.0) == 0.0


def test_one_run_epsilon_grows_with_right_guesses_and_falls_with_delta_and_abstentions() -> None:
    by_right = [audit.one_run_epsilon(1000, 200, right, 1e-6) for right in (110, 140, 170, 200)]
    by_delta = [audit.one_run_epsilon(1000, 200, 190, delta) for delta in (0.0, 1e-6, 1e-4, 1e-2)]
    by_canaries = [audit.one_run_epsilon(count, 200, 190, 1e-5) for count in (200, 2000, 20000)]

    assert by_right == sorted(by_right)
    assert by_right[0] < by_right[-1]
    assert by_delta == sorted(by_delta, reverse=True)
    assert by_canaries == sorted(by_canaries, reverse=True)


@pytest.mark.statistical
def test_one_run_epsilon_of_randomised_response_is_above_the_truth_once_in_a_thousand() -> None:
    # Randomised response meets the theorem with equality. 20,000 audits: 20 expected at most, 45 with probability 1e-6.
    right = np.random.default_rng(4).binomial(300, 3 / 4, size=20_000)
    bounds = {int(value): audit.one_run_epsilon(300, 300, int(value), 0.0) for value in np.unique(right)}

    above = sum(bounds[int(value)] > math.log(3) for value in right)

    assert above < 45
    assert above > 0  # the bound is not idle: this mechanism is exactly as bad as allowed


def test_guesses_are_the_ends_of_the_order_and_only_its_top_under_sampling() -> None:
    included = np.array([True, False, True, False, True, False])
    values = np.array([9.0, 8.0, 7.0, 1.0, 2.0, 3.0])

    found = CanaryScores(values, included)

    assert audit.count_guesses(found, 4, 1.0) == 2  # 9 in (right), 8 in (wrong), 1 out (right), 2 out (wrong)
    assert audit.count_guesses(found, 3, 0.5) == 2  # 9 and 7


@pytest.mark.parametrize(("rate", "delta"), [(1.0, 1e-6), (0.5, 1e-5)])
def test_the_number_of_guesses_is_as_good_as_any_other(rate: float, delta: float) -> None:
    # With delta = 1e-5 few guesses prove nothing: 2 m delta = .16 of the theorem's second term.
    generator = np.random.default_rng(5)
    made = []
    for _ in range(6):
        included = generator.random(8000) < 0.5
        present = included & (generator.random(8000) < rate)
        made.append(CanaryScores(present + generator.standard_normal(8000) / 1.5, included))

    def mean_bound(guesses: int) -> float:
        return float(
            np.mean([audit.one_run_epsilon(8000, guesses, audit.count_guesses(s, guesses, rate), delta) for s in made])
        )

    chosen = mean_bound(audit.best_guesses(8000, 1.5, rate, delta))
    assert chosen > 0.5
    assert chosen > 0.85 * max(mean_bound(guesses) for guesses in (40, 200, 1000, 5000))
