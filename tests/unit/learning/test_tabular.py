"""Free logits as probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.learning.tabular import Choice, action_probabilities

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


def test_a_greedy_choice_takes_the_best_allowed_action_and_the_first_of_equals() -> None:
    found = Choice(is_greedy=True).probabilities(np.array([[1.0, 2.0, 9.0], [5.0, 3.0, 5.0]]), ADMISSIBLE)

    assert found.tolist() == [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    assert Choice(is_greedy=True).probabilities(np.zeros((1, 3)), np.ones((1, 3), dtype=np.bool_)).tolist() == [
        [1, 0, 0]
    ]


def test_exploration_is_spread_over_what_is_allowed() -> None:
    found = Choice(is_greedy=True, exploration=0.2).probabilities(
        np.array([[1.0, 2.0, 9.0], [0.0, 0.0, 0.0]]), ADMISSIBLE
    )

    assert found == pytest.approx(np.array([[0.1, 0.9, 0.0], [0.0, 1.0, 0.0]]))


@pytest.mark.parametrize("choice", [Choice(), Choice(is_greedy=True, exploration=0.5)])
def test_a_mask_that_allows_nothing_gives_probabilities_all_the_same(choice: Choice) -> None:
    found = choice.probabilities(np.array([[1.0, 2.0, 3.0]]), np.zeros((1, 3), dtype=np.bool_))

    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(1.0)


def test_a_choice_that_is_none_is_refused() -> None:
    for wrong in ({"sharpen": 0.0}, {"exploration": 1.5}, {"exploration": float("nan")}):
        with pytest.raises(InvalidParameter, match=r"training\.exploration"):
            Choice(**wrong)
