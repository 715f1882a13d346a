"""What the shipped study learns, through the real path: run on demand, a quarter of an hour on two cores.

References: at epsilon 4, delta 1e-6, h = 7 an earlier recipe, measured apart, recovers .78 (five seeds), .434 at
epsilon 1 and .537 under local noise (three seeds each). The bars are below them, and our own figures above.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
from secure_frl.study_file import load_study

pytestmark = pytest.mark.campaign

SHIPPED = Path(__file__).parents[2] / "examples" / "icu_sepsis" / "study.toml"


def _gaps(seeds: range, tmp_path: Path, overrides: dict[str, Any] | None = None) -> list[float]:
    gaps = []
    for seed in seeds:
        folder = tmp_path / f"seed-{seed}"
        result = simulation.run(load_study(SHIPPED, {"study.seed": seed, **(overrides or {})}), folder)
        assert verify(folder).holds
        gaps.append(result.gap_recovered)
    print(f"{overrides or 'as shipped'}: mean {np.mean(gaps):.3f}, least {min(gaps):.3f}, {np.round(gaps, 3)}")
    return gaps


def test_the_shipped_study_recovers_most_of_the_gap(tmp_path: Path) -> None:
    gaps = _gaps(range(5), tmp_path)

    assert np.mean(gaps) >= 0.80
    assert min(gaps) >= 0.70


def test_a_seed_that_nobody_named_does_too(tmp_path: Path) -> None:
    seed = secrets.randbelow(2**32)

    assert _gaps(range(seed, seed + 1), tmp_path)[0] >= 0.74


def test_epsilon_one_and_local_noise_cost_what_they_should(tmp_path: Path) -> None:
    shipped = _gaps(range(3), tmp_path / "shipped")
    strict = _gaps(range(3), tmp_path / "strict", {"privacy.target_epsilon": 1.0})
    local = _gaps(range(3), tmp_path / "local", {"privacy.noise": "local"})

    assert np.mean(strict) >= 0.37
    assert np.mean(local) <= np.mean(shipped) - 0.10


def test_losing_four_of_ten_sites_a_round_costs_little(tmp_path: Path) -> None:
    gaps = _gaps(range(3), tmp_path, {"sites.simulate_drop": {"before_masked": 2, "after_masked": 2}})

    assert np.mean(gaps) >= 0.74
