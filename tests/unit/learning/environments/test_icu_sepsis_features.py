"""ICU-Sepsis seen through 47 features: the same patients as by states, and nothing but the published table."""

from __future__ import annotations

import numpy as np
import pytest

from secure_frl.errors import UnexpectedState
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions, load_tables
from secure_frl.learning.environments.icu_sepsis_features import FEATURES, IcuSepsisFeatures, state_features


def test_features_are_the_published_centres_standardised_over_live_states() -> None:
    rows, published = state_features(), load_tables().features

    assert rows.shape == published.shape == (716, FEATURES)
    assert np.abs(rows[:713].mean(axis=0)).max() < 1e-5
    assert np.abs(rows[:713].std(axis=0) - 1).max() < 1e-5
    assert not rows[713:].any()
    # Standardising keeps the order of states in each feature.
    assert np.array_equal(rows[:713].argmax(axis=0), published[:713].argmax(axis=0))
    assert np.unique(rows[:713], axis=0).shape[0] == 713  # no two live states look the same


def test_the_same_patients_are_treated_and_masked_as_by_states() -> None:
    by_state, by_features = IcuSepsis(500, 9), IcuSepsisFeatures(500, 9)
    choose = np.random.default_rng(3)
    states, seen = by_state.reset(np.random.default_rng(1)), by_features.reset(np.random.default_rng(1))
    for _ in range(10):
        assert seen.dtype == np.float32
        assert np.array_equal(seen, state_features()[states])
        assert np.array_equal(by_features.allowed(seen), admissible_actions()[states])
        actions = choose.integers(0, 25, size=500)
        states, *expected = by_state.step(actions)
        seen, *found = by_features.step(actions)
        for one, other in zip(found, expected, strict=True):
            assert np.array_equal(one, other)


def test_masks_before_the_first_patient_are_refused() -> None:
    with pytest.raises(UnexpectedState, match="reset"):
        IcuSepsisFeatures(3).allowed(np.zeros((3, FEATURES), dtype=np.float32))
