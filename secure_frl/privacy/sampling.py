"""Which units take part in one step: each by its own secret coin. The sample's secrecy is part of the proof.

The coins come from the site's cryptographic generator, never from the study's seed: who can tell the sample has no
amplification left to believe in. A batch of a fixed size, or a shuffled pass, is another mechanism and not offered.
Source: Abadi et al. 2016, section 3.1 (lots sampled with independent probability q).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.secure_sum import RandomSource


def poisson_sample(units: NDArray[np.int64], rate: float, random: RandomSource) -> NDArray[np.bool_]:
    """Return bool [B]: the rows of the units that were drawn, each unit with probability `rate`, independently.

    units: int64 [B], 0..U-1 in `unit.units_of`; rows of one unit share its coin. rate: q in (0, 1].
    The probability used is floor(2^64 q) / 2^64: never above q. The draw may be empty.
    Raises InvalidParameter for a rate outside (0, 1].
    """
    if not 0 < rate <= 1:
        raise InvalidParameter(f"expected 0 < rate <= 1, got {rate}. Set privacy.sampling_rate.")
    count = int(units.max()) + 1 if units.size else 0
    if rate == 1:
        return np.ones(units.shape, dtype=np.bool_)
    drawn = random.words(count) < np.uint64(int(rate * 2.0**64))  # a power of two: the product is exact
    return np.asarray(drawn[units], dtype=np.bool_)
