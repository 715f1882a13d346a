"""Releases for benchmarks: one noised sum under distributed noise, as a site would book it, with no study behind it."""

from __future__ import annotations

import math
from typing import Any

from secure_frl.privacy.events import GaussianSumEvent, sum_event
from secure_frl.secure_sum import Block, SumConstants


def release(
    sigma: float, *, delta: float, honest_shares: int, length: int, deviation: int, **changes: Any
) -> GaussianSumEvent:
    """Return one release of `length` coordinates in one block, clipped to 1.

    sigma: noise multiplier. deviation: of one site's share on the grid, 64 to 8192. One site of those that must answer
    colludes; the others' shares count. changes: arguments of `sum_event`, by name, beside those of a first fresh round.
    """
    constants = SumConstants(
        sites=honest_shares + 1,
        threshold=honest_shares // 2 + 2,
        max_colluders=1,
        min_survivors=honest_shares + 1,
        honest_shares=honest_shares,
        profile="cross_silo",
        neighbours=honest_shares,
        protection="masking",
        length=length,
        modulus_bits=32,
        scale=deviation * math.sqrt(honest_shares) / sigma,
        bound=1 << 24,
        noise_bound=0,
        blocks=(Block("policy", 0, length, 1.0, 1.0),),
        noise="distributed",
        noise_multiplier=sigma,
        integer_noise_scale=deviation,
    )
    first: dict[str, Any] = {
        "charter_hash": "00",
        "dataset_id": "ward",
        "round_number": 1,
        "attempt": 0,
        "window": "1",
        "unit": "patient",
        "max_rounds_per_person": 1,
        "max_sites_per_person": 1,
        "declared_batch": 100,
        "random_source": "production",
        "code_version": "secure_frl 0.1.0",
    }
    return sum_event(constants, delta=delta, **first | changes)
