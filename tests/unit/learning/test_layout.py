"""Which coordinates enter the message."""

from __future__ import annotations

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import admissible_actions
from secure_frl.learning.layout import Layout, Segment, table_layout
from secure_frl.secure_sum import Block

TWO_STATES = np.array([[True, True, False], [False, True, False]])


def test_icu_sepsis_sends_free_logits_and_two_numbers_a_state() -> None:
    layout = table_layout(admissible_actions()[:713], "private")

    # 2,001 free logits of the published model, and 2 x 713 for the critic.
    assert layout.length == 2001 + 2 * 713 == 3427
    assert [segment.coordinates.size for segment in layout.segments] == [2001, 713, 713]


def test_a_state_without_a_choice_sends_no_logit() -> None:
    layout = table_layout(TWO_STATES, "none")

    assert layout.segments[0].coordinates.tolist() == [0, 1]
    assert layout.length == 2


def test_segments_follow_each_other() -> None:
    layout = table_layout(TWO_STATES, "private")

    slices = [layout.slice_of(segment.parameter) for segment in layout.segments]

    assert slices == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with pytest.raises(InvalidParameter, match="unknown"):
        layout.slice_of("unknown")


def test_blocks_carry_their_clip_and_share() -> None:
    blocks = table_layout(TWO_STATES, "private").blocks(0.4, 1.0, 0.15)

    assert blocks == (Block("policy", 0, 2, 0.4, 0.85), Block("critic", 2, 6, 1.0, 0.15))


def test_without_a_critic_the_policy_has_all_the_noise() -> None:
    assert table_layout(TWO_STATES, "none").blocks(0.4, 1.0, 0.15) == (Block("policy", 0, 2, 0.4, 1.0),)


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_a_share_that_leaves_a_block_without_budget_is_refused(share: float) -> None:
    with pytest.raises(InvalidParameter, match="critic_noise_share"):
        table_layout(TWO_STATES, "private").blocks(0.4, 1.0, share)


def test_layouts_that_are_none_are_refused() -> None:
    ascending = np.array([0, 1], dtype=np.int64)
    with pytest.raises(InvalidParameter, match="ascend"):
        Layout((Segment("policy", "w", ascending[::-1].copy()),))
    with pytest.raises(InvalidParameter, match="consecutive"):
        Layout((Segment("a", "w", ascending), Segment("b", "x", ascending), Segment("a", "y", ascending)))
    with pytest.raises(InvalidParameter, match="at least one"):
        Layout(())
    with pytest.raises(InvalidParameter, match="private, network or none"):
        table_layout(TWO_STATES, "shared")
