"""The smallest noise multiplier that keeps a target: solved for the integer mechanism and the accountant that run.

What is returned has been accounted for: the guard must never refuse what a plan promised. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from secure_frl.errors import CharterRefused
from secure_frl.privacy import accountant
from secure_frl.privacy.accountant import Schedule
from secure_frl.privacy.charging import merge
from secure_frl.privacy.pld import pld_epsilon

_SIGMA_STEP = 1e-6  # sigma is rounded up to a multiple of this
_CLOSE = 1e-4  # relative, how far below the target a sampled solution may stay
_COARSE_GRID = 1e-2  # for the start only: a percent too high, in a third of the time
_TURNS = 64


def smallest_sigma(schedule_at: Callable[[float], Schedule], target: float) -> float:
    """Return a sigma, a multiple of 1e-6, that keeps all releases within the target, and hardly more.

    schedule_at: sigma -> the announced releases. Raises CharterRefused when there is none.
    """
    sample = schedule_at(1.0)[0][0]
    solve = _full_batch if sample.sampling_rate == 1 else _sampled
    sigma = solve(schedule_at, target)
    if sigma is None:
        raise CharterRefused(
            f"expected a noise multiplier for epsilon={target:g} at delta={sample.delta:g}, got none. Raise "
            "privacy.target_epsilon or privacy.integer_noise_scale, or lower rounds, sampling_rate, "
            "max_rounds_per_person or max_sites_per_person."
        )
    return sigma


def _full_batch(schedule_at: Callable[[float], Schedule], target: float) -> float | None:
    """Start from the exact multiplier of one continuous Gaussian, and undo rounding, rounds and M."""
    sigma = ideal = accountant.smallest_gaussian_sigma(target, schedule_at(1.0)[0][0].delta)
    for _ in range(4):  # the loss to rounding hardly depends on sigma: each turn gains two digits or more
        sigma *= ideal / merge(accountant.releases_of(schedule_at(sigma)))[0][0]
    for _ in range(_TURNS):
        sigma = _rounded_up(sigma)
        spent = accountant.epsilon_of_schedule(schedule_at(sigma))
        if spent <= target:
            return sigma
        # Epsilon falls at least as fast as 1 / sigma, so this overshoots by little.
        sigma *= max(spent / target, 1 + _SIGMA_STEP) if math.isfinite(spent) else 2.0
    return None


def _sampled(schedule_at: Callable[[float], Schedule], target: float) -> float | None:
    """Bracket on a coarse grid, then follow the slope of log epsilon against log sigma on the real one."""

    def coarse(sigma: float) -> float:
        schedule = schedule_at(sigma)
        return pld_epsilon(merge(accountant.releases_of(schedule)), schedule[0][0].delta, _COARSE_GRID)

    low = high = 1.0
    while coarse(high) > target and high < 1e6:
        low, high = high, 2 * high
    while coarse(low) <= target and low > 1e-2:
        low, high = low / 2, low
    for _ in range(6):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if coarse(middle) > target else (low, middle)
    sigma, aim, slope = high, target * (1 - _CLOSE / 2), 1.5
    before: tuple[float, float] | None = None
    best: float | None = None
    for _ in range(_TURNS):
        sigma = _rounded_up(sigma)
        spent = accountant.epsilon_of_schedule(schedule_at(sigma))
        if spent <= target:
            best = sigma if best is None else min(best, sigma)
            if spent >= target * (1 - _CLOSE):
                return sigma
        if not math.isfinite(spent):
            sigma *= 2
            continue
        if before is not None and sigma != before[0]:
            slope = min(10.0, max(0.5, math.log(before[1] / spent) / math.log(sigma / before[0])))
        before = (sigma, spent)
        sigma *= (spent / aim) ** (1 / slope)
    return best


def _rounded_up(sigma: float) -> float:
    return round(math.ceil(sigma / _SIGMA_STEP) * _SIGMA_STEP, 6)
