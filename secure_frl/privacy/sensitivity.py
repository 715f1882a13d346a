"""How far one unit moves the integer message: the one place where the bound is computed. No torch."""

from __future__ import annotations

import math

from secure_frl.errors import InvalidParameter

SENSITIVITY_MARGIN = 1e-6  # covers float64 summation of up to LARGEST_WINDOW units: 2 * units^2 * 2^-53
LARGEST_WINDOW = 60_000  # units a site and round; 2 * 60,000^2 * 2^-53 = 8.0e-7
ROUNDING_BETA = 1e-12  # probability over the dither that the bound below fails; counts once a release


def rounded_shift(scale: float, length: int, beta: float = ROUNDING_BETA) -> float:
    """Return a bound on the L2 shift of the rounded vector when one unit is added or removed, in integers.

    scale: kappa, the integer length of one unit. length: P. beta: failure probability over the secret dither.
    min(k + sqrt(P), sqrt(k^2 + P/4 + sqrt(2 ln(1/beta)) (k + sqrt(P)/2))) with k = kappa * (1 + margin).
    Source: Kairouz, Liu and Steinke 2021, Algorithm 1, its bound on the rounded norm at granularity 1; here one dither
    serves both neighbours, so the shift itself is a randomised rounding of the unit. The first term holds always.
    """
    if not (math.isfinite(scale) and scale > 0 and length >= 1 and 0 < beta < 1):
        raise InvalidParameter(
            f"expected scale > 0, length >= 1 and 0 < beta < 1, got scale={scale}, length={length}, beta={beta}. "
            "Take them from the charter's constants."
        )
    shift = scale * (1 + SENSITIVITY_MARGIN)
    root = math.sqrt(length)
    tail = math.sqrt(2 * math.log(1 / beta)) * (shift + root / 2)
    return min(shift + root, math.sqrt(shift * shift + length / 4 + tail))
