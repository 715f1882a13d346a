"""Per-unit gradients to one clipped sum, in float64: what bounds the influence of one person.

Each block of a unit's gradient is scaled to its clip norm at most, divided by it and multiplied by the root of its
noise share; so one unit moves the whole vector by at most 1 in L2, and one noise multiplier serves every block.
Nothing here refuses aloud because of a person's data: a unit that cannot be used adds the zero vector, and how many
there were stays at the site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import Segment
from secure_frl.privacy.round_shares import SHARES_TOLERANCE, share_of
from secure_frl.privacy.sensitivity import SENSITIVITY_MARGIN
from secure_frl.secure_sum import AUXILIARY_BLOCKS, CLIP_QUANTILE, MEAN_RETURN, Block

SMALLEST_CLIP = 1e-100  # squares of values far below it are 0: a gradient longer than its clip would have no norm


@dataclass(frozen=True, slots=True, eq=False)
class ClippedSum:
    """The sum over units before rounding and noise. Never leaves the process."""

    vector: NDArray[np.float64] = field(repr=False)  # [P]
    blocks: tuple[Block, ...]
    sensitivity: float  # L2 under add-or-remove-one, with the margin for float64
    unit: str  # trajectory | patient
    dropped: int = field(repr=False)  # units that contributed zero: depends on data, stays at the site


def add_to_units_(total: NDArray[np.float64], rows: NDArray[np.float64], unit_of_row: NDArray[np.int64]) -> None:
    """Add each row to its unit's, in the order of the rows: whoever is beside a unit, its sum has the same bits.

    total: float64 [units, P], changed in place. rows: float64 [rows, P]. unit_of_row: int64 [rows].
    """
    for row, unit in enumerate(unit_of_row):
        total[unit] += rows[row]


def clip_units(
    gradients: NDArray[np.float64], blocks: Sequence[Block], returns: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], int]:
    """Return the sum of clipped messages of units, float64 [P], and how many units counted as zero.

    gradients: float64 [units, columns], one row a unit; changed in place where not finite. blocks: cover [0, P), the
    policy's first. returns: float64 [units], of each unit from the middle of the public range; asked for by a block
    `mean_return`, and cut to that block's bound. A block `clip_quantile` holds +1/2 for a unit whose policy block is
    not cut, else -1/2.
    Block b of a unit becomes sqrt(s_b) g_b / max(C_b, |g_b|): L2 at most sqrt(s_b), so the whole at most 1.
    Raises InvalidParameter without the returns that a block asks for.
    Source: Abadi et al. 2016, Algorithm 1, "Clip gradient", a block at a time (McMahan et al. 2018, section 2);
    Andrew et al. 2021, Algorithm 1, for the indicator.
    """
    fine: NDArray[np.bool_] = np.asarray(np.isfinite(gradients).all(axis=1))
    if returns is not None:
        fine &= np.isfinite(returns)
    gradients[~fine] = 0.0  # 0 times NaN would be NaN
    vector = np.zeros(blocks[-1].stop, dtype=np.float64)
    is_whole = fine
    for number, block in enumerate(blocks):
        if block.name in AUXILIARY_BLOCKS:
            continue
        part = gradients[:, block.start : block.stop]
        norms = np.sqrt(np.einsum("ij,ij->i", part, part))
        if number == 0:
            is_whole = np.asarray(norms <= block.clip_norm)
        weights = np.sqrt(block.noise_share) / np.maximum(norms, block.clip_norm)
        vector[block.start : block.stop] = weights @ part
    add_figures_(vector, blocks, is_whole[fine], None if returns is None else returns[fine])
    return vector, int(np.count_nonzero(~fine))


def add_figures_(
    vector: NDArray[np.float64],
    blocks: Sequence[Block],
    is_whole: NDArray[np.bool_],
    returns: NDArray[np.float64] | None,
) -> None:
    """Add what units put into the blocks of auxiliary figures, as `clip_units` has it, in place.

    is_whole: bool [units], whether the policy's block is not cut. returns: float64 [units], finite.
    """
    for block in blocks:
        if block.name == CLIP_QUANTILE:
            part = np.where(is_whole, 0.5, -0.5)
        elif block.name == MEAN_RETURN:
            if returns is None:
                raise InvalidParameter("expected each unit's return for its block, got none. Pass the returns.")
            part = returns
        else:
            continue
        weights = np.sqrt(block.noise_share) / np.maximum(np.abs(part), block.clip_norm)
        vector[block.start : block.stop] += weights @ part


def check_blocks(blocks: Sequence[Block], segments: Sequence[Segment]) -> int:
    """Return P. Raises InvalidParameter unless the blocks are the segments' stretches, in order, with shares up to 1.

    Blocks of auxiliary figures, one value each, may follow.
    """
    stretches: list[tuple[str, int, int]] = []
    start = 0
    for segment in segments:
        stop = start + segment.coordinates.size
        if stretches and stretches[-1][0] == segment.block:
            stretches[-1] = (segment.block, stretches[-1][1], stop)
        else:
            stretches.append((segment.block, start, stop))
        start = stop
    for name in (block.name for block in blocks if block.name in AUXILIARY_BLOCKS):
        stretches.append((name, start, start + 1))
        start += 1
    named = [(block.name, block.start, block.stop) for block in blocks]
    if named != stretches:
        raise InvalidParameter(
            f"expected blocks {stretches} as the layout has them, got {named}. Build both from one study."
        )
    is_bounded = 0 < share_of(blocks) <= 1 + SHARES_TOLERANCE and all(block.noise_share >= 0 for block in blocks)
    if not is_bounded or any(not block.clip_norm >= SMALLEST_CLIP for block in blocks):
        raise InvalidParameter(
            f"expected noise shares that add to 1 at most and clip norms of at least {SMALLEST_CLIP:g}, got others. "
            "Build the blocks from the study."
        )
    return start


def as_clipped_sum(vector: NDArray[np.float64], blocks: Sequence[Block], unit: str, dropped: int) -> ClippedSum:
    """Return the finished sum with its sensitivity: 1 and the margin for float64 summation."""
    return ClippedSum(vector, tuple(blocks), 1.0 + SENSITIVITY_MARGIN, unit, dropped)
