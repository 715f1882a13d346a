"""Free logits as probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from secure_frl.learning.tabular import action_probabilities

ADMISSIBLE = np.array([[True, True, False], [False, True, False]])


def test_inadmissible_actions_have_probability_zero() -> None:
    found = action_probabilities(np.array([[0.0, np.log(3.0), 50.0], [9.0, 0.0, 9.0]]), ADMISSIBLE)

    assert found == pytest.approx(np.array([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0]]))
    assert (found[~ADMISSIBLE] == 0).all()


def test_sharpening_multiplies_logits() -> None:
    found = action_probabilities(np.array([[0.0, np.log(3.0), 0.0], [0.0, 0.0, 0.0]]), ADMISSIBLE, sharpen=2.0)

    assert found[0] == pytest.approx([0.1, 0.9, 0.0])  # 1 : 3**2


def test_extreme_logits_stay_finite() -> None:
    found = action_probabilities(np.array([[1e6, -1e6, 0.0], [0.0, 0.0, 0.0]]), ADMISSIBLE, sharpen=3.0)

    assert found[0].tolist() == [1.0, 0.0, 0.0]
