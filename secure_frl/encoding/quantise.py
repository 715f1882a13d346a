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
_BLOCK_VALUES = 1 << 17  # smaller ones cost more in calls than the cache saves in passes, larger ones leave it
_FINE_BITS = 16  # of the dither for every value; more are drawn for two in 2^16 values, wherever these are
_FINE_BOUND = 1 << 30  # below it an integer fits into the 32 bits that are read out of a float64
# Floats near it are the integers: adding it rounds to one, which the lowest 51 bits then hold, less one for the a + 1
# that is added next. It is odd, so halves go to odd integers: whoever asks for the rest must round by this same number.
_MAGIC = 1.5 * 2.0**52 - 1
_WORD = np.dtype({"names": ["integer"], "formats": ["i4"], "offsets": [_FINE_BITS // 8], "itemsize": 8})


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """On the integer grid, without noise: value = integers / scale. Never leaves the process."""

    integers: NDArray[np.int64] = field(repr=False)  # [P], each in [-bound, bound]
    scale: float
    clamped: int = field(repr=False)  # how many values met the bound: depends on data, stays at the site


def quantise(vector: NDArray[np.float64], scale: float, bound: int, random: RandomSource) -> Quantised:
    """Round `vector * scale` to integers with a secret uniform dither and clamp them to [-bound, bound].

    vector: float64 [P], finite. scale: > 0, integers a unit. bound: B >= 1, a charter constant.
    Every integer has the law of floor(x + u), one uniform u a value, so its expectation over the dither is
    vector * scale wherever nothing is clamped, up to 2^-53 a value. Clamping is a projection on a public box: it never
    makes one unit's influence larger.
    Raises InvalidParameter for another dtype or shape, non-finite values, scale or bound outside their range.
    Source: Kairouz, Liu and Steinke 2021, Algorithm 1 (randomised rounding); here with floor(x + u).
    """
    if vector.dtype != np.float64 or vector.ndim != 1:
        raise InvalidParameter(
            f"expected a float64 vector [P], got dtype {vector.dtype} and {vector.ndim} dimensions. "
            "Pass the clipped sum as it was made."
        )
    if not (math.isfinite(scale * 2.0**_FINE_BITS) and scale > 0):
        raise InvalidParameter(f"expected scale > 0, finite, got scale={scale}. Take it from the charter's constants.")
    if not 1 <= bound < LARGEST_BOUND:
        raise InvalidParameter(f"expected 1 <= bound < 2^52, got bound={bound}. Take it from the charter's constants.")
    with np.errstate(over="ignore", invalid="ignore"):  # _cut_ looks for what overflows and for what is no number
        integers, is_cut = (_round_fine if bound < _FINE_BOUND else _round_wide)(vector, scale, bound, random)
    if not is_cut:
        return Quantised(integers, float(scale), 0)
    clamped = np.clip(integers, -bound, bound)
    return Quantised(clamped, float(scale), int(np.count_nonzero(clamped != integers)))


def _cut_(scaled: NDArray[np.float64], values: NDArray[np.float64], limit: float, cut: float) -> bool:
    """Cut scaled values to [-cut, cut]; return False if all were within `limit`, which is one pass over their norm.

    Beyond the bound the exact value no longer matters; cutting there keeps the conversion to integers defined.
    """
    square = float(np.dot(scaled, scaled)) * (1 + 1e-6)  # more than the rounding of a sum of 2^32 squares
    if square <= limit * limit:  # false for NaN
        return False
    if not np.isfinite(values).all():
        raise InvalidParameter(
            "expected finite values, got NaN or infinity. Leave units with non-finite gradients out before summing."
        )
    np.clip(scaled, -cut, cut, out=scaled)
    return True


def _round_fine(
    vector: NDArray[np.float64], scale: float, bound: int, random: RandomSource
) -> tuple[NDArray[np.int64], bool]:
    """Return floor(x + u), x = vector * scale, |x| < 2^30 + 1, and whether any x was cut.

    Let q be the integer next to 2^16 x and a uniform in 0 ... 2^16 - 1: floor((q + a) / 2^16) has the mean q / 2^16,
    and x is e / 2^16 more, e = 2^16 x - q. `_made_up` adds it where a is the least or the greatest, in two of 2^16
    values. The result lies in {floor(x), floor(x) + 1} and has the mean x, which is the whole law of floor(x + u).
    Which a are extreme does not depend on the values, so they are found in the dither's 16 bits.
    """
    unit = 2.0**_FINE_BITS
    integers, is_cut = np.empty(vector.size, np.int64), False
    floats, marks = np.empty(min(_BLOCK_VALUES, vector.size)), bytearray(min(_BLOCK_VALUES, vector.size))
    places: list[int] = []
    greatest: list[bool] = []
    for start in range(0, vector.size, _BLOCK_VALUES):
        values = vector[start : start + _BLOCK_VALUES]
        block = np.multiply(values, scale * unit, out=floats[: values.size])
        is_cut |= _cut_(block, values, (bound - 1) * unit, (bound + 1) * unit)
        drawn = np.frombuffer(random.take(2 * values.size), "<u2")  # a + 1 modulo 2^16: the extremes become 0 and 1
        block += _MAGIC
        block += drawn
        integers[start : start + values.size] = block.view(_WORD)["integer"]
        np.less(drawn, 2, out=np.frombuffer(marks, np.bool_, values.size))
        found = _marked(marks, values.size)
        places += [start + place for place in found]
        greatest += [bool(drawn[place] == 0) for place in found]
    exact = np.clip(vector[places] * (scale * unit), -(bound + 1) * unit, (bound + 1) * unit)
    integers[places] += _made_up(exact, np.array(greatest, np.bool_), random)
    return integers, is_cut


def _marked(marks: bytearray, count: int) -> list[int]:
    """Return the places of the few ones among the first `count`; a search for a byte is faster than numpy's."""
    places = []
    place = marks.find(1, 0, count)
    while place >= 0:
        places.append(place)
        place = marks.find(1, place + 1, count)
    return places


def _made_up(exact: NDArray[np.float64], greatest: NDArray[np.bool_], random: RandomSource) -> NDArray[np.bool_]:
    """Return what to add where a is extreme; where it is the greatest, it entered the sum as a - 2^16, that is -1.

    exact: 2^16 x, float64 [m]. greatest: [m], the other extremes are the least.
    With r uniform in [0, 1): one more where a = 0 and r < e, one less where a = 2^16 - 1 and r < -e. 0 < e makes
    floor(q / 2^16) = floor(x), so one more is floor(x) + 1; e < 0 makes ceil(q / 2^16) = floor(x) + 1, so one less is
    floor(x).
    """
    rest = exact - ((exact + _MAGIC) - _MAGIC)  # e: no rounding
    more = _dither(exact.size, random)
    return np.where(greatest, more >= -rest, more < rest)


def _round_wide(
    vector: NDArray[np.float64], scale: float, bound: int, random: RandomSource
) -> tuple[NDArray[np.int64], bool]:
    """Return floor(x + u), x = vector * scale, u uniform in [0, 1) with 53 bits, and whether any x was cut."""
    scaled = vector * scale
    is_cut = _cut_(scaled, vector, bound - 1.0, bound + 1.0)
    whole = np.floor(scaled)
    # floor(x + u) written without the sum: x + u would round to 53 bits and bias large values.
    integers: NDArray[np.int64] = whole.astype(np.int64) + (_dither(vector.size, random) >= 1.0 - (scaled - whole))
    return integers, is_cut


def _dither(count: int, random: RandomSource) -> NDArray[np.float64]:
    return (random.words(count) >> np.uint64(64 - _DITHER_BITS)).astype(np.float64) * 2.0**-_DITHER_BITS
