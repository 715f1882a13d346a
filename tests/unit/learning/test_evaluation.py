"""Exact values against the published figures."""

from __future__ import annotations

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, load_tables
from secure_frl.learning.evaluation import exact_return, gap_recovered, references
from secure_frl.learning.rollout import roll_out_table


def test_references_equal_the_published_values() -> None:
    known = references()

    # Design, learning.md section 1; the benchmark's paper rounds them to .78, .78 and .88.
    assert known.random == pytest.approx(0.7801, abs=5e-5)
    assert known.expert == pytest.approx(0.7818, abs=5e-5)
    assert known.optimal == pytest.approx(0.8751, abs=5e-5)
    assert known.worst == pytest.approx(0.6330, abs=5e-5)


def test_gap_is_measured_from_the_expert_and_not_clamped() -> None:
    tables = load_tables()
    uniform = tables.admissible / tables.admissible.sum(axis=1, keepdims=True)

    assert gap_recovered(tables.expert) == pytest.approx(0.0, abs=1e-12)
    assert gap_recovered(uniform) == pytest.approx(-0.019, abs=5e-4)  # (.7801 - .7818) / (.8751 - .7818)


def test_an_inadmissible_action_is_worth_the_mean_of_the_admissible_ones() -> None:
    tables = load_tables()
    uniform = tables.admissible / tables.admissible.sum(axis=1, keepdims=True)
    inadmissible = ~tables.admissible / np.maximum((~tables.admissible).sum(axis=1, keepdims=True), 1)
    inadmissible[713:] = uniform[713:]

    assert exact_return(inadmissible) == pytest.approx(exact_return(uniform), abs=1e-12)


@pytest.mark.statistical
def test_simulated_return_agrees_with_the_exact_one() -> None:
    """Seed 11, 50,000 episodes of the expert; 5.5 standard errors of a Bernoulli mean: false alarm below 4e-8."""
    count = 50_000
    expert = load_tables().expert
    seen = roll_out_table(expert, IcuSepsis(count, 400), np.random.default_rng(11), np.zeros(count, dtype=np.uint64))

    assert seen.terminated.all()  # none was cut, so the exact value without a step limit is the mean's expectation
    mean = float(seen.rewards.sum() / count)

    assert abs(mean - 0.781845) < 5.5 * np.sqrt(0.7818 * 0.2182 / count)
    # Control: the optimal policy's value is 50 standard errors away.
    assert abs(mean - 0.8751) > 5.5 * np.sqrt(0.7818 * 0.2182 / count)
    assert seen.lengths.mean() == pytest.approx(9.24, abs=0.1)  # of the published model


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="probability vector"):
        exact_return(np.full((716, 25), 0.05))
    with pytest.raises(InvalidParameter, match="probability vector"):
        exact_return(np.full((716, 25), np.nan))
    with pytest.raises(InvalidParameter, match="716"):
        exact_return(np.full((10, 25), 0.04))
