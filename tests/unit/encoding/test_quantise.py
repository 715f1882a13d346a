"""Reals to integers: unbiased, clamped, silent about how much was clamped."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secure_frl.encoding.quantise import quantise
from secure_frl.errors import InvalidParameter
from secure_frl.randomness import rehearsal_source


class GivenDither:
    """A random source whose 16 bits a value are given, and whose words are all the same."""

    is_rehearsal = True

    def __init__(self, drawn: np.ndarray, word: int) -> None:
        self._bytes, self._word = drawn.astype("<u2").tobytes(), word

    def take(self, count: int) -> bytes:
        taken, self._bytes = self._bytes[:count], self._bytes[count:]
        return taken

    def words(self, count: int) -> np.ndarray:
        return np.full(count, self._word, dtype=np.uint64)


class FixedWords:
    """A random source whose words are given: makes the dither visible."""

    is_rehearsal = True

    def __init__(self, word: int) -> None:
        self._word = word

    def take(self, count: int) -> bytes:
        return self.words(-(-count // 8)).tobytes()[:count]

    def words(self, count: int) -> np.ndarray:
        return np.full(count, self._word, dtype=np.uint64)


@pytest.mark.parametrize("bound", [2**29, 2**40])  # below 2^30 the dither comes in two parts
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
def test_almost_whole_values_leave_their_integer_as_rarely_as_they_should() -> None:
    # 2^-19 above and below a whole number, 2^23 draws each: 16 expected. Poisson: P(X >= 45) and P(X <= 0) together
    # are below 2e-7 for each. The control, a dither of 16 bits alone, would round to the nearest 2^-16 first: none.
    draws = np.repeat([5 + 2.0**-19, 5 - 2.0**-19], 1 << 20)
    random = rehearsal_source(11)

    rounded = [quantise(draws, 1.0, 2**29, random).integers.reshape(2, -1) for _ in range(8)]

    assert 0 < sum(int((above == 6).sum()) for above, _ in rounded) < 45
    assert 0 < sum(int((below == 4).sum()) for _, below in rounded) < 45
    assert {int(value) for value in np.unique(rounded)} == {4, 5, 6}


@pytest.mark.statistical
def test_each_fraction_is_rounded_up_as_often_as_it_says() -> None:
    # 64 fractions, 2^14 draws each: the sum of squared standard scores is chi-square with 64 degrees of freedom, whose
    # quantile at 1e-6 is 132.8 (SciPy 1.17, chi2.isf). The control is a dither with its highest bit stuck.
    fractions = (np.arange(64) + 0.5) / 64
    draws = np.repeat(fractions - 7.0, 1 << 14)

    def scores(integers: np.ndarray) -> float:
        ups = (integers.reshape(64, -1) == -6).mean(axis=1)
        return float(((ups - fractions) ** 2 / (fractions * (1 - fractions)) * 2**14).sum())

    stuck = GivenDither(np.frombuffer(rehearsal_source(5).take(2 * draws.size), "<u2") | 0x8000, 0)

    assert scores(quantise(draws, 1.0, 2**29, rehearsal_source(5)).integers) < 132.8
    assert scores(quantise(draws, 1.0, 2**29, stuck).integers) > 132.8


@given(
    value=st.one_of(st.floats(min_value=-1e9, max_value=1e9), st.floats(min_value=-1, max_value=1)),
    word=st.integers(min_value=0, max_value=2**64 - 1),
    beside=st.sampled_from([None, -1, 0, 1]),
)
@example(value=70865.5 / 2**16, word=0, beside=None)  # halfway between two multiples of 2^-16
@example(value=-70864.5 / 2**16, word=0, beside=None)
def test_over_all_dithers_the_results_add_up_to_the_value(value: float, word: int, beside: int | None) -> None:
    # All 2^16 dithers once, beside exact rational arithmetic: the results add up to 2^16 x, of whose fraction f a
    # share f of all r, here r < f or r >= 1 - f, goes up. r is the highest 53 bits of the word, often next to where it
    # decides. Without r the sum would be the nearest integer whatever r is; of two as near it is the odd one.
    exact = Fraction(value) * 2**16
    rest = exact - (round(exact + 1) - 1)
    if beside is not None:
        word = min(max(int(abs(rest) * 2**53) + beside, 0), 2**53 - 1) << 11
    r = Fraction(word >> 11, 2**53)
    up = r < rest if rest >= 0 else r >= -rest
    dithers = GivenDither(np.arange(2**16), word)

    rounded = quantise(np.full(2**16, value), 1.0, 2**30 - 1, dithers).integers

    whole = Fraction(value).__floor__()
    assert int(rounded.sum()) == exact.__floor__() + up
    assert set(rounded.tolist()) <= {whole, whole + 1}


def test_every_block_has_its_own_rare_values_bound_and_refusal() -> None:
    # 2^17 values a block. A dither of 1 says: r decides, and r = 0 takes all that lies above a multiple of 2^-16 up.
    size = 2**17 + 3
    one = np.ones(size)
    tail = np.concatenate([np.zeros(2**17), [2.0**-20, 0.0, 2.0**-20]])

    rounded = quantise(5.0 * one + tail, 1.0, 2**29, GivenDither(one, 0)).integers
    clamped = quantise(one + 2.0**40 * tail[::-1], 1.0, 1000, GivenDither(one, 0))

    assert rounded[: 2**17].tolist() == [5] * 2**17
    assert rounded[2**17 :].tolist() == [6, 5, 6]
    assert clamped.integers[:4].tolist() == [1000, 1, 1000, 1]
    assert clamped.clamped == 2
    with pytest.raises(InvalidParameter, match="finite values"):
        quantise(np.where(tail > 0, np.nan, one), 1.0, 1000, GivenDither(one, 0))


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
