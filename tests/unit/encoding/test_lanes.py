"""Lanes: a sum is taken apart only when count, weight and zeros hold."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sum_events import sum_constants

from secure_frl.encoding import lanes
from secure_frl.errors import InvalidParameter, LaneMismatch, SumOutOfRange
from secure_frl.secure_sum import SumConstants

CONSTANTS = sum_constants(
    3,
    sites=5,
    threshold=4,
    min_survivors=4,
    honest_shares=3,
    neighbours=4,
    modulus_bits=12,
    scale=2.0,
    bound=300,
    noise_bound=100,
    integer_noise_scale=64,
)


def summed(parts: list[list[int]], constants: SumConstants = CONSTANTS) -> np.ndarray:
    total = np.zeros(7, dtype=np.uint32)
    for part in parts:
        total = total + lanes.to_ring_vector(np.array(part, dtype=np.int64), constants).words
    return total


@given(st.lists(st.lists(st.integers(-300, 300), min_size=3, max_size=3), min_size=1, max_size=5))
def test_the_sum_of_ring_vectors_is_the_sum_of_the_integers(parts: list[list[int]]) -> None:
    values = lanes.from_ring_sum(summed(parts), CONSTANTS, survivors=len(parts))

    assert values.dtype == np.int64
    assert values.tolist() == np.sum(parts, axis=0).tolist()


def test_the_words_of_one_site_are_the_protocols_layout() -> None:
    vector = lanes.to_ring_vector(np.array([1, -1, 7], dtype=np.int64), dataclasses.replace(CONSTANTS, weight=9))

    assert vector.words.tolist() == [1, 0, 1, 4095, 7, 9, 0]
    assert (vector.modulus_bits, vector.scale) == (12, 2.0)


@pytest.mark.parametrize("survivors", [1, 3])
def test_a_missing_or_doubled_contribution_is_refused(survivors: int) -> None:
    with pytest.raises(LaneMismatch, match="expected lanes"):
        lanes.from_ring_sum(summed([[1, 2, 3], [4, 5, 6]]), CONSTANTS, survivors=survivors)


@pytest.mark.parametrize("position", [0, 1, 5, 6])
def test_a_changed_lane_is_refused(position: int) -> None:
    words = summed([[1, 2, 3]])
    words[position] += np.uint32(1)

    with pytest.raises(LaneMismatch):
        lanes.from_ring_sum(words, CONSTANTS, survivors=1)


def test_a_vector_shifted_by_one_word_is_refused() -> None:
    with pytest.raises(LaneMismatch):
        lanes.from_ring_sum(np.roll(summed([[1, 2, 3]]), 1), CONSTANTS, survivors=1)


def test_a_value_beyond_what_the_charters_sites_can_sum_to_is_refused() -> None:
    # 5 * 300 + 100 = 1600 < 2^11
    words = summed([[0, 0, 0]])
    words[2] = 1601

    with pytest.raises(SumOutOfRange):
        lanes.from_ring_sum(words, CONSTANTS, survivors=1)


def test_another_length_than_the_charters_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="3 values"):
        lanes.to_ring_vector(np.zeros(4, dtype=np.int64), CONSTANTS)
    with pytest.raises(InvalidParameter, match="uint32"):
        lanes.from_ring_sum(np.zeros(6, dtype=np.uint32), CONSTANTS, survivors=1)
