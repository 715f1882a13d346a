"""The production sampler against the exact distribution and against the exact sampler."""

import bisect
import itertools

import numpy as np
import pytest
from exact_noise import exact_discrete_gaussian
from mpmath import mp, mpf
from numpy.typing import NDArray
from scipy.stats import chi2

from secure_frl.errors import InvalidParameter
from secure_frl.privacy import noise
from secure_frl.randomness import rehearsal_source

DRAWS = 1_000_000
FALSE_ALARM = 1e-6


def probabilities(deviation: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    support = np.arange(-12 * deviation, 12 * deviation + 1)
    weights = np.exp(-(support.astype(np.float64) ** 2) / (2.0 * deviation**2))
    return support, weights / weights.sum()


def binned(values: NDArray[np.int64], deviation: int) -> NDArray[np.int64]:
    edges = np.unique(np.round(np.linspace(-3.5, 3.5, 120) * deviation).astype(np.int64))
    return np.bincount(np.searchsorted(edges, values), minlength=edges.size + 1)


def p_value_against_exact(values: NDArray[np.int64], deviation: int) -> float:
    edges = np.unique(np.round(np.linspace(-3.5, 3.5, 120) * deviation).astype(np.int64))
    support, exact = probabilities(deviation)
    expected = np.bincount(np.searchsorted(edges, support), weights=exact, minlength=edges.size + 1) * values.size
    observed = binned(values, deviation)
    return float(chi2.sf(((observed - expected) ** 2 / expected).sum(), expected.size - 1))


def p_value_of_two(first: NDArray[np.int64], second: NDArray[np.int64], deviation: int) -> float:
    a, b = binned(first, deviation), binned(second, deviation)
    return float(chi2.sf(((a - b) ** 2 / np.maximum(a + b, 1)).sum(), np.count_nonzero(a + b) - 1))


@pytest.mark.statistical
@pytest.mark.parametrize("deviation", [1, 64, 1024, 4096])
def test_production_noise_has_the_exact_distribution(deviation: int) -> None:
    values = noise.discrete_gaussian(deviation, DRAWS, rehearsal_source(11, "noise"))

    assert p_value_against_exact(values, deviation) > FALSE_ALARM


@pytest.mark.statistical
def test_noise_with_half_its_deviation_fails_the_same_test() -> None:
    values = noise.discrete_gaussian(512, DRAWS, rehearsal_source(11, "noise"))

    assert p_value_against_exact(values, 1024) < FALSE_ALARM


@pytest.mark.statistical
def test_noise_wider_by_one_percent_fails_the_same_test() -> None:
    values = noise.discrete_gaussian(1034, DRAWS, rehearsal_source(11, "noise"))

    assert p_value_against_exact(values, 1024) < FALSE_ALARM


@pytest.mark.statistical
@pytest.mark.parametrize("deviation", [3, 1024])
def test_production_agrees_with_the_exact_sampler(deviation: int) -> None:
    production = noise.discrete_gaussian(deviation, DRAWS, rehearsal_source(12, "production"))
    oracle = exact_discrete_gaussian(deviation, DRAWS, rehearsal_source(12, "oracle"))
    halved = noise.discrete_gaussian(max(1, deviation // 2), DRAWS, rehearsal_source(12, "halved"))

    assert p_value_of_two(production, oracle, deviation) > FALSE_ALARM
    assert p_value_of_two(halved, oracle, deviation) < FALSE_ALARM


@pytest.mark.statistical
def test_the_exact_sampler_has_the_exact_distribution() -> None:
    assert p_value_against_exact(exact_discrete_gaussian(1024, DRAWS, rehearsal_source(13)), 1024) > FALSE_ALARM


@pytest.mark.parametrize("deviation", [1, 7, 64, 1024, pytest.param(8192, marks=pytest.mark.campaign)])
def test_the_table_is_within_2_to_minus_110_of_the_exact_distribution(deviation: int) -> None:
    # mpmath at 400 bits; the sum beyond 20 deviations is below 2^-280.
    table = noise.noise_table(deviation)
    entries = [int(h) << 64 | int(low) for h, low in zip(table.high, table.low, strict=True)]
    cumulative = [0, *entries, 1 << 128]
    with mp.workprec(400):
        weights = [mp.exp(-mpf(k * k) / (2 * deviation**2)) for k in range(20 * deviation + 20)]
        total = weights[0] + 2 * sum(weights[1:])
        distance = 2 * sum(weights[table.tail + 1 :]) / total
        for index, (below, above) in enumerate(itertools.pairwise(cumulative)):
            distance += abs(mpf(above - below) / mpf(2) ** 128 - weights[abs(index - table.tail)] / total)
        assert distance / 2 <= mpf(2) ** -110


def test_a_tie_of_the_high_word_is_decided_by_the_low_word() -> None:
    table = noise.noise_table(64)
    position = table.high.size // 2 + 10
    high, low = int(table.high[position]), int(table.low[position])

    class Words:
        is_rehearsal = True

        def __init__(self, *words: int) -> None:
            self.queue = list(words)

        def take(self, count: int) -> bytes:
            raise AssertionError("words only")

        def words(self, count: int) -> NDArray[np.uint64]:
            taken, self.queue = self.queue[:count], self.queue[count:]
            return np.array(taken, dtype=np.uint64)

    below = noise.discrete_gaussian(64, 1, Words(high, low - 1))
    above = noise.discrete_gaussian(64, 1, Words(high, low))

    assert above[0] == below[0] + 1 == position + 1 - table.tail


class Asked:
    """Hands out the given words in order; every low word that a tie asks for is 2^63."""

    is_rehearsal = True

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self.rest = words

    def take(self, count: int) -> bytes:
        raise AssertionError("words only")

    def words(self, count: int) -> NDArray[np.uint64]:
        if count == 1:
            return np.array([1 << 63], dtype=np.uint64)
        asked, self.rest = self.rest[:count], self.rest[count:]
        return asked


def on_either_side_of(high: NDArray[np.uint64]) -> NDArray[np.uint64]:
    edges = np.arange(1 << 16, dtype=np.uint64) << np.uint64(48)
    one = np.uint64(1)  # below 0 it wraps to the largest word, which is wanted too
    return np.concatenate([high, high - one, high + one, edges, edges - one])


def by_bisection(table: noise.NoiseTable, words: NDArray[np.uint64]) -> list[int]:
    entries = [int(high) << 64 | int(low) for high, low in zip(table.high, table.low, strict=True)]
    return [bisect.bisect_right(entries, int(word) << 64 | 1 << 63) - table.tail for word in words]


@pytest.mark.parametrize("deviation", [1, 64, 1024])
def test_the_guide_changes_no_draw_on_either_side_of_an_entry_or_of_its_own_edges(deviation: int) -> None:
    table = noise.noise_table(deviation)
    words = on_either_side_of(table.high)

    assert noise.discrete_gaussian(deviation, words.size, Asked(words)).tolist() == by_bisection(table, words)


def test_nor_in_a_table_whose_entries_lie_on_its_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    step = 1 << 48
    high = np.array([0, step - 1, step, 3 * step + 5, 3 * step + 5, 5 * step - 1, 9 * step, 2**64 - 1], dtype=np.uint64)
    low = np.array([7, 2**63, 2**63 + 1, 1, 2**63, 0, 2**64 - 1, 2**64 - 1], dtype=np.uint64)
    table = noise.NoiseTable(1, 4, high, low, noise._guide(high))
    monkeypatch.setattr(noise, "noise_table", lambda deviation: table)
    words = on_either_side_of(high)

    assert noise.discrete_gaussian(1, words.size, Asked(words)).tolist() == by_bisection(table, words)


def test_extreme_words_give_the_ends_of_the_support() -> None:
    table = noise.noise_table(64)

    class Ends:
        is_rehearsal = True

        def take(self, count: int) -> bytes:
            raise AssertionError("words only")

        def words(self, count: int) -> NDArray[np.uint64]:
            return np.full(count, 2**64 - 1, dtype=np.uint64)

    assert noise.discrete_gaussian(64, 1, Ends())[0] == table.tail


def test_the_same_source_gives_the_same_noise_and_another_does_not() -> None:
    first = noise.discrete_gaussian(1024, 100, rehearsal_source(1))

    assert noise.discrete_gaussian(1024, 100, rehearsal_source(1)).tolist() == first.tolist()
    assert noise.discrete_gaussian(1024, 100, rehearsal_source(2)).tolist() != first.tolist()


@pytest.mark.parametrize("deviation", [0, -1, 8_193])
def test_a_deviation_outside_its_range_is_refused(deviation: int) -> None:
    with pytest.raises(InvalidParameter, match="deviation"):
        noise.discrete_gaussian(deviation, 1, rehearsal_source(1))


def test_no_draws_are_an_empty_vector() -> None:
    assert noise.discrete_gaussian(1024, 0, rehearsal_source(1)).shape == (0,)
    assert exact_discrete_gaussian(1024, 0, rehearsal_source(1)).shape == (0,)
