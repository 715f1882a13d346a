"""Exact integer noise: a site's discrete Gaussian, all of it or a share, from a cryptographic generator.

Production draws by a cumulative table in 128-bit fixed point: the high word decides, and the low word is drawn only
when the high word equals a table entry. Local and distributed noise are this one function with another deviation.
Never seedable in a real run: the random source is passed in, and only a rehearsal's is repeatable. Not constant-time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.secure_sum import RandomSource

LARGEST_DEVIATION = 8192  # the table has 26.6 entries a unit of deviation, each off by less than 2^-128
DRAW_TOTAL_VARIATION = 2.0**-110  # of one draw, up to that deviation; enters delta with the number of draws
_TAIL_DEVIATIONS = 13.3  # both tails beyond it weigh less than 2^-126
_FRACTION_BITS = 200  # of the weights; their summed error is below 2^-140 of the total


@dataclass(frozen=True, slots=True, eq=False)
class NoiseTable:
    """Cumulative probabilities of the discrete Gaussian: entry i is floor(2^128 P(X <= i - tail)), i < 2 * tail."""

    deviation: int
    tail: int  # values lie in [-tail, tail]
    high: NDArray[np.uint64] = field(repr=False)  # [2 * tail], ascending
    low: NDArray[np.uint64] = field(repr=False)


@lru_cache(maxsize=8)
def noise_table(deviation: int) -> NoiseTable:
    """Return the table for P(X = k) proportional to exp(-k^2 / (2 deviation^2)); integer arithmetic only.

    Raises InvalidParameter for a deviation outside 1..8,192.
    Source: weights by w[k+1] = w[k] r^(2k+1), r = exp(-1 / (2 deviation^2)), in 200-bit fixed point.
    """
    if not 1 <= deviation <= LARGEST_DEVIATION:
        raise InvalidParameter(
            f"expected 1 <= deviation <= {LARGEST_DEVIATION}, got {deviation}. Set privacy.integer_noise_scale."
        )
    tail = int(_TAIL_DEVIATIONS * deviation) + 1
    one = 1 << _FRACTION_BITS
    ratio = _exp_of_minus_reciprocal(2 * deviation * deviation)
    square = ratio * ratio >> _FRACTION_BITS
    weights = [one]
    step = ratio
    for _ in range(tail):
        weights.append(weights[-1] * step >> _FRACTION_BITS)
        step = step * square >> _FRACTION_BITS
    total = one + 2 * sum(weights[1:])
    lower: list[int] = []
    cumulated = 0
    for weight in reversed(weights[1:]):
        cumulated += weight
        lower.append((cumulated << 128) // total)
    # P(X <= k) = 1 - P(X <= -k - 1): the table is symmetric, so the noise has no bias (2^-128 at the very end).
    entries = lower + [min((1 << 128) - value, (1 << 128) - 1) for value in reversed(lower)]
    raw = b"".join(value.to_bytes(16, "little") for value in entries)
    words = np.frombuffer(raw, dtype="<u8").astype(np.uint64).reshape(-1, 2)
    low, high = words[:, 0].copy(), words[:, 1].copy()
    low.setflags(write=False)
    high.setflags(write=False)
    return NoiseTable(deviation, tail, high, low)


def discrete_gaussian(deviation: int, count: int, random: RandomSource) -> NDArray[np.int64]:
    """Draw `count` independent discrete Gaussians of the given deviation.

    Each draw is within total variation 2^-110 of the exact distribution.
    Raises InvalidParameter for a deviation outside 1..8,192 or a negative count.
    """
    if count < 0:
        raise InvalidParameter(f"expected count >= 0, got {count}. Pass the length of the message.")
    table = noise_table(deviation)
    words = random.words(count)
    found = np.searchsorted(table.high, words, side="right")
    ties = np.flatnonzero((found > 0) & (table.high[found - 1] == words))
    for position in ties:  # about 2^-47 a draw, so the loop is not vectorised
        last = int(found[position])
        first = int(np.searchsorted(table.high, words[position], side="left"))
        found[position] = first + int(np.searchsorted(table.low[first:last], random.words(1)[0], side="right"))
    return found.astype(np.int64) - table.tail


def _exp_of_minus_reciprocal(denominator: int) -> int:
    """Return floor-rounded 2^200 exp(-1 / denominator), denominator >= 2, by its alternating series with guard bits."""
    guard = 64
    term = 1 << (_FRACTION_BITS + guard)
    total = 0
    index = 0
    while term:
        total += term if index % 2 == 0 else -term
        index += 1
        term //= denominator * index
    return total >> guard
