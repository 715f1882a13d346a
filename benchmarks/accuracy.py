"""The stated epsilon beside others' accountants: dp-accounting's PLD on a finer grid, Opacus' PRV and closed forms.

Every setting goes the production way, from an event to a stated epsilon, on the finest grid and one coordinate, so
that the integer mechanism is nearly the ideal Gaussian of the others. Lower bounds are the exact trade-off at q = 1
(Balle and Wang 2018), else the greater of PLD rounded down and PRV's own lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import dp_accounting
import numpy as np
from dp_accounting.pld import PLDAccountant, privacy_loss_distribution
from figures import Figure, at_least, at_most
from releases import release
from scipy.optimize import brentq
from scipy.stats import norm

from secure_frl.privacy.accountant import epsilon
from secure_frl.privacy.events import GaussianSumEvent

FINE_GRID = 1e-4
_PRV_ERROR = 0.005  # asked of PRV, each way
_HONEST = 99
_DEVIATION = 8192


@dataclass(frozen=True)
class Setting:
    """`releases` noised sums with one multiplier and sampling rate, on the same units."""

    sigma: float
    rate: float
    releases: int
    delta: float


SETTINGS = tuple(
    Setting(*values)
    for values in (
        (0.600, 1, 1, 1e-5),
        (1.081, 1, 1, 1e-5),
        (1.391, 1, 1, 1e-5),
        (3.731, 1, 1, 1e-5),
        (0.653, 1, 1, 1e-6),
        (1.194, 1, 1, 1e-6),
        (4.225, 1, 1, 1e-6),
        (30.0, 1, 1, 1e-5),
        (26.4, 1, 50, 1e-5),
        (9.83, 1, 50, 1e-5),
        (4.25, 1, 50, 1e-5),
        (19.7, 1, 200, 1e-5),
        (8.49, 1, 200, 1e-8),
        (2.931, 0.1, 50, 1e-5),
        (1.350, 0.1, 50, 1e-5),
        (0.803, 0.1, 50, 1e-5),
        (5.432, 0.1, 200, 1e-5),
        (2.179, 0.1, 200, 1e-5),
        (1.129, 0.1, 200, 1e-5),
        (2.179, 0.1, 200, 1e-7),
        (0.600, 0.02, 100, 1e-5),
        (0.800, 0.01, 2000, 1e-5),
        (1.000, 0.001, 5000, 1e-6),
        (1.500, 0.25, 20, 1e-5),
        (4.000, 0.5, 60, 1e-5),
        (10.00, 0.05, 10, 1e-5),
        (1.081, 0.9, 1, 1e-5),
    )
)


def event_of(setting: Setting) -> GaussianSumEvent:
    """Return the setting as one release of so many noised sums."""
    return release(
        setting.sigma,
        delta=setting.delta,
        honest_shares=_HONEST,
        length=1,
        deviation=_DEVIATION,
        composition_group="ward",
        noised_sums=setting.releases,
        sampling_rate=setting.rate,
    )


def stated(setting: Setting) -> float:
    """Return the epsilon that a site would book and `verify` would recompute."""
    return epsilon([event_of(setting)], setting.delta)


def pld(setting: Setting) -> float:
    """Return dp-accounting's epsilon of the ideal mechanism, rounded up on a grid of 1e-4."""
    one = dp_accounting.GaussianDpEvent(setting.sigma)
    sampled = one if setting.rate == 1 else dp_accounting.PoissonSampledDpEvent(setting.rate, one)
    accountant = PLDAccountant(value_discretization_interval=FINE_GRID)
    accountant.compose(sampled, setting.releases)
    return float(accountant.get_epsilon(setting.delta))


def gaussian(sigma: float, delta: float) -> float:
    """Return the exact epsilon of one Gaussian release. Source: Balle and Wang 2018, Theorem 8."""
    mu = 1 / sigma

    def excess(eps: float) -> float:
        return float(norm.cdf(mu / 2 - eps / mu) - math.exp(eps + norm.logcdf(-mu / 2 - eps / mu))) - delta

    return float(brentq(excess, 0, 60, xtol=1e-13))


def prv(setting: Setting) -> tuple[float, float]:
    """Return PRV's lower bound and estimate. Source: Gopi, Lee and Wutschitz 2021, as in Opacus; q < 1 only."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(setting.sigma, setting.rate, setting.releases)]
    slack = setting.delta / 1000
    discrete = accountant._get_dprv(eps_error=_PRV_ERROR, delta_error=slack)
    low, estimate, _ = discrete.compute_epsilon(setting.delta, slack, _PRV_ERROR)
    return float(low), float(estimate)


def lower_bound(setting: Setting) -> float:
    """Return the greatest figure that the true epsilon is known not to be below."""
    if setting.rate == 1:
        return gaussian(setting.sigma / math.sqrt(setting.releases), setting.delta)
    rounded_down = privacy_loss_distribution.from_gaussian_mechanism(
        setting.sigma,
        pessimistic_estimate=False,
        value_discretization_interval=FINE_GRID,
        sampling_prob=setting.rate,
        use_connect_dots=False,
    ).self_compose(setting.releases)
    return max(float(rounded_down.get_epsilon_for_delta(setting.delta)), prv(setting)[0])


def figures() -> Iterator[Figure]:
    """Yield every figure of the accountant beside its bar."""
    ours = np.array([stated(setting) for setting in SETTINGS])
    yield at_least("epsilon_settings", len(SETTINGS), 20, "settings")
    yield at_most("epsilon_over_pld_1e-4", max(ours / [pld(one) for one in SETTINGS]), 1.005, "ratio")
    yield at_least("epsilon_over_lower_bound", min(ours / [lower_bound(one) for one in SETTINGS]), 1.0, "ratio")
    unsampled = [(mine, one) for mine, one in zip(ours, SETTINGS, strict=True) if one.rate == 1]
    closed = [mine / gaussian(one.sigma / math.sqrt(one.releases), one.delta) for mine, one in unsampled]
    yield at_most("epsilon_over_closed_form", max(closed), 1.005, "ratio")
    sampled = [(mine, one) for mine, one in zip(ours, SETTINGS, strict=True) if one.rate < 1]
    # PRV is known to its own error only, and that error is what may lie between the two.
    apart = max(abs(mine - prv(one)[1]) for mine, one in sampled)
    yield at_most("epsilon_minus_prv", apart, 2 * _PRV_ERROR, "epsilon")
    together, apart_in_time = two_sites(), two_rounds()
    yield Figure("epsilon_two_sites", round(together, 4), "epsilon", "9.08-9.10", 9.08 <= together <= 9.10)
    yield Figure("epsilon_two_rounds", round(apart_in_time, 4), "epsilon", "5.98-6.00", 5.98 <= apart_in_time <= 6.0)


def two_sites() -> float:
    """Return epsilon of a person at two sites of one sum: the shift doubles."""
    once = Setting(1.081, 1, 1, 1e-5)
    return epsilon([replace(event_of(once), max_sites_per_person=2)], once.delta)


def two_rounds() -> float:
    """Return epsilon of the same person in two rounds: two releases compose."""
    return stated(Setting(1.081, 1, 2, 1e-5))
