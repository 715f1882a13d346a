"""Simulated hospitals that differ: what is shifted, what is not, and that samples and exact values are of one world."""

from __future__ import annotations

import math

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import admissible_actions, load_tables
from secure_frl.learning.environments.site_shift import (
    CASE_MIX,
    NONE,
    PRACTICE_EFFECT,
    ShiftedIcuSepsis,
    dynamics_at,
)
from secure_frl.learning.evaluation import SEVERITY_GROUPS, exact_values, published, severity_groups
from secure_frl.learning.rollout import roll_out_table

WITH_CHOICE = 476  # of the published states; Choudhary et al. 2024


def test_practice_effects_move_every_action_in_the_stated_part_of_the_states() -> None:
    effect = dynamics_at(PRACTICE_EFFECT, 0.3, 5, 2).effect
    assert effect is not None
    moved = effect != np.arange(25)

    shifted = np.flatnonzero(moved.any(axis=1))

    assert shifted.size == round(0.3 * WITH_CHOICE)
    assert (moved == admissible_actions())[shifted].all()  # each admissible action has another effect, others none
    assert (np.sort(effect, axis=1) == np.arange(25)).all()


def test_sites_and_seeds_differ_and_whoever_asks_gets_the_same() -> None:
    asked = {key: dynamics_at(PRACTICE_EFFECT, 0.1, *key).effect for key in ((5, 2), (5, 3), (6, 2))}
    dynamics_at.cache_clear()

    again = dynamics_at(PRACTICE_EFFECT, 0.1, 5, 2).effect

    assert np.array_equal(asked[5, 2], again)
    assert not np.array_equal(asked[5, 2], asked[5, 3])
    assert not np.array_equal(asked[5, 2], asked[6, 2])


def test_a_case_mix_changes_who_comes_and_how_they_fare_and_no_possibility() -> None:
    base, mixed = load_tables(), dynamics_at(CASE_MIX, 1.0, 5, 2).tables

    sums = np.add.reduceat(mixed.probabilities, mixed.row_starts[:-1])

    assert np.abs(sums - 1).max() < 1e-12
    assert abs(mixed.initial.sum() - 1) < 1e-12
    assert ((mixed.probabilities > 0) == (base.probabilities > 0)).all()
    assert np.abs(mixed.initial - base.initial).sum() > 0.05
    assert np.abs(mixed.probabilities - base.probabilities).max() > 0.01


def test_no_shift_is_the_published_world() -> None:
    found = dynamics_at(NONE, 0.0, 5, 2)

    assert found.tables is load_tables()
    assert found.effect is None


@pytest.mark.parametrize(("kind", "strength"), [(NONE, 0.1), (PRACTICE_EFFECT, 1.1), (CASE_MIX, 2.1), ("other", 0.0)])
def test_what_is_no_shift_is_refused(kind: str, strength: float) -> None:
    with pytest.raises(InvalidParameter, match="site_shift"):
        dynamics_at(kind, strength, 0, 0)


@pytest.mark.statistical
@pytest.mark.parametrize(("kind", "strength"), [(PRACTICE_EFFECT, 1.0), (CASE_MIX, 2.0)])
def test_patients_of_a_site_fare_as_its_exact_value_says(kind: str, strength: float) -> None:
    """30,000 stays, seed 3; false alarm 1e-6 (4.9 deviations). A policy that prefers the last action it may take."""
    dynamics = dynamics_at(kind, strength, 5, 2)
    preference = admissible_actions() * np.exp2(np.arange(25.0))
    policy = preference / preference.sum(axis=1, keepdims=True)
    environment = ShiftedIcuSepsis(30_000, 400, dynamics)

    seen = roll_out_table(policy, environment, np.random.default_rng(3), np.arange(30_000, dtype=np.uint64))

    exact, elsewhere = exact_values(dynamics).mean_return(policy), published().mean_return(policy)
    deviation = math.sqrt(exact * (1 - exact) / 30_000)
    assert abs(seen.rewards.sum() / 30_000 - exact) < 4.9 * deviation
    assert abs(elsewhere - exact) > 4.9 * deviation  # the published world would have been noticed


def test_the_best_at_a_site_acts_otherwise_and_is_worth_as_much() -> None:
    dynamics = dynamics_at(PRACTICE_EFFECT, 0.3, 5, 2)
    assert dynamics.effect is not None
    # Always the first admissible action, wherever its effect has gone: another policy, the same treatment.
    first = np.zeros((716, 25))
    first[np.arange(716), admissible_actions().argmax(axis=1)] = 1.0
    renamed = np.take_along_axis(first, dynamics.effect, axis=1)

    site = exact_values(dynamics)

    assert site.mean_return(renamed) == pytest.approx(published().mean_return(first), abs=1e-12)
    assert site.references.optimal == published().references.optimal
    assert site.references.expert != published().references.expert  # clinicians go on as published


def test_severity_groups_are_thirds_whose_returns_add_up() -> None:
    tables, groups = load_tables(), severity_groups()
    policy = admissible_actions() / admissible_actions().sum(axis=1, keepdims=True)

    scores = published().by_severity(policy)

    weights = [float(tables.initial[groups == number].sum()) for number in range(3)]
    assert weights == pytest.approx([1 / 3] * 3, abs=0.005)
    whole = sum(w * scores[name].mean_return for w, name in zip(weights, SEVERITY_GROUPS, strict=True))
    assert whole / sum(weights) == pytest.approx(published().mean_return(policy), abs=1e-12)
    assert scores["mild"].mean_return > scores["middle"].mean_return > scores["severe"].mean_return
