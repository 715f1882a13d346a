"""How far one unit moves the integer message."""

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.privacy.sensitivity import LARGEST_WINDOW, SENSITIVITY_MARGIN, rounded_shift


@pytest.mark.parametrize(
    ("scale", "length", "factor"),
    [(3238.0, 5317, 1.0012), (1024.0, 1000, 1.004), (13000.0, 5317, 1.0003)],
)
def test_the_bound_is_a_few_parts_in_a_thousand_above_the_unit(scale: float, length: int, factor: float) -> None:
    # Factor at kappa = 3,238, P = 5,317: privacy.md, section 4. The others: the formula by hand.
    assert rounded_shift(scale, length) / scale == pytest.approx(factor, abs=3e-4)
    assert rounded_shift(scale, length) > scale


@pytest.mark.statistical
@pytest.mark.parametrize(("scale", "length"), [(50.0, 5317), (1024.0, 5317), (300.4, 1)])
def test_no_rounded_shift_is_beyond_the_bound(scale: float, length: int) -> None:
    # 200 random directions, bases and dithers; each is beyond it with probability <= 1e-12.
    generator = np.random.default_rng(0)
    worst = 0.0
    for _ in range(200):
        unit = generator.standard_normal(length)
        unit *= scale / np.linalg.norm(unit)
        base, dither = generator.standard_normal(length) * 300, generator.random(length)
        worst = max(worst, float(np.linalg.norm(np.floor(base + unit + dither) - np.floor(base + dither))))

    assert worst <= rounded_shift(scale, length)
    # The control: without the rounding term the bound does not hold.
    assert worst > scale


def test_the_margin_covers_float64_sums_of_the_largest_window() -> None:
    assert 2 * LARGEST_WINDOW**2 * 2.0**-53 <= SENSITIVITY_MARGIN


@pytest.mark.parametrize(
    ("scale", "length", "beta"), [(0.0, 1, 1e-12), (np.inf, 1, 1e-12), (1.0, 0, 1e-12), (1.0, 1, 0.0), (1.0, 1, 1.0)]
)
def test_arguments_outside_their_range_are_refused(scale: float, length: int, beta: float) -> None:
    with pytest.raises(InvalidParameter):
        rounded_shift(scale, length, beta)
