"""Sums of records under a table of values: by hand, and each unit's by itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from secure_frl.learning.trajectories import Trajectories
from secure_frl.learning.value_sums import Entries, PairTable, error_sums, pair_counts, return_sums, unit_norms

# Two live states and one where episodes are over; state 0 allows actions 0 and 1, state 1 allows action 1 only.
TABLE = PairTable.of(np.array([[True, True], [False, True]]))
VALUES = np.array([0.5, 0.8, 0.0])


def stays() -> Trajectories:
    """Three: 0 -0-> 1 -1-> over with reward 1; 1 -1-> over with 0; 0 -1-> 0 -1-> 1, cut there."""
    return Trajectories(
        observations=np.array([[0, 1], [1, 0], [0, 0]]),
        actions=np.array([[0, 1], [1, 0], [1, 1]]),
        allowed=None,
        rewards=np.array([[0, 1], [0, 0], [0, 0]], dtype=np.float32),
        log_behaviour=None,
        steps=np.array([[True, True], [True, False], [True, True]]),
        terminated=np.array([True, True, False]),
        final_observations=np.array([2, 2, 1]),
        persons=np.arange(3, dtype=np.uint64),
    )


def dense(entries: Entries, units: int, places: int) -> list[list[float]]:
    found = np.zeros((units, places))
    found[entries.unit, entries.place] = entries.value
    return found.round(12).tolist()


SEPARATE, TOGETHER = np.array([0, 1, 2]), np.array([0, 0, 1])


def test_pairs_are_the_admissible_ones_in_the_order_of_the_table() -> None:
    assert TABLE.pair_of.tolist() == [[0, 1], [-1, 2]]
    assert TABLE.state_of.tolist() == [0, 0, 1]


def test_counts_are_of_each_unit_and_pair() -> None:
    assert dense(pair_counts(stays(), SEPARATE, TABLE), 3, 3) == [[1, 0, 1], [0, 0, 1], [0, 2, 0]]
    assert dense(pair_counts(stays(), TOGETHER, TABLE), 2, 3) == [[1, 0, 2], [0, 2, 0]]
    assert unit_norms(pair_counts(stays(), TOGETHER, TABLE), 2) == pytest.approx([5**0.5, 2.0])


def test_errors_bootstrap_where_a_stay_was_cut_and_never_where_it_ended() -> None:
    # .9 * .8 - .5 = .22, then 1 - .8 = .2; 0 - .8; .9 * .5 - .5 = -.05 and .9 * .8 - .5 = .22, which add to .17.
    found = error_sums(stays(), SEPARATE, TABLE, VALUES, 0.9)

    assert dense(found, 3, 3) == [[0.22, 0, 0.2], [0, 0, -0.8], [0, 0.17, 0]]


def test_returns_are_discounted_from_each_state_on_and_go_on_at_the_first_value_where_cut() -> None:
    # First value .6: .9 - .6 = .3 and 1 - .6 = .4; 0 - .6; cut: .81 * .6 - .6 and .9 * .6 - .6, -.174 together.
    found = return_sums(stays(), SEPARATE, TABLE, 0.6, 0.9)

    assert dense(found, 3, 2) == [[0.3, 0.4], [0, -0.6], [-0.174, 0]]


def test_a_units_sums_have_the_same_bits_whoever_is_beside_it() -> None:
    records = stays()
    other = dataclasses.replace(
        records, actions=np.array([[0, 1], [1, 0], [0, 0]]), rewards=np.float32([[0, 1], [9, 0], [3, 7]])
    )
    alone = records.select(np.array([0]))
    for sums in (
        lambda r, u: pair_counts(r, u, TABLE),
        lambda r, u: return_sums(r, u, TABLE, 0.78, 0.97),
        lambda r, u: error_sums(r, u, TABLE, VALUES, 0.97),
    ):
        by_itself = sums(alone, SEPARATE[:1])
        for company in (records, other):
            found = sums(company, SEPARATE)
            mine = found.unit == 0
            assert found.place[mine].tolist() == by_itself.place.tolist()
            assert found.value[mine].tobytes() == by_itself.value.tobytes()
