"""Grouping trajectories into the units that a guarantee is about."""

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.privacy.unit import check_unit, units_of

PERSONS = np.array([70, 3, 70, 2**64 - 1, 3], dtype=np.uint64)


def test_a_patients_trajectories_are_one_unit() -> None:
    assert units_of(PERSONS, "patient").tolist() == [1, 0, 1, 2, 0]


def test_each_trajectory_is_its_own_unit() -> None:
    assert units_of(PERSONS, "trajectory").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("unit", ["patient", "trajectory"])
def test_an_empty_window_has_no_units(unit: str) -> None:
    assert units_of(PERSONS[:0], unit).tolist() == []


@pytest.mark.parametrize("unit", ["transition", "unsafe-transition", "site", ""])
def test_units_that_are_not_offered_are_refused(unit: str) -> None:
    with pytest.raises(InvalidParameter, match="expected a unit"):
        units_of(PERSONS, unit)


def test_replace_one_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="relation"):
        check_unit("patient", "replace_one")
