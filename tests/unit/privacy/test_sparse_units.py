"""Clipped sums of sparse units: the sums of `clip_units`, whose oracle is the dense form."""

from __future__ import annotations

import numpy as np
import pytest

from secure_frl.learning.value_sums import Entries
from secure_frl.privacy.clipping import clip_units
from secure_frl.privacy.sparse_units import clip_entries
from secure_frl.secure_sum import Block

BLOCKS = (
    Block("policy", 0, 40, 0.3, 0.87),
    Block("pair_counts", 40, 70, 2.0, 0.08),
    Block("returns", 70, 80, 0.6, 0.05),
)
START = (Block("policy", 0, 40, 0.3, 0.0), *BLOCKS[1:])


def entries_of(dense: np.ndarray) -> Entries:
    unit, place = np.nonzero(dense)
    return Entries(unit.astype(np.int64), place.astype(np.int64), dense[unit, place])


def units(count: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    dense = generator.normal(size=(count, 80)) * 10.0 ** generator.uniform(-3, 2, size=(count, 1))
    dense[generator.random(dense.shape) < 0.8] = 0.0
    return dense


@pytest.mark.parametrize("blocks", [BLOCKS, START])
def test_the_sum_is_that_of_the_dense_form(blocks: tuple[Block, ...]) -> None:
    dense = units(200)

    vector, dropped = clip_entries(entries_of(dense), blocks, 200)

    np.testing.assert_allclose(vector, clip_units(dense.copy(), blocks)[0], rtol=1e-12, atol=1e-12)
    assert dropped == 0


def test_removing_one_of_ten_thousand_aligned_units_moves_the_sum_by_the_root_of_the_rounds_shares() -> None:
    alike = np.tile(units(1, seed=3) * 100, (10_000, 1))

    whole, _ = clip_entries(entries_of(alike), START, 10_000)
    without, _ = clip_entries(entries_of(alike[1:]), START, 9_999)

    assert np.linalg.norm(whole - without) == pytest.approx(np.sqrt(0.13), rel=1e-6)
    assert not whole[:40].any()  # a block without a share holds nothing of anybody


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_unit_with_a_value_that_is_not_finite_adds_nothing_in_any_block(poison: float) -> None:
    dense = units(5)
    spoiled = dense.copy()
    spoiled[2, 75] = poison

    vector, dropped = clip_entries(entries_of(spoiled), BLOCKS, 5)

    clean, _ = clip_entries(entries_of(np.where(np.arange(5)[:, None] == 2, 0.0, dense)), BLOCKS, 5)
    assert vector.tolist() == clean.tolist()
    assert dropped == 1


def test_nobody_gives_zeros() -> None:
    nothing = np.zeros(0, dtype=np.int64)

    vector, dropped = clip_entries(Entries(nothing, nothing, np.zeros(0)), BLOCKS, 0)

    assert vector.tolist() == [0.0] * 80
    assert dropped == 0
