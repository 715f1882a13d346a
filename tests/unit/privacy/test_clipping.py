"""Clipping a block at a time: one unit moves the whole by at most 1."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import Segment
from secure_frl.privacy.clipping import add_to_units_, as_clipped_sum, check_blocks, clip_units
from secure_frl.secure_sum import Block

BLOCKS = (Block("policy", 0, 2, 0.4, 0.85), Block("critic", 2, 4, 1.0, 0.15))


def test_each_block_is_scaled_to_its_own_clip_and_share() -> None:
    # |(30, 40)| = 50 > .4: unit length times sqrt(.85). |(0, .5)| < 1: kept, times sqrt(.15).
    vector, dropped = clip_units(np.array([[30.0, 40.0, 0.0, 0.5]]), BLOCKS)

    assert vector == pytest.approx([0.6 * 0.85**0.5, 0.8 * 0.85**0.5, 0.0, 0.5 * 0.15**0.5])
    assert dropped == 0


@settings(max_examples=200)
@given(
    arrays.arrays(np.float64, (3, 4), elements=st.floats(-1e150, 1e150, allow_nan=False)),
    st.integers(0, 2),
)
def test_leaving_a_unit_out_moves_the_whole_by_at_most_one(gradients: np.ndarray, unit: int) -> None:
    with_it, _ = clip_units(gradients.copy(), BLOCKS)
    without, _ = clip_units(np.delete(gradients, unit, axis=0), BLOCKS)

    assert np.linalg.norm(with_it - without) <= 1 + 1e-6


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_unit_with_a_value_that_is_not_finite_adds_the_zero_vector_in_every_block(poison: float) -> None:
    clean = np.array([[1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4]])
    poisoned = np.vstack([clean, [1.0, 2.0, 3.0, poison]])

    vector, dropped = clip_units(poisoned, BLOCKS)

    assert vector.tolist() == clip_units(clean, BLOCKS)[0].tolist()
    assert dropped == 1


def test_a_gradient_of_zero_stays_zero() -> None:
    assert clip_units(np.zeros((2, 4)), BLOCKS)[0].tolist() == [0.0, 0.0, 0.0, 0.0]


def test_rows_of_one_unit_are_added_before_they_are_clipped() -> None:
    rows = np.array([[1.0, 0, 0, 0], [2.0, 0, 0, 0], [0, 5.0, 0, 0]])

    total = np.zeros((2, 4))
    add_to_units_(total, rows, np.array([0, 0, 1]))

    assert total.tolist() == [[3.0, 0, 0, 0], [0, 5.0, 0, 0]]


# --- figures that travel with the update ----------------------------------------------------------------------------

FOUR = (
    Block("policy", 0, 2, 0.4, 0.75),
    Block("critic", 2, 4, 1.0, 0.15),
    Block("clip_quantile", 4, 5, 0.5, 0.04),
    Block("mean_return", 5, 6, 0.5, 0.06),
)


def test_figures_of_a_unit_stand_behind_its_gradients() -> None:
    # A policy block of .5 is cut at .4, one of .3 is not; a return 2 above the middle of [0, 1] is cut to .5.
    cut, _ = clip_units(np.array([[0.3, 0.4, 0.0, 0.0]]), FOUR, np.array([2.0]))
    whole, _ = clip_units(np.array([[0.0, 0.3, 9.0, 9.0]]), FOUR, np.array([-0.1]))

    assert cut[4:] == pytest.approx([-(0.04**0.5), 0.06**0.5])
    assert whole[4:] == pytest.approx([0.04**0.5, -0.2 * 0.06**0.5])


@settings(max_examples=200)
@given(
    arrays.arrays(np.float64, (3, 4), elements=st.floats(-1e150, 1e150, allow_nan=False)),
    arrays.arrays(np.float64, 3, elements=st.floats(-1e150, 1e150, allow_nan=False)),
    st.integers(0, 2),
)
def test_leaving_a_unit_out_moves_gradients_and_figures_together_by_at_most_one(
    gradients: np.ndarray, returns: np.ndarray, unit: int
) -> None:
    with_it, _ = clip_units(gradients.copy(), FOUR, returns)
    without, _ = clip_units(np.delete(gradients, unit, axis=0), FOUR, np.delete(returns, unit))

    assert np.linalg.norm(with_it - without) <= 1 + 1e-6


def test_a_unit_far_beyond_every_bound_moves_the_whole_by_one_and_no_less() -> None:
    assert np.linalg.norm(clip_units(np.full((1, 4), 1e9), FOUR, np.array([1e9]))[0]) == pytest.approx(1.0)


def test_a_unit_whose_return_is_not_finite_adds_nothing_to_any_block() -> None:
    clean = np.array([[1.0, 2.0, 3.0, 4.0]])

    vector, dropped = clip_units(np.vstack([clean, clean]), FOUR, np.array([0.2, np.nan]))

    assert vector.tolist() == clip_units(clean, FOUR, np.array([0.2]))[0].tolist()
    assert dropped == 1


def test_a_block_of_returns_without_returns_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="each unit's return"):
        clip_units(np.ones((1, 4)), FOUR)


def test_the_sum_carries_its_sensitivity_and_hides_what_depends_on_data() -> None:
    found = as_clipped_sum(np.array([123.456, 0, 0, 0]), BLOCKS, "patient", dropped=98765)

    assert found.sensitivity == 1 + 1e-6
    assert "123.456" not in repr(found)
    assert "98765" not in repr(found)


SEGMENTS = (
    Segment("policy", "a", np.array([0, 1])),
    Segment("critic", "b", np.array([0])),
    Segment("critic", "c", np.array([3])),
)


def test_blocks_that_are_the_segments_stretches_pass() -> None:
    assert check_blocks(BLOCKS, SEGMENTS) == 4
    assert check_blocks(FOUR, SEGMENTS) == 6


@pytest.mark.parametrize(
    "blocks",
    [
        BLOCKS[:1],
        (Block("policy", 0, 3, 0.4, 0.85), Block("critic", 3, 4, 1.0, 0.15)),
        (Block("critic", 0, 2, 0.4, 0.85), Block("policy", 2, 4, 1.0, 0.15)),
        (Block("policy", 0, 2, 0.4, 0.85), Block("critic", 2, 4, 1.0, 0.85)),  # shares of 1.7: sensitivity 1.3
        (Block("policy", 0, 2, 0.0, 0.85), Block("critic", 2, 4, 1.0, 0.15)),
        (Block("policy", 0, 2, 1e-200, 0.85), Block("critic", 2, 4, 1.0, 0.15)),  # 1e-170 has no square: 1e30 clips
        (*FOUR[:3], Block("mean_return", 5, 7, 0.5, 0.06)),
        (*FOUR[:3], Block("visit_count", 5, 6, 0.5, 0.06)),
    ],
)
def test_blocks_that_do_not_match_are_refused(blocks: tuple[Block, ...]) -> None:
    with pytest.raises(InvalidParameter):
        check_blocks(blocks, SEGMENTS)
