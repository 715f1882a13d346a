"""Canaries through the clip: orthogonal, of full length, and over the whole message."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from clipped_sums import clipped_sum
from sum_events import sum_constants

from secure_frl.privacy.canaries import Canaries
from secure_frl.secure_sum import Block

BLOCKS = (Block("policy", 0, 300, 0.4, 0.85), Block("critic", 300, 500, 0.7, 0.15))


def clipped(
    made: Canaries, turn: int, numbers: list[int], *, sign: int = 1, blocks: tuple[Block, ...] = BLOCKS
) -> np.ndarray:
    """The clipped sum of these canaries, through the code that patients' gradients go through."""
    window = made.window(np.array(numbers, dtype=np.int64), np.full(len(numbers), sign, dtype=np.float32))
    constants = sum_constants(blocks[-1].stop, blocks=blocks)
    return clipped_sum(
        made.policy,
        made.losses(turn),
        window,
        segments=made.segments,
        constants=constants,
    ).vector


@pytest.mark.parametrize("turn", [0, 1, 5])
def test_clipped_canaries_of_one_sum_are_orthonormal(turn: int) -> None:
    made = Canaries(BLOCKS)
    several = np.array([clipped(made, turn, [number]) for number in (0, 1, 99, 100, 199)])

    assert np.allclose(several @ several.T, np.eye(5), atol=1e-12)
    assert made.norm == pytest.approx(1.0)
    assert made.most_in_one_sum == 200


def test_each_score_is_its_own_canarys_and_no_others() -> None:
    made = Canaries(BLOCKS)

    found = made.scores(2, clipped(made, 2, [0, 3, 199]), 200)

    expected = np.zeros(200)
    expected[[0, 3, 199]] = 1.0
    assert np.allclose(found, expected, atol=1e-12)
    assert np.allclose(made.scores(2, clipped(made, 2, [3], sign=-1), 200)[3], -1.0)


def test_sums_in_turn_visit_every_coordinate() -> None:
    made = Canaries(BLOCKS)
    visited = sum(np.abs(clipped(made, turn, list(range(200)))) for turn in range(2))

    assert (visited > 0).all()


def test_a_canary_that_is_not_clipped_is_three_times_as_long() -> None:
    loose = tuple(replace(block, clip_norm=10 * block.clip_norm) for block in BLOCKS)
    vector = clipped(Canaries(BLOCKS), 0, [0], blocks=loose)

    assert np.linalg.norm(vector) * 10 == pytest.approx(3.0)


def test_blocks_of_one_figure_carry_no_canaries_and_cost_their_share_of_the_length() -> None:
    blocks = (
        Block("policy", 0, 300, 0.4, 0.8),
        Block("critic", 300, 500, 0.7, 0.19),
        Block("mean_return", 500, 501, 1.0, 0.01),
    )
    made = Canaries(blocks)

    vector = clipped(made, 0, [7], blocks=blocks)

    assert made.most_in_one_sum == 200
    assert made.norm == pytest.approx(math.sqrt(0.99))
    assert np.linalg.norm(vector[:500]) == pytest.approx(math.sqrt(0.99))
    assert made.scores(0, vector, 200)[7] == pytest.approx(1.0)


def test_a_short_block_of_gradients_does_not_cut_an_audit_into_many_sums() -> None:
    blocks = (Block("policy", 0, 300, 0.4, 0.96), Block("critic", 300, 304, 0.7, 0.04))
    made = Canaries(blocks)

    assert made.most_in_one_sum == 300
    assert np.linalg.norm(clipped(made, 0, [299], blocks=blocks)) == pytest.approx(math.sqrt(0.96))
