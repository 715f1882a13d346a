"""Exact integer noise: a site's discrete Gaussian, all of it or a share, from a cryptographic generator.

Production draws by a cumulative table in 128-bit fixed point: the high word decides, and the low word is drawn only
when the high word equals a table entry. A guide over the top 16 bits of the high word finds most values without a
search and none differently. Local and distributed noise are this one function with another deviation.
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
_GUIDE_SHIFT = np.uint64(48)  # the guide's index is a word's top 16 bits: 256 KiB, within a core's cache
_BLOCK_DRAWS = 1 << 15  # words, indices and values of a block stay in cache


@dataclass(frozen=True, slots=True, eq=False)
class NoiseTable:
    """Cumulative probabilities of the discrete Gaussian: entry i is floor(2^128 P(X <= i - tail)), i < 2 * tail."""

    deviation: int
    tail: int  # values lie in [-tail, tail]
    high: NDArray[np.uint64] = field(repr=False)  # [2 * tail], ascending
    low: NDArray[np.uint64] = field(repr=False)
    # [2^16]: by a word's top bits, the entries below all such words; ~ of it (negative) where entries lie among them
    guide: NDArray[np.int32] = field(repr=False)


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
    guide = _guide(high)
    for array in (low, high, guide):
        array.setflags(write=False)
    return NoiseTable(deviation, tail, high, low, guide)


def discrete_gaussian(deviation: int, count: int, random: RandomSource) -> NDArray[np.int64]:
    """Draw `count` independent discrete Gaussians of the given deviation.

    Each draw is within total variation 2^-110 of the exact distribution.
    Raises InvalidParameter for a deviation outside 1..8,192 or a negative count.
    """
    if count < 0:
        raise InvalidParameter(f"expected count >= 0, got {count}. Pass the length of the message.")
    table = noise_table(deviation)
    values = np.empty(count, dtype=np.int64)
    for start in range(0, count, _BLOCK_DRAWS):
        block = values[start : start + _BLOCK_DRAWS]
        block[:] = _entries_up_to(table, random.words(block.size), random)
        block -= table.tail
    return values


def _entries_up_to(table: NoiseTable, words: NDArray[np.uint64], random: RandomSource) -> NDArray[np.int32]:
    """Return, for each uniform high word, how many table entries are at most the 128-bit number that it begins."""
    found = table.guide[(words >> _GUIDE_SHIFT).astype(np.intp)]
    unsure = np.flatnonzero(found < 0)
    asked = words[unsure]
    position = ~found[unsure]
    position += table.high[position] <= asked
    # Most guided stretches hold one entry. Where the next is passed too (the tails), and at the end, search.
    farther = np.flatnonzero(table.high.take(position, mode="clip") <= asked)
    position[farther] = np.searchsorted(table.high, asked[farther], side="right")
    ties = np.flatnonzero(table.high[position - 1] == asked)  # never at position 0: the last entry is above its word
    for tie in ties:  # about 2^-47 a draw, so the loop is not vectorised
        last = int(position[tie])
        first = int(np.searchsorted(table.high, asked[tie], side="left"))
        position[tie] = first + int(np.searchsorted(table.low[first:last], random.words(1)[0], side="right"))
    found[unsure] = position
    return found


def _guide(high: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Return the guide to a table: where a word's search begins, by its top bits."""
    smallest = np.arange(1 << 16, dtype=np.uint64) << _GUIDE_SHIFT
    largest = smallest | np.uint64((1 << 48) - 1)
    below = np.searchsorted(high, smallest, side="left").astype(np.int32)
    up_to = np.searchsorted(high, largest, side="right").astype(np.int32)
    return np.where(below == up_to, below, ~below)


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
