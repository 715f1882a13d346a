"""The attack on float noise wins every game; on integer noise it stays below what epsilon allows. See examples."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from scipy.stats import binom

from secure_frl.randomness import rehearsal_source

ROOT = Path(__file__).parents[3]
EXAMPLE = runpy.run_path(str(ROOT / "examples" / "float_noise" / "attack.py"))
GAMES = 100
FALSE_ALARM = 1e-6


def is_violation(won: int) -> bool:
    """Whether so many right answers are too many for a mechanism whose every attack is right at most at the ceiling."""
    return float(binom.sf(won - 1, GAMES, EXAMPLE["CEILING"])) < FALSE_ALARM


@pytest.mark.statistical
@pytest.mark.threats
def test_one_look_at_a_sum_with_float_noise_tells_whether_one_person_is_in_it() -> None:
    torch.manual_seed(3)

    won, of_true, of_false = EXAMPLE["games"](EXAMPLE["float_mechanism"], GAMES, seed=3)

    assert won == GAMES
    assert is_violation(won)
    assert max(of_true) == 0  # nothing that happened is impossible
    assert min(of_false) > 100


@pytest.mark.statistical
@pytest.mark.threats
def test_the_same_look_at_integer_noise_stays_below_the_ceiling() -> None:
    mechanism = EXAMPLE["integer_mechanism"](rehearsal_source(3, "float noise"))

    won, _, _ = EXAMPLE["games"](mechanism, GAMES, seed=3)

    assert not is_violation(won)
    assert binom.cdf(won, GAMES, 0.5) > FALSE_ALARM  # nor is it wrong on purpose


def test_nothing_in_the_package_uses_float_noise() -> None:
    users = [path.name for path in (ROOT / "secure_frl").rglob("*.py") if "float_noise" in path.read_text()]

    assert users == ["float_noise.py"]  # which names its example
