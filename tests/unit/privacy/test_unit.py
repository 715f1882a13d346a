"""Grouping trajectories into the units that a guarantee is about."""

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.privacy.unit import check_unit, shift_of, units_of

PERSONS = np.array([70, 3, 70, 2**64 - 1, 3], dtype=np.uint64)


def test_a_patients_trajectories_are_one_unit() -> None:
    assert units_of(PERSONS, "patient").tolist() == [1, 0, 1, 2, 0]


def test_each_trajectory_is_its_own_unit() -> None:
    assert units_of(PERSONS, "trajectory").tolist() == [0, 1, 2, 3, 4]


def test_a_site_is_one_unit_whatever_it_holds() -> None:
    assert units_of(PERSONS, "site").tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("unit", ["patient", "trajectory", "site", "unsafe-transition"])
def test_an_empty_window_has_no_units(unit: str) -> None:
    assert units_of(PERSONS[:0], unit).tolist() == []


@pytest.mark.parametrize("unit", ["transition", "sites", ""])
def test_units_that_are_not_offered_are_refused(unit: str) -> None:
    with pytest.raises(InvalidParameter, match="expected a unit"):
        units_of(PERSONS, unit)


def test_relations_that_are_not_offered_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="relation"):
        check_unit("patient", "replace_two")


def test_replace_one_moves_two_clips_and_is_refused_under_sampling_with_the_reason() -> None:
    check_unit("patient", "replace_one")
    assert (shift_of("replace_one"), shift_of("add_or_remove_one")) == (2, 1)
    with pytest.raises(InvalidParameter, match="accountant of its own"):
        check_unit("patient", "replace_one", 0.1)
