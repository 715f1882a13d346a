"""Shapes are refused aloud, values only before joining, and inside a round nothing is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secure_frl.errors import DataRefused, InvalidParameter
from secure_frl.learning.trajectories import Trajectories, check_before_joining, usable_units

ALLOWED = np.ones((5, 3), dtype=np.bool_)
ALLOWED[4, 2] = False


def _episodes(count: int = 4, length: int = 3, **changes: Any) -> Trajectories:
    fields: dict[str, Any] = {
        "observations": np.ones((count, length), dtype=np.int64),
        "actions": np.zeros((count, length), dtype=np.int64),
        "allowed": None,
        "rewards": np.zeros((count, length), dtype=np.float32),
        "log_behaviour": np.full((count, length), -1.0, dtype=np.float32),
        "steps": np.tile(np.arange(length) < 2, (count, 1)),
        "terminated": np.ones(count, dtype=np.bool_),
        "final_observations": np.full(count, 2, dtype=np.int64),
        "persons": np.arange(count, dtype=np.uint64),
    }
    return Trajectories(**{**fields, **changes})


def _marks(episodes: Trajectories) -> list[bool]:
    return usable_units(episodes, action_count=3, max_steps=2, state_count=5, allowed_table=ALLOWED).tolist()


def _with(array: np.ndarray, where: Any, value: Any) -> np.ndarray:
    changed = array.copy()
    changed[where] = value
    return changed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("observations", np.zeros((4, 3), dtype=np.int32)),
        ("observations", np.zeros((4, 3, 2), dtype=np.float64)),
        ("observations", np.zeros((4, 2), dtype=np.int64)),
        ("actions", np.zeros((4, 2), dtype=np.int64)),
        ("rewards", np.zeros((4, 3), dtype=np.float64)),
        ("steps", np.ones(4, dtype=np.bool_)),
        ("terminated", np.zeros((4, 1), dtype=np.bool_)),
        ("final_observations", np.zeros((4, 2), dtype=np.int64)),
        ("persons", np.zeros(4, dtype=np.int64)),
        ("log_behaviour", np.zeros((4, 2), dtype=np.float32)),
        ("allowed", np.zeros((4, 3), dtype=np.bool_)),
        ("actions", [[0, 0, 0]] * 4),
        ("steps", [[True, True, True]] * 4),
        ("observations", [[1, 1, 1]] * 4),
    ],
)
def test_wrong_shapes_and_types_are_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidParameter):
        _episodes(**{field: value})


def test_features_and_masks_are_accepted() -> None:
    episodes = _episodes(
        observations=np.zeros((4, 3, 7), dtype=np.float32),
        final_observations=np.zeros((4, 7), dtype=np.float32),
        allowed=np.ones((4, 3, 3), dtype=np.bool_),
    )

    assert episodes.count == 4
    assert usable_units(episodes, action_count=3, max_steps=2).all()


def test_nothing_of_a_trajectory_is_in_its_repr() -> None:
    assert "array" not in repr(_episodes())


def test_select_trims_to_the_longest_chosen_episode() -> None:
    steps = np.array([[True, False, False], [True, True, True], [True, True, False]])

    chosen = _episodes(count=3, steps=steps).select(np.array([2, 0]))

    assert chosen.steps.tolist() == [[True, True], [True, False]]
    assert chosen.persons.tolist() == [2, 0]


def test_select_of_nothing_is_empty() -> None:
    assert _episodes().select(np.zeros(0, dtype=np.int64)).count == 0


def test_good_data_may_join() -> None:
    check_before_joining(_episodes(), declared_units=4, max_rounds_per_person=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_may_not_join(value: float) -> None:
    episodes = _episodes()

    for field in ("rewards", "log_behaviour"):
        poisoned = replace(episodes, **{field: _with(getattr(episodes, field), (1, 1), value)})
        with pytest.raises(DataRefused, match="1 trajectories hold NaN or infinity"):
            check_before_joining(poisoned, declared_units=4, max_rounds_per_person=1)


def test_features_that_are_not_finite_may_not_join() -> None:
    features = {"observations": np.zeros((4, 3, 2), np.float32), "final_observations": np.zeros((4, 2), np.float32)}

    for field, where in (("observations", (1, 0, 1)), ("final_observations", (1, 0))):
        poisoned = {**features, field: _with(features[field], where, np.nan)}
        with pytest.raises(DataRefused, match="NaN"):
            check_before_joining(_episodes(**poisoned), declared_units=4, max_rounds_per_person=1)


def test_padding_is_not_looked_at() -> None:
    episodes = _episodes()
    padded = replace(episodes, rewards=_with(episodes.rewards, (1, 2), np.nan))

    check_before_joining(padded, declared_units=4, max_rounds_per_person=1)
    assert all(_marks(padded))


def test_a_person_beyond_the_cap_may_not_join() -> None:
    episodes = _episodes(persons=np.array([7, 7, 8, 9], dtype=np.uint64))

    with pytest.raises(DataRefused, match="at most 1 times, but 1 persons") as refused:
        check_before_joining(episodes, declared_units=4, max_rounds_per_person=1)
    check_before_joining(episodes, declared_units=4, max_rounds_per_person=2)
    assert "7" not in str(refused.value)


def test_more_persons_than_declared_may_not_join() -> None:
    with pytest.raises(DataRefused, match="at most 3 persons were declared, but 4 came"):
        check_before_joining(_episodes(), declared_units=3, max_rounds_per_person=1)


@pytest.mark.parametrize(
    ("field", "where", "value"),
    [
        ("rewards", (1, 0), np.nan),
        ("rewards", (1, 1), np.inf),
        ("log_behaviour", (1, 0), np.nan),
        ("steps", (1, slice(None)), False),  # no step
        ("steps", (1, slice(None)), [True, True, True]),  # longer than max_steps
        ("steps", (1, slice(None)), [True, False, True]),  # a gap
        ("steps", (1, slice(None)), [False, True, False]),
        ("actions", (1, 0), 3),
        ("actions", (1, 0), -1),
        ("observations", (1, 1), 5),
        ("observations", (1, 1), -1),
        ("final_observations", 1, 5),
        ("final_observations", 1, -(2**62)),
    ],
)
def test_inside_a_round_a_bad_trajectory_is_marked_and_nothing_raises(field: str, where: Any, value: Any) -> None:
    episodes = _episodes()

    marks = _marks(replace(episodes, **{field: _with(getattr(episodes, field), where, value)}))

    assert marks == [True, False, True, True]


def test_inside_a_round_an_action_that_is_not_allowed_is_marked() -> None:
    episodes = _episodes()
    by_table = replace(
        episodes,
        observations=_with(episodes.observations, (2, 0), 4),
        actions=_with(episodes.actions, (2, 0), 2),
    )
    own = replace(by_table, allowed=_with(np.ones((4, 3, 3), dtype=np.bool_), (3, 1, 0), False))

    assert _marks(by_table) == [True, True, False, True]
    assert _marks(own) == [True, True, True, False]  # its own mask replaces the table


def test_an_empty_site_has_no_marks() -> None:
    assert _marks(_episodes(count=0)) == []
