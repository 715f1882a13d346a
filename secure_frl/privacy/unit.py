"""What one unit of protection is, and the neighbouring relation under which every epsilon here is stated.

trajectory: one episode; when episodes cannot be linked to people. patient: all episodes of one person at one site;
the default for clinical data. Two data sets are neighbours when one has one unit more (add or remove one).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter

TRAJECTORY = "trajectory"
PATIENT = "patient"
UNITS = (TRAJECTORY, PATIENT)
ADD_OR_REMOVE_ONE = "add_or_remove_one"
RELATIONS = (ADD_OR_REMOVE_ONE,)


def check_unit(unit: str, relation: str = ADD_OR_REMOVE_ONE) -> None:
    """Raise InvalidParameter unless this version can account for the unit and its relation."""
    if unit not in UNITS:
        raise InvalidParameter(f"expected a unit of {UNITS}, got unit={unit!r}. Set privacy.unit to one of them.")
    if relation not in RELATIONS:
        raise InvalidParameter(
            f"expected relation={ADD_OR_REMOVE_ONE!r}, got relation={relation!r}. Set privacy.relation to it."
        )


def units_of(persons: NDArray[np.uint64], unit: str) -> NDArray[np.int64]:
    """Return int64 [B]: the number 0..U-1 of the unit that each trajectory belongs to.

    persons: uint64 [B], as in `Trajectories.persons`.
    Raises InvalidParameter for an unknown unit.
    """
    check_unit(unit)
    if unit == TRAJECTORY:
        return np.arange(persons.size, dtype=np.int64)
    return np.unique(persons, return_inverse=True)[1].astype(np.int64).reshape(-1)
