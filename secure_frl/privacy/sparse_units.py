"""Clipped sums of units whose messages are mostly zeros: what `clip_units` does, without the zeros. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from secure_frl.learning.value_sums import Entries
from secure_frl.secure_sum import Block


def clip_entries(entries: Entries, blocks: Sequence[Block], units: int) -> tuple[NDArray[np.float64], int]:
    """Return the sum of clipped messages of units, float64 [P], and how many units counted as zero.

    entries: places in [0, P). blocks: cover [0, P). Block b of a unit becomes sqrt(s_b) g_b / max(C_b, |g_b|), so one
    unit moves the whole by at most the root of the shares' sum. A unit with a value that is not finite counts as zero.
    Source: Abadi et al. 2016, Algorithm 1, "Clip gradient", a block at a time (McMahan et al. 2018, section 2).
    """
    is_broken = np.bincount(entries.unit[~np.isfinite(entries.value)], minlength=units) > 0
    fine = ~is_broken[entries.unit]
    vector = np.zeros(blocks[-1].stop, dtype=np.float64)
    for block in blocks:
        inside = fine & (entries.place >= block.start) & (entries.place < block.stop)
        unit, place, value = entries.unit[inside], entries.place[inside], entries.value[inside]
        weights = np.sqrt(block.noise_share) / np.maximum(
            np.sqrt(np.bincount(unit, value * value, units)), block.clip_norm
        )
        vector[block.start : block.stop] = np.bincount(
            place - block.start, weights[unit] * value, block.stop - block.start
        )
    return vector, int(np.count_nonzero(is_broken))
