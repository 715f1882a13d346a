"""Integers and words modulo 2^w."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_frl.encoding import ring
from secure_frl.errors import BitBudget, InvalidParameter, SumOutOfRange


@given(data=st.data(), bits=st.integers(min_value=2, max_value=64))
def test_words_return_to_the_same_integers(data: st.DataObject, bits: int) -> None:
    half = 2 ** (bits - 1)
    values = np.array(data.draw(st.lists(st.integers(-half, half - 1), max_size=20)), dtype=np.int64)

    words = ring.to_words(values, bits)

    assert words.dtype == (np.uint32 if bits <= 32 else np.uint64)
    assert not words.size or int(words.max()) < 2**bits
    assert ring.centred(words, bits).tolist() == values.tolist()


@given(
    parts=st.lists(st.lists(st.integers(-1000, 1000), min_size=4, max_size=4), min_size=1, max_size=8),
    mask=st.integers(0, 2**32 - 1),
)
def test_sums_modulo_the_word_are_sums_of_the_integers(parts: list[list[int]], mask: int) -> None:
    values = np.array(parts, dtype=np.int64)
    bits = 15  # 8 * 1000 < 2^14

    with np.errstate(over="ignore"):
        total = np.zeros(4, dtype=np.uint32) + np.uint32(mask)
        for row in values:
            total = total + ring.to_words(row, bits)
        total = total - np.uint32(mask)

    assert ring.centred(total, bits).tolist() == values.sum(axis=0).tolist()


def test_noise_bound_is_the_example_of_the_protocol() -> None:
    # secure_aggregation.md, section 4: n = 10, D = 5,317, S_n = 1,024 gives 27,855.
    assert ring.noise_bound(1024, 10, 5317) == 27_855
    assert ring.noise_bound(0, 10, 5317) == 0


@pytest.mark.parametrize(
    ("sites", "bound", "noise_bound", "width"),
    [
        (10, 3_022_865, 27_690, 26),
        (1, 1, 0, 2),
        (3, 21, 0, 7),
        (3, 21, 1, 8),
        (1, 2**31 - 1, 0, 32),
        (1, 2**31, 0, 33),
        (1, 2**63 - 1, 0, 64),
    ],
)
def test_width_is_the_smallest_whose_half_is_above_the_sum(
    sites: int, bound: int, noise_bound: int, width: int
) -> None:
    assert ring.width_for(sites=sites, bound=bound, noise_bound=noise_bound, weight=1) == width
    assert sites * bound + noise_bound < 2 ** (width - 1)


def test_width_leaves_room_for_the_weight_lane() -> None:
    assert ring.width_for(sites=10, bound=1, noise_bound=0, weight=1000) == 15  # 10,000 < 2^14


def test_a_sum_beyond_64_bits_is_refused_with_the_width_it_needs() -> None:
    with pytest.raises(BitBudget, match="modulus_bits=65"):
        ring.width_for(sites=1, bound=2**63, noise_bound=0, weight=1)


@pytest.mark.parametrize("bits", [2, 31, 32, 33, 47, 63, 64])
def test_a_sum_at_the_edge_of_its_width_is_exact_and_one_beyond_wraps(bits: int) -> None:
    sites, largest = 3, 2 ** (bits - 1) - 1
    rows = [np.array([sign * (largest // sites), 0], dtype=np.int64) for sign in (1, -1)]
    rest = largest - sites * (largest // sites)

    for sign, row in zip((1, -1), rows, strict=True):
        total = ring.to_words(row + np.array([sign * rest, 0]), bits)  # the largest sum that this width holds
        for _ in range(sites - 1):
            total = total + ring.to_words(row, bits)
        assert ring.centred(total, bits).tolist() == [sign * largest, 0]
    beyond = ring.to_words(np.array([largest]), bits) + ring.to_words(np.array([1]), bits)
    assert ring.centred(beyond, bits).tolist() == [-largest - 1]  # why the budget is strict: n*B < 2^(w-1)
    assert ring.width_for(sites=1, bound=largest, noise_bound=0, weight=1) == bits


def test_reduction_leaves_w_bits_and_the_same_sum() -> None:
    words = np.array([2**64 - 1, 2**40 + 5], dtype=np.uint64)

    ring.reduce_(words, 40)

    assert words.tolist() == [2**40 - 1, 5]
    full = np.array([2**64 - 1], dtype=np.uint64)
    ring.reduce_(full, 64)
    assert full.tolist() == [2**64 - 1]


@pytest.mark.parametrize("value", [8, -9])
def test_a_value_that_would_wrap_is_refused_without_being_named(value: int) -> None:
    with pytest.raises(InvalidParameter, match="one outside") as refusal:
        ring.to_words(np.array([value, 0], dtype=np.int64), 4)
    assert str(value) not in str(refusal.value).replace("2^", "")


@pytest.mark.parametrize("bits", [0, 1, 65])
def test_an_unknown_width_is_refused(bits: int) -> None:
    with pytest.raises(InvalidParameter, match="modulus_bits"):
        ring.centred(np.zeros(1, dtype=np.uint32), bits)


def test_only_int64_enters_the_ring() -> None:
    with pytest.raises(InvalidParameter, match="int64"):
        ring.to_words(np.zeros(1), 8)  # type: ignore[arg-type]  # a float is what is being refused


@pytest.mark.parametrize("value", [36, -36])
def test_a_sum_that_no_honest_sites_could_make_is_refused(value: int) -> None:
    ring.check_sum_range(np.array([35, -35], dtype=np.int64), sites=3, bound=10, noise_bound=5)

    with pytest.raises(SumOutOfRange, match="35"):
        ring.check_sum_range(np.array([0, value], dtype=np.int64), sites=3, bound=10, noise_bound=5)


def test_ten_thousand_sites_at_the_bound_sum_exactly() -> None:
    bits = ring.width_for(sites=10_000, bound=1_000_000, noise_bound=7, weight=1)
    row = ring.to_words(np.array([1_000_000, -1_000_000], dtype=np.int64), bits)
    total = np.zeros(2, ring.word_type(bits))

    for _ in range(10_000):
        total += row

    assert bits == 35  # 10^10 + 7 < 2^34
    assert ring.centred(total, bits).tolist() == [10**10, -(10**10)]
    ring.check_sum_range(ring.centred(total, bits), sites=10_000, bound=1_000_000, noise_bound=7)
