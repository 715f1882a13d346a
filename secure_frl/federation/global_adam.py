"""Adam on the mean of what sites sent, and its form for sums whose noise is known. Pure NumPy float64, no libm.

Like every step it is taken by whoever may read the sum, and all must get the same bytes: beside sums and products there
are only square roots, which every machine rounds correctly, and powers are repeated products.

Under privacy a squared noisy mean is the square of the mean plus the variance of the noise, and mostly the latter: the
roots then are alike in all coordinates, and Adam is a slow gradient step. The variance is a public number, since noise,
clip, batch and survivors are; so it is taken away from each square before that enters the second moment.

Sources: Reddi et al. 2021, Adaptive Federated Optimization, Algorithm 2 (FedAdam; tau is `root_floor`, and the second
moment begins at its square); Tang et al. 2024, DP-AdamBC, Algorithm 1 (moments corrected for their start as in Kingma
and Ba 2015, variance of the noise taken away, floor). Theirs is constant; here each round's own is taken away, so that
rounds with fewer survivors, or with another clip in force, count with what they had.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AdamRule:
    """Charter constants of Adam beside those of every step; the first moment's memory is the rule's `momentum`."""

    second_momentum: float  # beta 2, in [0, 1)
    root_floor: float  # > 0; added to the root, or with the correction its least value
    is_noise_corrected: bool
    move_factor: float  # > 0: turns a mean of messages into what moments are of; a local step's size, 1 for gradients

    def __post_init__(self) -> None:
        numbers = (self.second_momentum, self.root_floor, self.move_factor)
        fine = all(math.isfinite(number) for number in numbers)
        if not fine or not 0 <= self.second_momentum < 1 or self.root_floor <= 0 or self.move_factor <= 0:
            raise InvalidParameter(
                f"second_momentum must be in [0, 1), root_floor and the local step above 0, not {numbers}. "
                "Correct training.global and training.local."
            )

    @property
    def first_second_moment(self) -> float:
        """Return what every coordinate's second moment is before the first round."""
        return 0.0 if self.is_noise_corrected else self.root_floor * self.root_floor


def adam_moments(
    rule: AdamRule, momentum: float, first: Floats, second: Floats, mean: Floats, deviation: float, applied: int
) -> tuple[Floats, Floats, Floats]:
    """Return the next first moment, second moment and the direction of the step, each float64 [parameters].

    momentum: beta 1. first, second: moments after the last round. mean: of the round's messages. deviation: of the
    noise in each coordinate of that mean. applied: rounds applied with this one, from 1.
    The second moment may be below 0 where the noise is corrected for; the root is never below the floor.
    """
    move = rule.move_factor * mean
    noise = rule.move_factor * deviation
    memory = rule.second_momentum
    first = momentum * first + (1.0 - momentum) * move
    if not rule.is_noise_corrected:
        second = memory * second + (1.0 - memory) * (move * move)
        return first, second, first / (np.sqrt(second) + rule.root_floor)
    second = memory * second + (1.0 - memory) * (move * move - noise * noise)
    unbiased = second / (1.0 - _power(memory, applied))
    root = np.sqrt(np.maximum(unbiased, rule.root_floor * rule.root_floor))
    return first, second, first / (1.0 - _power(momentum, applied)) / root


def _power(base: float, exponent: int) -> float:
    result = 1.0
    for _ in range(exponent):
        result *= base
    return result
