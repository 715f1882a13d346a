"""Shares of states found: of as many as were visited, and inside 0 and 1."""

from __future__ import annotations

import numpy as np
import pytest

from threat_models.reconstruction import Trial, found_share, score


def test_of_as_many_best_scored_states_as_were_visited_the_share_that_was() -> None:
    visited = np.array([True, True, False, False, True])

    assert found_share(np.array([5.0, 4.0, 3.0, 2.0, 1.0]), visited, np.random.default_rng(0)) == pytest.approx(2 / 3)


def test_an_interval_of_few_trials_stays_inside_zero_and_one() -> None:
    visited, others = np.array([True] * 7 + [False] * 7), np.array([False] * 7 + [True] * 7)
    sharp = visited.astype(np.float64)
    blurred = np.where(np.arange(14) == 6, 0.0, np.where(np.arange(14) == 7, 1.0, sharp))
    trials = [Trial(scores, visited, others, np.ones(14)) for scores in (sharp, blurred)]

    value, low, high = score(trials, np.random.default_rng(0)).found

    assert value == pytest.approx(13 / 14)
    assert (low, high) == (pytest.approx(0.0210, abs=1e-3), 1.0)
