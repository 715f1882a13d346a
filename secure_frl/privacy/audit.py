"""What canaries say about a mechanism: lower confidence bounds on its loss, and how small a fault they can show.

A canary is a made-up unit that is in by a coin. Its score is how far the released sum moved in its own direction: 1
unit of shift when it is in, 0 when it is out, plus the noise. Scores in, bounds out: this file knows no mechanism,
draws nothing and opens no file. The two Gaussian bounds are bounds on mu, the shift over the noise's deviation;
`accountant` turns a mu into an epsilon. They hold for full batches only. The one-run bound holds for any mechanism.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv, ndtr, ndtri
from scipy.stats import binom

from secure_frl.errors import InvalidParameter

CONFIDENCE = 0.999  # one-sided; at 95 % correct code would be accused once in twenty audits
NORMAL_QUANTILE = float(ndtri(CONFIDENCE))
_ERROR = 1 - CONFIDENCE
_LARGEST_MU = 1e6  # stands for a mechanism without noise
_GUESS_NUMBERS = 20  # of guesses that are compared before an audit, from 20 to all


@dataclass(frozen=True, slots=True, eq=False)
class CanaryScores:
    """Scores of m canaries with their coins. Raises InvalidParameter unless both sides have two canaries or more."""

    values: NDArray[np.float64] = field(repr=False)  # [m], in shifts of one canary
    included: NDArray[np.bool_] = field(repr=False)  # [m]

    def __post_init__(self) -> None:
        inside = int(np.count_nonzero(self.included))
        if self.values.ndim != 1 or self.values.shape != self.included.shape or not np.isfinite(self.values).all():
            raise InvalidParameter("expected one finite score a canary, got others. Score every canary once.")
        if min(inside, self.values.size - inside) < 2:
            raise InvalidParameter(
                f"expected two canaries in and two out, got {inside} of {self.values.size} in. Plant more canaries."
            )


@dataclass(frozen=True, slots=True)
class MeanShift:
    """mu as measured, and its lower confidence bound. The estimate proves nothing."""

    estimate: float
    lower: float


def standard_error(mu: float, inside: float, outside: float) -> float:
    """Return the deviation of the measured mu: sqrt(1/n1 + 1/n0 + mu^2 / 2(n1 + n0)).

    Source: Hedges and Olkin 1985, chapter 5, equation 14: the large-sample variance of a standardised difference.
    """
    return math.sqrt(1 / inside + 1 / outside + mu * mu / (2 * (inside + outside)))


def mean_shift(scores: CanaryScores) -> MeanShift:
    """Return the difference of the means over the pooled deviation, with its 99.9 % lower bound.

    For Gaussian noise of one deviation in and out, which full batches have. The lower bound is at least 0.
    """
    inside, outside = scores.values[scores.included], scores.values[~scores.included]
    pooled = (inside.size * inside.var() + outside.size * outside.var()) / (scores.values.size - 2)
    difference = float(inside.mean() - outside.mean())
    estimate = difference / math.sqrt(pooled) if pooled > 0 else math.copysign(_LARGEST_MU, difference)
    estimate = max(-_LARGEST_MU, min(_LARGEST_MU, estimate))
    lower = estimate - NORMAL_QUANTILE * standard_error(estimate, inside.size, outside.size)
    return MeanShift(estimate, max(0.0, lower))


def threshold_lower_mu(scores: CanaryScores) -> float:
    """Return a 99.9 % lower bound on mu from one threshold, half a shift, chosen before the scores were seen.

    Phi^-1(TPR) - Phi^-1(FPR) with exact binomial limits, each at half of the error; at least 0.
    Source: Dong, Roth and Su 2022, Definition 2.6 (the trade-off curve of mu-GDP); Nasr et al. 2023, section 4.
    """
    above = scores.values > 0.5
    hits, inside = int(above[scores.included].sum()), int(scores.included.sum())
    alarms, outside = int(above[~scores.included].sum()), int((~scores.included).sum())
    least = float(betaincinv(hits, inside - hits + 1, _ERROR / 2)) if hits else 0.0
    most = float(betaincinv(alarms + 1, outside - alarms, 1 - _ERROR / 2)) if alarms < outside else 1.0
    return max(0.0, float(ndtri(least) - ndtri(most)))


# --- the one-run bound -----------------------------------------------------------------------------------------------


def one_run_p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return a bound on P(at least `correct` of `guesses` right) when the mechanism is (epsilon, delta)-private.

    canaries: m, each in by a fair coin. guesses: r <= m; the others were abstained from.
    beta + 2 m delta max over i of P(v - i <= W < v) / i, W binomial(r, e^eps / (1 + e^eps)), v = correct.
    Source: Steinke, Nasr and Jagielski 2023, Theorem 5.2; abstentions as there.
    """
    if not 0 <= correct <= guesses <= canaries or epsilon < 0 or not 0 <= delta <= 1:
        raise InvalidParameter(
            f"expected 0 <= correct <= guesses <= canaries, epsilon >= 0 and delta in [0, 1], got {correct}, "
            f"{guesses}, {canaries}, {epsilon} and {delta}. Count the guesses again."
        )
    accuracy = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, accuracy))
    if correct == 0:
        return 1.0
    steps = np.arange(1, correct + 1)
    below = np.cumsum(binom.pmf(correct - steps, guesses, accuracy))
    return min(1.0, tail + 2 * canaries * delta * float((below / steps).max()))


