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


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """On the integer grid, without noise: value = integers / scale. Never leaves the process."""

    integers: NDArray[np.int64] = field(repr=False)  # [P], each in [-bound, bound]
    scale: float
    clamped: int = field(repr=False)  # how many values met the bound: depends on data, stays at the site


def quantise(vector: NDArray[np.float64], scale: float, bound: int, random: RandomSource) -> Quantised:
    """Round `vector * scale` to integers with a secret uniform dither and clamp them to [-bound, bound].

    vector: float64 [P], finite. scale: > 0, integers a unit. bound: B >= 1, a charter constant.
    The expectation over the dither is vector * scale wherever nothing is clamped, up to 2^-53 a value. Clamping is a
    projection on a public box: it never makes one unit's influence larger.
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
    if not bool(np.isfinite(vector).all()):
        raise InvalidParameter(
            "expected finite values, got NaN or infinity. Leave units with non-finite gradients out before summing."
        )
    dither = (random.words(vector.size) >> np.uint64(64 - _DITHER_BITS)).astype(np.float64) * 2.0**-_DITHER_BITS
    # Beyond the bound the exact value no longer matters; cutting here keeps the conversion to int64 defined.
    scaled = np.clip(vector * scale, -(bound + 1.0), bound + 1.0)
    whole = np.floor(scaled)
    # floor(x + u) written without the sum: x + u would round to 53 bits and bias large values.
    integers = whole.astype(np.int64) + (dither >= 1.0 - (scaled - whole))
    clamped = np.clip(integers, -bound, bound)
    return Quantised(clamped, float(scale), int(np.count_nonzero(clamped != integers)))
