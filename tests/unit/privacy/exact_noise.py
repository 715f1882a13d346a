"""The oracle of the noise tests: the exact discrete Gaussian sampler by rejection, with no table and no rounding.

Every decision compares uniform integers with integers, so the output has exactly the stated distribution. Slower than
`noise.discrete_gaussian`, which production uses.
Source: Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy", Algorithms 1 to 3.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.secure_sum import RandomSource

_LARGEST_DEVIATION = 4095  # keeps every integer below 2^63
_FARTHEST = 40  # proposals beyond 40 t are dropped: they would be accepted with probability < 2^-1000


def exact_discrete_gaussian(deviation: int, count: int, random: RandomSource) -> NDArray[np.int64]:
    """Draw `count` independent values with P(X = k) proportional to exp(-k^2 / (2 deviation^2)).

    deviation: 1..4095. Source: Algorithm 3: discrete Laplace of scale t = deviation + 1, then rejection.
    """
    if not 1 <= deviation <= _LARGEST_DEVIATION or count < 0:
        raise InvalidParameter(
            f"expected 1 <= deviation <= {_LARGEST_DEVIATION} and count >= 0, got {deviation} and {count}. "
            "Use noise.discrete_gaussian for larger ones."
        )
    variance = deviation * deviation
    scale = math.isqrt(variance) + 1
    parts: list[NDArray[np.int64]] = []
    missing = count
    while missing > 0:
        proposal = _discrete_laplace(scale, 2 * missing + 64, random)
        numerator = (np.abs(proposal) * scale - variance) ** 2
        denominator = np.full(proposal.size, 2 * variance * scale * scale, dtype=np.int64)
        accepted = proposal[_bernoulli_exp(numerator, denominator, random)][:missing]
        parts.append(accepted)
        missing -= accepted.size
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _discrete_laplace(scale: int, proposals: int, random: RandomSource) -> NDArray[np.int64]:
    """Return the accepted ones of `proposals` tries for P(k) proportional to exp(-|k| / scale). Source: Algorithm 2."""
    whole = np.full(proposals, scale, dtype=np.int64)
    remainder = _below(whole, random)
    kept = _bernoulli_exp_fraction(remainder, whole, random)
    remainder = remainder[kept]
    quotient = np.zeros(remainder.size, dtype=np.int64)
    going = np.arange(remainder.size)
    while going.size:
        ones = np.ones(going.size, dtype=np.int64)
        going = going[_bernoulli_exp_fraction(ones, ones, random)]
        quotient[going] += 1
    magnitude = remainder + scale * quotient
    negative = (random.words(magnitude.size) & np.uint64(1)).astype(np.bool_)
    fine = ~(negative & (magnitude == 0)) & (magnitude < _FARTHEST * scale)
    accepted: NDArray[np.int64] = np.where(negative, -magnitude, magnitude)[fine]
    return accepted


def _bernoulli_exp(
    numerator: NDArray[np.int64], denominator: NDArray[np.int64], random: RandomSource
) -> NDArray[np.bool_]:
    """Return draws of Bernoulli(exp(-numerator / denominator)), elementwise. Source: Algorithm 1."""
    whole, rest = np.divmod(numerator, denominator)
    alive = _bernoulli_exp_fraction(rest, denominator, random)
    while True:
        going = np.flatnonzero(alive & (whole > 0))
        if not going.size:
            return alive
        ones = np.ones(going.size, dtype=np.int64)
        alive[going] = _bernoulli_exp_fraction(ones, ones, random)
        whole[going] -= 1


def _bernoulli_exp_fraction(
    numerator: NDArray[np.int64], denominator: NDArray[np.int64], random: RandomSource
) -> NDArray[np.bool_]:
    """Return draws of Bernoulli(exp(-x)), x = numerator / denominator in [0, 1]. Source: Algorithm 1, first case."""
    result = np.zeros(numerator.size, dtype=np.bool_)
    going = np.arange(numerator.size)
    turn = 1
    while going.size:
        passed = _below(denominator[going] * turn, random) < numerator[going]
        result[going[~passed]] = turn % 2 == 1
        going = going[passed]
        turn += 1
    return result


def _below(limit: NDArray[np.int64], random: RandomSource) -> NDArray[np.int64]:
    """Return uniform integers in [0, limit), elementwise, by rejection: a plain remainder would be biased."""
    bound = limit.astype(np.uint64)
    largest = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
    cut = largest - (largest % bound + np.uint64(1)) % bound  # the last word of the last full cycle
    result = np.empty(limit.size, dtype=np.uint64)
    going = np.arange(limit.size)
    while going.size:
        words = random.words(going.size)
        fine = words <= cut[going]
        result[going[fine]] = words[fine] % bound[going[fine]]
        going = going[~fine]
    return result.astype(np.int64)
