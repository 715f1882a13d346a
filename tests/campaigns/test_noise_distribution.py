"""The production sampler against the exact one at ten million draws each: run on demand, half a minute a deviation.

The default suite compares a million from a fixed seed; here the seed is fresh and printed. Chi-square of two samples,
false-alarm probability 1e-6, on cells of equal width; the same test with noise wider by half a percent must fail.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import numpy as np
import pytest
from exact_noise import exact_discrete_gaussian
from numpy.typing import NDArray
from scipy.stats import chi2

from secure_frl.privacy.noise import discrete_gaussian
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import RandomSource

pytestmark = [pytest.mark.campaign, pytest.mark.statistical]

DRAWS = 10_000_000
PART = 1_000_000  # the exact sampler's arrays stay small
CELLS = 161  # up to four deviations: 300 draws and more in the rarest
FALSE_ALARM = 1e-6
Sampler = Callable[[int, int, RandomSource], NDArray[np.int64]]


def _counts(draw: Sampler, drawn_deviation: int, deviation: int, source: RandomSource) -> NDArray[np.int64]:
    """Draw ten million and count them in cells of a Gaussian of `deviation`."""
    edges = np.unique(np.round(np.linspace(-4, 4, CELLS) * deviation).astype(np.int64))
    counts = np.zeros(edges.size + 1, dtype=np.int64)
    for _ in range(DRAWS // PART):
        values = draw(drawn_deviation, PART, source)
        counts += np.bincount(np.searchsorted(edges, values), minlength=counts.size)
    return counts


def _p_value(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    statistic = ((first - second) ** 2 / (first + second)).sum()
    return float(chi2.sf(statistic, first.size - 1))


@pytest.mark.parametrize(("deviation", "wider"), [(200, 201), (1024, 1029), (4095, 4116)])
def test_production_agrees_with_the_exact_sampler_at_ten_million_draws(deviation: int, wider: int) -> None:
    seed = secrets.randbelow(2**63)

    production = _counts(discrete_gaussian, deviation, deviation, rehearsal_source(seed, "production"))
    exact = _counts(exact_discrete_gaussian, deviation, deviation, rehearsal_source(seed, "exact"))
    broken = _counts(discrete_gaussian, wider, deviation, rehearsal_source(seed, "wider"))

    print(f"deviation {deviation}, seed {seed}: p = {_p_value(production, exact):.3f}")
    assert _p_value(production, exact) > FALSE_ALARM
    assert _p_value(broken, exact) < FALSE_ALARM
