"""The sum of h discrete Gaussians against its own exact privacy curve: no accountant, no continuous Gaussian in it.

The probabilities of the sum are convolved from the definition, and delta(eps) is the sum of what exceeds e^eps times
the shifted probabilities. h = 10 shares, d = 5,317 coordinates, delta = 1e-5.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import sum_events
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.signal import fftconvolve
from sum_events import gaussian_epsilon

from secure_frl.privacy.accountant import epsilon

SHARES, LENGTH, DELTA = 10, 5317, 1e-5
event = partial(sum_events.event, delta=DELTA, deviation=1024, length=LENGTH, honest=SHARES)


def sum_of_shares(shares: int, deviation: int) -> NDArray[np.float64]:
    """Return P(X = k) of the sum of `shares` discrete Gaussians, k from -reach to reach."""
    support = np.arange(-12 * deviation, 12 * deviation + 1)
    one = np.exp(-(support.astype(np.float64) ** 2) / (2.0 * deviation**2))
    one /= one.sum()
    total = one
    for _ in range(shares - 1):
        total = fftconvolve(total, one)
        middle, reach = total.size // 2, int(12 * deviation * math.sqrt(shares))
        total = np.maximum(total[max(0, middle - reach) : middle + reach + 1], 0)  # beyond it: below 1e-30
    return total


def exact_epsilon(probabilities: NDArray[np.float64], shift: int, delta: float) -> float:
    """Return epsilon of a query that moves by `shift` under this noise: the hockey-stick divergence, solved."""
    stays = np.concatenate([probabilities, np.zeros(shift)])
    moved = np.concatenate([np.zeros(shift), probabilities])

    def spent(eps: float) -> float:
        return float(np.maximum(stays - math.exp(eps) * moved, 0).sum())

    return float(brentq(lambda eps: spent(eps) - delta, 0, 40))


# Epsilon is 8, 4.38, 1.99 and 1. Beyond sigma = 2 the price of rounding passes three thousandths at S = 1,024 (it is
# .6 % at sigma = 3.731): a study with more noise than that takes a finer grid.
@pytest.mark.parametrize(("sigma", "deviation"), [(0.6, 1024), (1.0, 1024), (2.0, 1024), (3.731, 2048)])
def test_the_claim_covers_the_exact_curve_and_is_within_three_thousandths_of_the_ideal(
    sigma: float, deviation: int
) -> None:
    made = event(sigma, deviation=deviation)
    sum_of_ten = sum_of_shares(SHARES, deviation)

    claimed = epsilon([made], DELTA)

    assert exact_epsilon(sum_of_ten, math.ceil(made.scale), DELTA) <= claimed
    # The whole rounded shift on one coordinate, rounded up once more: the accountant's grid is all that is between.
    assert exact_epsilon(sum_of_ten, math.ceil(made.rounding_bound), DELTA) <= claimed * 1.001
    assert gaussian_epsilon(sigma, DELTA) < claimed <= 1.003 * gaussian_epsilon(sigma, DELTA)


def test_the_exact_curve_of_nine_shares_or_of_twice_the_shift_is_above_the_claim() -> None:
    made = event(1.0)
    claimed = epsilon([made], DELTA)

    assert exact_epsilon(sum_of_shares(SHARES - 1, 1024), math.ceil(made.scale), DELTA) > 1.05 * claimed
    assert exact_epsilon(sum_of_shares(SHARES, 1024), 2 * math.ceil(made.scale), DELTA) > 2 * claimed


def test_the_privacy_loss_of_the_sum_is_that_of_one_gaussian_at_the_smallest_deviation() -> None:
    # Log P(x) is quadratic in x, so a shift over many coordinates loses a linear function of x, as for a Gaussian.
    deviation, shares = 64, 10  # 64: no study may take less
    one = np.exp(-(np.arange(-700.0, 701.0) ** 2) / (2.0 * deviation**2))
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)  # directly: no cancellation, so even small probabilities are exact
    middle, reach = total.size // 2, int(8 * deviation * math.sqrt(shares))
    x = np.arange(-reach, reach + 1)

    log_ratio = np.log(total[middle - reach : middle + reach + 1] / total[middle])

    assert np.abs(log_ratio + x**2 / (2 * shares * deviation**2)).max() < 1e-9
