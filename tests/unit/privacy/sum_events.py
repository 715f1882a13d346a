"""The constants of a sum for tests, a release under such constants, and what one Gaussian release costs exactly."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from scipy.optimize import brentq
from scipy.stats import norm

from secure_frl.privacy.events import GaussianSumEvent, sum_event
from secure_frl.secure_sum import Block, SumConstants


def sum_constants(length: int = 100, **changes: Any) -> SumConstants:
    """Ten sites, of which eight must answer and one colludes; one block, and nothing wider than a test needs.

    changes: fields by name. Without noise, its two figures are 0 unless they are given.
    """
    private = changes.get("noise") != "unsafe-none"
    fields: dict[str, Any] = {
        "sites": 10,
        "threshold": 6,
        "max_colluders": 1,
        "min_survivors": 8,
        "honest_shares": 7,
        "profile": "cross_silo",
        "neighbours": 9,
        "protection": "masking",
        "length": length,
        "modulus_bits": 32,
        "scale": 1000.0,
        "bound": 10**6,
        "noise_bound": 10**5,
        "blocks": (Block("policy", 0, length, 1.0, 1.0),),
        "noise": "distributed",
        "noise_multiplier": 1.0 if private else 0.0,
        "integer_noise_scale": 1024 if private else 0,
    }
    return SumConstants(**fields | changes)


def release_of(constants: SumConstants, **changes: Any) -> GaussianSumEvent:
    """The first release of a study under these constants, each person once and at one site.

    changes: arguments of `sum_event` by name.
    """
    arguments: dict[str, Any] = {
        "charter_hash": "aa",
        "dataset_id": "ward",
        "round_number": 1,
        "attempt": 0,
        "window": "1",
        "unit": "patient",
        "max_rounds_per_person": 1,
        "max_sites_per_person": 1,
        "declared_batch": 100,
        "delta": 1e-5,
        "random_source": "production",
        "code_version": "0",
    }
    return sum_event(constants, **arguments | changes)


def event(
    sigma: float = 1.081,
    *,
    delta: float = 1e-5,
    noise: str = "distributed",
    deviation: int = 8192,
    length: int = 1,
    honest: int = 7,
    **changes: Any,
) -> GaussianSumEvent:
    """One release; with the defaults (finest grid, one coordinate) it is nearly the ideal Gaussian.

    deviation: of one share on the grid. honest: shares. changes: fields of the event by name.
    """
    figures: dict[str, Any] = {"scale": 1.0}
    if noise != "unsafe-none":
        shares = honest if noise == "distributed" else 1
        scale = deviation * math.sqrt(shares) / sigma
        figures = {"scale": scale, "noise_multiplier": sigma, "integer_noise_scale": deviation}
    cohort = {"sites": honest + 3, "neighbours": honest + 2, "min_survivors": honest + 1, "honest_shares": honest}
    constants = sum_constants(length, noise=noise, **cohort, **figures)
    return dataclasses.replace(release_of(constants, delta=delta), **changes)


def gaussian_epsilon(sigma: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8: the exact trade-off of one continuous Gaussian, beside the code under test."""
    mu = 1 / sigma

    def spent(eps: float) -> float:
        return float(norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu))

    return float(brentq(lambda eps: spent(eps) - delta, 0, 60))
