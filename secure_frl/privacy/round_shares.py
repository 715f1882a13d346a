"""Which blocks of a message a round's release fills, and with what part of the noise budget. No torch.

Most messages are whole in every round: their shares add to 1. Fitted value iteration has one budget for all rounds: a
round fills some blocks and leaves noise in the others, so the shares of a round add to less than 1 and those of all
rounds to 1. One unit moves a release by the root of its shares, in units of the scale, so Gaussian composition of all
rounds is one event of the whole budget (Dong, Roth and Su 2022, Corollary 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from secure_frl.secure_sum import VALUE_START_BLOCKS, Block

BEST_ROUNDS = 2  # value start and one backup: best, or as good, at epsilon 1 to 8 (ablations in docs/learning.md)
SHARES_TOLERANCE = 1e-9  # of a sum of shares


def share_of(blocks: Sequence[Block]) -> float:
    """Return what the noise shares of blocks add to: the squared shift of one unit, in squared units of the scale."""
    return math.fsum(block.noise_share for block in blocks)


def is_partial(blocks: Sequence[Block]) -> bool:
    """Return whether a release of these blocks spends less than the whole budget: its shares add to less than 1."""
    return share_of(blocks) < 1 - SHARES_TOLERANCE


def root_share(blocks: Sequence[Block]) -> float:
    """Return by how many units of the scale one unit moves a release of these blocks: 1 where shares add to 1."""
    return math.sqrt(share_of(blocks)) if is_partial(blocks) else 1.0


def has_value_start(blocks: Sequence[Block]) -> bool:
    """Return whether a charter's message is one of fitted value iteration, whose rounds differ."""
    return any(block.name in VALUE_START_BLOCKS for block in blocks)


def blocks_in_round(blocks: tuple[Block, ...], rounds: int, round_number: int) -> tuple[Block, ...]:
    """Return a charter's blocks with the noise shares that they have in one round, counted from 1.

    The blocks of a value start have their shares in round 1, the others theirs evenly in the rounds after it; a block
    has none in a round that it is not for.
    """
    if not has_value_start(blocks):
        return blocks
    is_start = round_number == 1
    parts = 1 if is_start else rounds - 1

    def share(block: Block) -> float:
        return block.noise_share / parts if (block.name in VALUE_START_BLOCKS) == is_start else 0.0

    return tuple(replace(block, noise_share=share(block)) for block in blocks)
