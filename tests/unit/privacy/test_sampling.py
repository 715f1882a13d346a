"""Poisson sampling: a coin of its own for each unit, from the generator that is passed in, never above its rate."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.privacy.sampling import poisson_sample
from secure_frl.randomness import rehearsal_source, system_source


class _Words:
    """A source that hands out the given words."""

    is_rehearsal = True

    def __init__(self, *words: int) -> None:
        self._words = np.array(words, dtype=np.uint64)

    def take(self, count: int) -> bytes:
        return self.words(count // 8).tobytes()

    def words(self, count: int) -> NDArray[np.uint64]:
        taken, self._words = self._words[:count], self._words[count:]
        return taken


def test_rows_of_one_unit_share_its_coin() -> None:
    units = np.array([2, 0, 1, 0, 2], dtype=np.int64)

    drawn = poisson_sample(units, 0.5, _Words(0, 2**64 - 1, 0))

    assert drawn.tolist() == [True, True, False, True, True]


def test_the_probability_is_the_rate_or_just_below_it() -> None:
    # a third is no multiple of 2^-64: floor(2^64 / 3), in float64's reading of 1/3, is the first word that is out
    first_out = int((1 / 3) * 2**64)
    units = np.arange(2, dtype=np.int64)

    assert first_out / 2**64 <= 1 / 3
    assert poisson_sample(units, 1 / 3, _Words(first_out - 1, first_out)).tolist() == [True, False]
    assert poisson_sample(units, 0.25, _Words(2**62 - 1, 2**62)).tolist() == [True, False]


def test_at_rate_1_everybody_is_there_and_no_coin_is_thrown() -> None:
    assert poisson_sample(np.arange(5, dtype=np.int64), 1.0, _Words()).all()


def test_nobody_is_a_sample_too() -> None:
    assert poisson_sample(np.empty(0, dtype=np.int64), 0.5, _Words()).shape == (0,)
    assert not poisson_sample(np.arange(3, dtype=np.int64), 0.5, _Words(*[2**64 - 1] * 3)).any()


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(InvalidParameter, match="sampling_rate"):
        poisson_sample(np.arange(3, dtype=np.int64), rate, system_source())


@pytest.mark.statistical
def test_sizes_vary_as_independent_coins_do() -> None:
    """2,000 samples of 400 units at .1: a fixed size would have variance 0, and one coin for all 14,400.

    Mean 40, variance 36. Bounds of five standard errors: .67 and 5.7; false alarm below 1e-5.
    """
    source = rehearsal_source(7, "sampling")
    units = np.arange(400, dtype=np.int64)

    samples = np.stack([poisson_sample(units, 0.1, source) for _ in range(2000)])

    sizes = samples.sum(axis=1)
    assert abs(sizes.mean() - 40) < 0.67
    assert abs(sizes.var() - 36) < 5.7
    assert abs(samples.mean(axis=0) - 0.1).max() < 0.1 * 0.5  # no unit is favoured: 7 standard errors
