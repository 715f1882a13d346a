"""Reals to integers: unbiased, clamped, silent about how much was clamped."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_frl.encoding.quantise import quantise
from secure_frl.errors import InvalidParameter
from secure_frl.randomness import rehearsal_source


class FixedWords:
    """A random source whose words are given: makes the dither visible."""

    is_rehearsal = True

    def __init__(self, word: int) -> None:
        self._word = word

    def take(self, count: int) -> bytes:
        return self.words(-(-count // 8)).tobytes()[:count]

    def words(self, count: int) -> np.ndarray:
        return np.full(count, self._word, dtype=np.uint64)


@pytest.mark.parametrize("bound", [2**30, 2**40])  # below 2^34 the dither comes in two parts
@pytest.mark.statistical
def test_the_mean_over_the_dither_is_the_value_itself(bound: int) -> None:
    # 400,000 draws a value: the standard error of a mean is at most .5 / sqrt(400,000). Five values, two-sided, at 5.2
    # of them: false alarm 1e-6.
    values = np.array([0.25, -0.3, 1234567.7, -9.999, 3.0])
    draws = 400_000

    rounded = quantise(np.repeat(values, draws), 1.0, bound, rehearsal_source(3)).integers.reshape(5, draws)

    assert np.abs(rounded.mean(axis=1) - values).max() < 5.2 * 0.5 / np.sqrt(draws)
    # The control: plain rounding down is off by the whole fraction.
    assert np.abs(np.floor(values) - values).max() > 5.2 * 0.5 / np.sqrt(draws)


@pytest.mark.statistical
def test_an_almost_whole_value_is_rounded_up_as_rarely_as_it_should_be() -> None:
    # 2^-20 above a whole number, 2^24 draws: 16 expected. Poisson: P(X >= 45) and P(X <= 0) together are below 2e-7.
    # The control, a dither of 16 bits alone, would round to the nearest 2^-16 first and never go up.
    draws = np.full(1 << 22, 5 + 2.0**-20)
    random = rehearsal_source(11)

    ups = sum(int((quantise(draws, 1.0, 2**30, random).integers == 6).sum()) for _ in range(4))

    assert 0 < ups < 45


@given(
    value=st.floats(min_value=-1e9, max_value=1e9, allow_nan=False),
    random_low=st.integers(min_value=0, max_value=2**16 - 1),
    high=st.integers(min_value=0, max_value=2**48 - 1),
    case=st.sampled_from(["any", "ones", "zeros"]),
)
def test_a_dither_drawn_in_two_parts_is_one_dither(value: float, random_low: int, high: int, case: str) -> None:
    # a: the lowest 16 bits of the word, r: its highest 53, u = (a + r) / 2^16; in two cases of three a is such that
    # r decides. Exact rational arithmetic beside it, up to the last 2^-53 of r.
    nearest = round(Fraction(value) * 2**16)
    low = {"any": random_low, "ones": (0xFFFF - nearest) % 2**16, "zeros": -nearest % 2**16}[case]
    word = (high << 16) | low
    exact = Fraction(value) + (low + Fraction(word >> 11, 2**53)) / 2**16
    expected = {(exact + Fraction(slack, 2**68)).__floor__() for slack in (-1, 0, 1)}

    rounded = int(quantise(np.array([value]), 1.0, 2**33, FixedWords(word)).integers[0])

    assert rounded in expected


@given(
    value=st.floats(min_value=-1e9, max_value=1e9, allow_nan=False),
    word=st.integers(min_value=0, max_value=2**64 - 1),
)
def test_rounding_is_the_exact_floor_of_value_plus_dither(value: float, word: int) -> None:
    # Exact rational arithmetic beside it; a value next to an integer from below may lose its last 2^-53.
    exact = Fraction(value) + Fraction(word >> 11, 2**53)
    expected = {exact.__floor__(), (exact + Fraction(1, 2**52)).__floor__()}

    rounded = int(quantise(np.array([value]), 1.0, 2**40, FixedWords(word)).integers[0])

    assert rounded in expected


def test_values_are_scaled_before_they_are_rounded() -> None:
    quantised = quantise(np.array([2.0, -2.0]), 1000.0, 10**6, FixedWords(0))

    assert quantised.integers.tolist() == [2000, -2000]
    assert quantised.integers.dtype == np.int64
    assert quantised.scale == 1000.0


def test_values_beyond_the_bound_are_clamped_and_counted() -> None:
    quantised = quantise(np.array([1e300, -7.0, 2.0, 7.0]), 1.0, 5, FixedWords(0))

    assert quantised.integers.tolist() == [5, -5, 2, 5]
    assert quantised.clamped == 3


def test_neither_values_nor_the_clamped_count_show_in_the_repr() -> None:
    quantised = quantise(np.array([987654.0]), 1.0, 4321, FixedWords(0))

    assert repr(quantised) == "Quantised(scale=1.0)"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InvalidParameter, match="finite values"):
        quantise(np.array([0.0, value]), 1.0, 5, FixedWords(0))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_that_is_not_positive_and_finite_is_refused(scale: float) -> None:
    with pytest.raises(InvalidParameter, match="scale > 0"):
        quantise(np.zeros(1), scale, 5, FixedWords(0))


@pytest.mark.parametrize("bound", [0, -1, 2**52])
def test_a_bound_outside_its_range_is_refused(bound: int) -> None:
    with pytest.raises(InvalidParameter, match="bound < 2"):
        quantise(np.zeros(1), 1.0, bound, FixedWords(0))


def test_float32_is_refused_since_its_sums_break_the_bound() -> None:
    with pytest.raises(InvalidParameter, match="float64"):
        quantise(np.zeros(3, dtype=np.float32), 1.0, 5, FixedWords(0))
