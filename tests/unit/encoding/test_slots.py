"""Words to slots and back, without ciphertexts: limbs, marks, and the range that a plan admits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from secure_frl.encoding import ring
from secure_frl.encoding.slots import ChunkPlan, from_slots, greatest_limb_bits, plan_chunks, to_slots
from secure_frl.errors import BitBudget, DecryptionFailed, InvalidParameter


def uniform(plan: ChunkPlan, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, 1 << plan.modulus_bits, plan.words, np.uint64, endpoint=False)
    return drawn.astype(ring.word_type(plan.modulus_bits))


@pytest.mark.parametrize(("sites", "bits"), [(3, 31), (5, 30), (10, 29), (16, 29), (64, 27), (100, 26)])
def test_limbs_have_the_bits_of_the_designs_table(sites: int, bits: int) -> None:
    assert greatest_limb_bits(sites) == bits


@pytest.mark.parametrize(
    ("sites", "modulus_bits", "widths"),
    [
        (10, 29, (29,)),
        (10, 30, (29, 1)),
        (10, 32, (29, 3)),
        (100, 64, (26, 26, 12)),
        (3, 62, (31, 31)),
        (3, 64, (31, 31, 2)),
    ],
)
def test_a_ring_wider_than_the_exact_range_is_cut_into_limbs(
    sites: int, modulus_bits: int, widths: tuple[int, ...]
) -> None:
    plan = plan_chunks(sites=sites, length=2042, modulus_bits=modulus_bits)  # with lanes exactly one chunk

    assert plan.limb_widths == widths
    assert plan.chunks == len(widths)
    assert replace(plan, words=2047).chunks == 2 * len(widths)


@pytest.mark.parametrize("sites", [3, 10, 100])
def test_one_bit_beyond_the_exact_range_is_refused(sites: int) -> None:
    plan = plan_chunks(sites=sites, length=8, modulus_bits=40)

    with pytest.raises(BitBudget, match=f"limb_bits={plan.limb_bits + 1}"):
        replace(plan, limb_bits=plan.limb_bits + 1)


def test_too_many_sites_words_or_bits_are_refused() -> None:
    with pytest.raises(BitBudget, match="sites"):
        plan_chunks(sites=2**32 + 1, length=8, modulus_bits=8)
    with pytest.raises(BitBudget, match="chunks"):
        plan_chunks(sites=100, length=2046 * 2**25, modulus_bits=20)
    with pytest.raises(InvalidParameter, match="modulus_bits"):
        plan_chunks(sites=100, length=8, modulus_bits=65)


@pytest.mark.parametrize(("sites", "modulus_bits"), [(3, 20), (10, 32), (100, 64)])
def test_summed_slots_join_to_the_sum_of_the_words(sites: int, modulus_bits: int) -> None:
    plan = plan_chunks(sites=sites, length=3000, modulus_bits=modulus_bits)
    vectors = [uniform(plan, seed) for seed in range(sites)]
    expected = [sum(int(vector[at]) for vector in vectors) % 2**modulus_bits for at in range(plan.words)]

    summed = [sum(parts) for parts in zip(*(to_slots(vector, plan) for vector in vectors), strict=True)]

    assert from_slots(summed, plan, sites).tolist() == expected


def test_a_slot_is_the_limb_centred_behind_two_marks() -> None:
    plan = ChunkPlan(sites=10, words=2047, modulus_bits=32, limb_bits=29)
    words = np.zeros(2047, np.uint32)
    words[0], words[2046] = 2**32 - 1, 5 + 3 * 2**29

    slots = list(to_slots(words, plan))

    assert [chunk[:2].tolist() for chunk in slots] == [[1, 1], [1, 2], [1, 3], [1, 4]]
    # 2^31 is added to a word, modulo 2^32: 29 bits, then 3
    assert (slots[0][2], slots[2][2]) == (2**28 - 1, 3 - 4)  # a word of -1
    assert (slots[0][3], slots[2][3]) == (-(2**28), 4 - 4)  # a word of zero
    assert (slots[1][2], slots[3][2]) == (5 - 2**28, 3 + 4 - 4)
    assert not slots[1][3:].any()


def test_one_limb_is_the_value_itself_so_that_a_sum_of_slots_says_no_more_than_the_sum() -> None:
    """Else the sum over the integers would count, at each coordinate, the sites with a value below zero."""
    plan, width = plan_chunks(sites=3, length=3, modulus_bits=20), 2**20
    values = np.array([[0, 5, -7, 2**19 - 1, -(2**19), 1, 2], [0, -5, 7, 1, -1, -1, 2], [1, -5, -7, 0, 0, 0, -2]])

    rows = [next(to_slots((vector % width).astype(np.uint32), plan)) for vector in values]

    assert [row[2:9].tolist() for row in rows] == values.tolist()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("chunks swapped", lambda rows: rows[::-1]),
        ("a limb in the place of another", lambda rows: [rows[2], rows[3], rows[0], rows[1]]),
        ("a chunk missing", lambda rows: rows[:-1]),
        ("a chunk too many", lambda rows: [*rows, rows[0]]),
        ("one chunk with another count", lambda rows: [rows[0] + np.eye(1, 2048, 0, dtype=np.int64)[0], *rows[1:]]),
        ("something in an unused slot", lambda rows: [*rows[:-1], rows[-1] + np.eye(1, 2048, 2047, dtype=np.int64)[0]]),
        ("a value below every sum", lambda rows: [rows[0] - np.eye(1, 2048, 2, dtype=np.int64)[0] * 2**33, *rows[1:]]),
        ("a value above every sum", lambda rows: [rows[0] + np.eye(1, 2048, 2, dtype=np.int64)[0] * 2**33, *rows[1:]]),
        ("floats", lambda rows: [row.astype(float) for row in rows]),
    ],
)
def test_what_is_no_sum_of_these_sites_is_refused_without_a_reason(name: str, change: object) -> None:
    plan = plan_chunks(sites=3, length=3000, modulus_bits=40)
    rows = [sum(parts) for parts in zip(*(to_slots(uniform(plan, seed), plan) for seed in range(2)), strict=True)]
    assert from_slots(rows, plan, 2) is not None

    with pytest.raises(DecryptionFailed) as caught:
        from_slots(change(rows), plan, 2)

    assert str(caught.value) == (
        "expected the encrypted sum of the named sites, got other ciphertexts. Discard this round."
    )


@given(order=st.permutations(range(4)) | st.lists(st.integers(0, 3), max_size=5))
@example(order=[0, 2, 1, 3])  # a limb's second chunk for another limb's first one
@example(order=[0, 1, 2, 3, 3])
@example(order=[0, 1, 2])
@settings(deadline=None, max_examples=60)
def test_16_chunks_and_limbs_in_any_order_but_their_own_are_refused(order: list[int]) -> None:
    plan = plan_chunks(sites=3, length=4088, modulus_bits=62)  # two limbs of 31 bits in chunks without unused slots
    rows = [sum(parts) for parts in zip(*(to_slots(uniform(plan, seed), plan) for seed in range(2)), strict=True)]

    if order == [0, 1, 2, 3]:
        assert from_slots([rows[at] for at in order], plan, 2) is not None
    else:
        with pytest.raises(DecryptionFailed):
            from_slots([rows[at] for at in order], plan, 2)


def test_another_number_of_contributors_is_refused() -> None:
    plan = plan_chunks(sites=3, length=8, modulus_bits=16)
    rows = list(to_slots(uniform(plan, 1), plan))

    with pytest.raises(DecryptionFailed):
        from_slots(rows, plan, 2)


def test_words_of_another_ring_are_refused() -> None:
    plan = plan_chunks(sites=3, length=8, modulus_bits=16)

    for words in (np.zeros(11, np.uint32), np.zeros(12, np.uint64), np.full(12, 2**16, np.uint32)):
        with pytest.raises(InvalidParameter):
            next(to_slots(words, plan))