def one_run_epsilon(canaries: int, guesses: int, correct: int, delta: float, tolerance: float = 1e-6) -> float:
    """Return the greatest epsilon that so many right guesses refute with 99.9 % confidence; 0 if none.

    It is a bound for any mechanism, composed and sampled ones included, and far below the truth for a Gaussian.
    """

    def excess(epsilon: float) -> float:
        return one_run_p_value(canaries, guesses, correct, epsilon, delta) - _ERROR

    if excess(0.0) >= 0:
        return 0.0
    highest = 1.0
    while highest < 64 and excess(highest) < 0:
        highest *= 2
    return float(brentq(excess, 0.0, highest, xtol=tolerance)) if excess(highest) > 0 else highest


def count_guesses(scores: CanaryScores, guesses: int, sampling_rate: float) -> int:
    """Return how many of `guesses` are right: the highest scores are called in and the lowest out, half each.

    Below q = 1 a low score says next to nothing, so all guesses are the highest scores, called in.
    """
    order = np.argsort(scores.values, kind="stable")
    called_out = guesses // 2 if sampling_rate == 1 else 0
    called_in = guesses - called_out
    right = int(scores.included[order[scores.values.size - called_in :]].sum())
    return right + int((~scores.included[order[:called_out]]).sum())


def best_guesses(canaries: int, mu: float, sampling_rate: float, delta: float) -> int:
    """Return how many guesses give the highest bound when the mechanism is what it claims.

    Chosen before any score is seen, from public numbers, so that the bound needs no correction for choosing.
    """
    distances = np.linspace(0.0, 8.0 / max(mu, 1e-9), 400)  # of a called score from the middle, or from 0, in shifts
    if sampling_rate == 1:
        right = ndtr(mu * (0.5 - distances))
        wrong = ndtr(-mu * (0.5 + distances))
    else:
        absent = ndtr(-mu * distances)
        right = ((1 - sampling_rate) * absent + sampling_rate * ndtr(-mu * (distances - 1))) / 2
        wrong = absent / 2
    counts, hits = canaries * (right + wrong), canaries * right
    tried = np.geomspace(min(20, canaries), max(counts[0], 1.0), _GUESS_NUMBERS)
    accuracies = np.interp(-tried, -counts, hits / counts)  # counts fall with the distance
    bounds = [
        one_run_epsilon(canaries, int(count), int(count * accuracy), delta, tolerance=1e-2)
        for count, accuracy in zip(tried, accuracies, strict=True)
    ]
    return max(2, int(tried[int(np.argmax(bounds))]))


# --- what an audit of m canaries can see -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Power:
    """What the mean-shift bound on mu comes to for correct code, and the smallest fault that it shows."""

    expected_mu: float  # of the bound
    least_mu: float  # which the bound of correct code passes in 99.9 % of audits
    variance_factor: float  # noise variance that is caught in 99.9 % of audits, over the claimed one


def power(canaries: int, mu: float, claimed_mu: float) -> Power:
    """Return what an audit with `canaries` can show. mu: of correct code. claimed_mu >= mu: what the claim allows.

    The fault is noise of variance f times the claimed one, so mu / sqrt(f): the bound passes claimed_mu in 99.9 % of
    audits once mu / sqrt(f) lies twice 3.09 standard errors above it.
    """
    half = canaries / 2

    def below(value: float, quantiles: float) -> float:
        return value - quantiles * NORMAL_QUANTILE * standard_error(value, half, half)

    expected, least = max(0.0, below(mu, 1)), max(0.0, below(mu, 2))
    if below(_LARGEST_MU, 2) <= claimed_mu:  # so few canaries that no fault stands out
        return Power(expected, least, 0.0)
    seen = float(brentq(lambda value: below(value, 2) - claimed_mu, 0.0, _LARGEST_MU, xtol=1e-12))
    return Power(expected, least, (mu / seen) ** 2)
