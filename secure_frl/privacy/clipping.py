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
from secure_frl.privacy.sensitivity import SENSITIVITY_MARGIN
from secure_frl.secure_sum import Block


@dataclass(frozen=True, slots=True, eq=False)
class ClippedSum:
    """The sum over units before rounding and noise. Never leaves the process."""

    vector: NDArray[np.float64] = field(repr=False)  # [P]
    blocks: tuple[Block, ...]
    sensitivity: float  # L2 under add-or-remove-one, with the margin for float64
    unit: str  # trajectory | patient
    dropped: int = field(repr=False)  # units that contributed zero: depends on data, stays at the site


def sum_by_unit(gradients: NDArray[np.float64], unit_of_row: NDArray[np.int64], units: int) -> NDArray[np.float64]:
    """Return float64 [units, P]: each row added to its unit's, in the order of the rows.

    gradients: float64 [rows, P]; returned as it is when row i is unit i. unit_of_row: int64 [rows].
    """
    if np.array_equal(unit_of_row, np.arange(units)):
        return gradients  # most people have one trajectory; large arrays are not touched without need
    total = np.zeros((units, gradients.shape[1]), dtype=np.float64)
    for row, unit in enumerate(unit_of_row):
        total[unit] += gradients[row]
    return total


def clip_units(gradients: NDArray[np.float64], blocks: Sequence[Block]) -> tuple[NDArray[np.float64], int]:
    """Return the sum of clipped unit gradients, float64 [P], and how many units counted as zero.

    gradients: float64 [units, P], one row a unit; changed in place where not finite. blocks: cover [0, P).
    Block b of a unit becomes sqrt(s_b) g_b / max(C_b, |g_b|): L2 at most sqrt(s_b), so the whole at most 1.
    Source: Abadi et al. 2016, Algorithm 1, "Clip gradient", a block at a time (McMahan et al. 2018, section 2).
    """
    fine = np.isfinite(gradients).all(axis=1)
    gradients[~fine] = 0.0  # 0 times NaN would be NaN
    vector = np.zeros(gradients.shape[1], dtype=np.float64)
    for block in blocks:
        part = gradients[:, block.start : block.stop]
        norms = np.sqrt(np.einsum("ij,ij->i", part, part))
        weights = np.sqrt(block.noise_share) / np.maximum(norms, block.clip_norm)
        vector[block.start : block.stop] = weights @ part
    return vector, int(np.count_nonzero(~fine))


def check_blocks(blocks: Sequence[Block], segments: Sequence[Segment]) -> int:
    """Return P. Raises InvalidParameter unless the blocks are the segments' stretches, in order, with shares of 1."""
    stretches: list[tuple[str, int, int]] = []
    start = 0
    for segment in segments:
        stop = start + segment.coordinates.size
        if stretches and stretches[-1][0] == segment.block:
            stretches[-1] = (segment.block, stretches[-1][1], stop)
        else:
            stretches.append((segment.block, start, stop))
        start = stop
    named = [(block.name, block.start, block.stop) for block in blocks]
    if named != stretches:
        raise InvalidParameter(
            f"expected blocks {stretches} as the layout has them, got {named}. Build both from one study."
        )
    if abs(sum(block.noise_share for block in blocks) - 1) > 1e-9 or any(not block.clip_norm > 0 for block in blocks):
        raise InvalidParameter(
            "expected noise shares that add to 1 and clip norms > 0, got others. Build the blocks from the study."
        )
    return start


def as_clipped_sum(vector: NDArray[np.float64], blocks: Sequence[Block], unit: str, dropped: int) -> ClippedSum:
    """Return the finished sum with its sensitivity: 1 and the margin for float64 summation."""
    return ClippedSum(vector, tuple(blocks), 1.0 + SENSITIVITY_MARGIN, unit, dropped)
