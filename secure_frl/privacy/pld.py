"""Epsilon of composed Gaussians by dp-accounting's privacy loss distributions, rounded up. No torch.

dp-accounting takes seconds to import, so it is imported on first use.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from secure_frl.privacy.charging import Mechanism

PLD_GRID = 1e-3  # dp-accounting, pessimistic rounding
_FINE_GRID = 1e-4  # where one release loses so little that rounding up on the other grid would show
_SMALL_LOSS = 0.01  # deviation of the privacy loss of one sampled release; measured: .3 % of epsilon at .005
_SMALLEST_SIGMA = 0.02  # below it epsilon is above 1,000


def pld_epsilon(mechanisms: tuple[Mechanism, ...], delta: float, grid: float | None = None) -> float:
    """Return epsilon of the composed mechanisms by PLD, rounded up on a grid; None = the one of every statement."""
    if any(sigma < _SMALLEST_SIGMA for sigma, _, _ in mechanisms):
        return math.inf
    return float(_composed(mechanisms, grid or _grid(mechanisms)).get_epsilon_for_delta(delta))


@lru_cache(maxsize=256)
def _composed(mechanisms: tuple[Mechanism, ...], grid: float) -> Any:  # Any: dp-accounting has no types
    """Return the privacy loss distribution of all mechanisms together; only ever read after this."""
    together = None
    for mechanism in mechanisms:
        one = _self_composed(*mechanism, grid)
        together = one if together is None else together.compose(one)
    return together


# A guard asks again after each round, with one more copy of one mechanism: the others stay as they were.
@lru_cache(maxsize=64)
def _self_composed(sigma: float, rate: float, copies: int, grid: float) -> Any:  # Any: as above
    one = _single(sigma, rate, grid)
    return one if copies == 1 else one.self_compose(copies)


@lru_cache(maxsize=64)
def _single(sigma: float, rate: float, grid: float) -> Any:  # Any: as above
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        sigma, value_discretization_interval=grid, sampling_prob=rate
    )


def _grid(mechanisms: tuple[Mechanism, ...]) -> float:
    """Return the grid on which rounding up costs less than half a percent of epsilon."""
    # q sqrt(e^(1/sigma^2) - 1): root of the chi-square divergence of the sampled Gaussian from the Gaussian.
    losses = [rate * math.sqrt(math.expm1(min(1 / sigma**2, 700.0))) for sigma, rate, _ in mechanisms if rate < 1]
    return _FINE_GRID if losses and min(losses) < _SMALL_LOSS else PLD_GRID
