"""Reals to integers: value * scale, floored with a secret dither, then clamped to the charter's bound.

The only quantiser: local and distributed noise, and no noise at all, differ in `scale` alone. What it returns has no
noise yet and never leaves the process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.secure_sum import RandomSource

LARGEST_BOUND = 1 << 52  # beyond it float64 has no step of one half, so nothing is left to round
_DITHER_BITS = 53  # every multiple of 2^-53 in [0, 1) is a float64, so a dither is drawn without rounding
_BLOCK_VALUES = 1 << 15  # a block with its dither stays in a cache of 1 MiB from the first pass to the last
_FINE_BITS = 16  # of the dither for every value; more are drawn for the two in 2^16 whose rounding they decide
_FINE_BOUND = 1 << 34  # below it x * 2^16 is inside the reach of _MAGIC
_MAGIC = 1.5 * 2.0**52  # floats near it are the integers: adding it rounds to one, which the lowest 51 bits then hold
_MAGIC_WORD = int(np.float64(_MAGIC).view(np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """On the integer grid, without noise: value = integers / scale. Never leaves the process."""

    integers: NDArray[np.int64] = field(repr=False)  # [P], each in [-bound, bound]
    scale: float
    clamped: int = field(repr=False)  # how many values met the bound: depends on data, stays at the site


def quantise(vector: NDArray[np.float64], scale: float, bound: int, random: RandomSource) -> Quantised:
    """Round `vector * scale` to integers with a secret uniform dither and clamp them to [-bound, bound].

    vector: float64 [P], finite. scale: > 0, integers a unit. bound: B >= 1, a charter constant.
    Every integer is floor(x + u) of one uniform u, so the expectation over the dither is vector * scale wherever
    nothing is clamped, up to 2^-53 a value. Clamping is a projection on a public box: it never makes one unit's
    influence larger.
    Raises InvalidParameter for another dtype or shape, non-finite values, scale or bound outside their range.
    Source: Kairouz, Liu and Steinke 2021, Algorithm 1 (randomised rounding); here with floor(x + u).
    """
    if vector.dtype != np.float64 or vector.ndim != 1:
        raise InvalidParameter(
            f"expected a float64 vector [P], got dtype {vector.dtype} and {vector.ndim} dimensions. "
            "Pass the clipped sum as it was made."
        )
    if not (math.isfinite(scale) and scale > 0):
        raise InvalidParameter(f"expected scale > 0, finite, got scale={scale}. Take it from the charter's constants.")
    if not 1 <= bound < LARGEST_BOUND:
        raise InvalidParameter(f"expected 1 <= bound < 2^52, got bound={bound}. Take it from the charter's constants.")
    greatest = _greatest(vector)
    if not math.isfinite(greatest):
        raise InvalidParameter(
            "expected finite values, got NaN or infinity. Leave units with non-finite gradients out before summing."
        )
    # Beyond the bound the exact value no longer matters; cutting there keeps the conversion to integers defined.
    cut = None if greatest * scale <= bound - 1 else bound + 1.0
    integers = (_round_fine if bound < _FINE_BOUND else _round_wide)(vector, scale, cut, random)
    if cut is None:
        return Quantised(integers, float(scale), 0)
    clamped = np.clip(integers, -bound, bound)
    return Quantised(clamped, float(scale), int(np.count_nonzero(clamped != integers)))


def _greatest(vector: NDArray[np.float64]) -> float:
    """Return no less than the greatest |v|, and NaN or infinity if there is one.

    The norm is one pass, and small enough for a clipped sum. Only where its square overflows the values are looked at.
    """
    with np.errstate(over="ignore"):
        square = float(np.dot(vector, vector))
    if math.isfinite(square) or vector.size == 0:
        return math.sqrt(square) * (1 + 1e-6)  # more than the rounding of a sum of 2^32 squares
    return max(float(vector.max()), -float(vector.min()))


def _scaled(
    vector: NDArray[np.float64], factor: float, cut: float | None, out: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    scaled = np.multiply(vector, factor, out=out)
    return scaled if cut is None else np.clip(scaled, -cut, cut, out=scaled)


def _round_fine(
    vector: NDArray[np.float64], scale: float, cut: float | None, random: RandomSource
) -> NDArray[np.int64]:
    """Return floor(x + u), x = vector * scale, |x| < 2^34 + 1, u uniform in [0, 1) with 69 bits.

    With u = (a + r) / 2^16, a of 16 bits and r in [0, 1), and q the integer next to 2^16 x, so |2^16 x - q| <= 1/2:
    floor((q + a) / 2^16) is floor(x + u) whatever r is, unless the lowest 16 bits of q + a are all ones or all zeros.
    For these values only, two in 2^16, r is drawn, with 53 bits, and decides.
    """
    factor, cut = scale * 2.0**_FINE_BITS, None if cut is None else cut * 2.0**_FINE_BITS
    integers = np.empty(vector.size, np.int64)
    scratch = np.empty(min(_BLOCK_VALUES, vector.size), np.int64)
    undecided = []
    for start in range(0, vector.size, _BLOCK_VALUES):
        block = integers[start : start + _BLOCK_VALUES]  # floats first, then integers, while it is in the cache
        floats = _scaled(vector[start : start + _BLOCK_VALUES], factor, cut, block.view(np.float64))
        floats += _MAGIC
        block += np.frombuffer(random.take(2 * block.size), "<u2")
        after = np.add(block, 1, out=scratch[: block.size])
        after &= 0xFFFE  # all ones and one more are zeros; all zeros and one more are a one that this drops
        places = np.flatnonzero(after == 0)
        undecided.append(np.stack([places + start, block[places] & 1]))
        block >>= _FINE_BITS
        block -= _MAGIC_WORD >> _FINE_BITS
    if undecided:
        _decide_(integers, np.concatenate(undecided, axis=1), vector, factor, cut, random)
    return integers


def _decide_(
    integers: NDArray[np.int64],
    undecided: NDArray[np.int64],
    vector: NDArray[np.float64],
    factor: float,
    cut: float | None,
    random: RandomSource,
) -> None:
    """Round what 16 bits of dither left open. undecided: [2, m], places and whether the lowest bits were all ones."""
    places, ones = undecided[0], undecided[1] == 1
    exact = _scaled(vector[places], factor, cut)
    rest = exact - ((exact + _MAGIC) - _MAGIC)  # 2^16 x - q: no rounding
    more = _dither(places.size, random)
    integers[places] += ones & (more >= 1.0 - rest)
    integers[places] -= ~ones & (more < -rest)


def _round_wide(
    vector: NDArray[np.float64], scale: float, cut: float | None, random: RandomSource
) -> NDArray[np.int64]:
    """Return floor(x + u), x = vector * scale, u uniform in [0, 1) with 53 bits."""
    scaled = _scaled(vector, scale, cut)
    whole = np.floor(scaled)
    # floor(x + u) written without the sum: x + u would round to 53 bits and bias large values.
    integers: NDArray[np.int64] = whole.astype(np.int64) + (_dither(vector.size, random) >= 1.0 - (scaled - whole))
    return integers


def _dither(count: int, random: RandomSource) -> NDArray[np.float64]:
    return (random.words(count) >> np.uint64(64 - _DITHER_BITS)).astype(np.float64) * 2.0**-_DITHER_BITS
