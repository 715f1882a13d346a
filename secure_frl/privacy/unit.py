"""What one unit of protection is, and the neighbouring relation under which every epsilon here is stated.

trajectory: one episode; when episodes cannot be linked to people. patient: all episodes of one person at one site;
the default for clinical data. site: everything that one hospital holds. unsafe-transition: one step of an episode,
for comparison with others' figures only: the steps of a patient are no independent people.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.study_rules import REPLACE_ONE_SAMPLED

TRAJECTORY = "trajectory"
PATIENT = "patient"
SITE = "site"
UNSAFE_TRANSITION = "unsafe-transition"
UNITS = (TRAJECTORY, PATIENT, SITE, UNSAFE_TRANSITION)
ADD_OR_REMOVE_ONE = "add_or_remove_one"
REPLACE_ONE = "replace_one"
RELATIONS = (ADD_OR_REMOVE_ONE, REPLACE_ONE)


def check_unit(unit: str, relation: str = ADD_OR_REMOVE_ONE, sampling_rate: float = 1.0) -> None:
    """Raise InvalidParameter unless this version can account for the unit under its relation and sampling."""
    if unit not in UNITS:
        raise InvalidParameter(f"expected a unit of {UNITS}, got unit={unit!r}. Set privacy.unit to one of them.")
    if relation not in RELATIONS:
        raise InvalidParameter(
            f"expected a relation of {RELATIONS}, got relation={relation!r}. Set privacy.relation to one of them."
        )
    if relation == REPLACE_ONE and sampling_rate != 1:
        raise InvalidParameter(
            f"expected sampling_rate=1 with relation={relation!r}, got {sampling_rate}: {REPLACE_ONE_SAMPLED}. "
            f"Set privacy.relation to {ADD_OR_REMOVE_ONE}."
        )


def shift_of(relation: str) -> int:
    """Return by how many clips neighbours under `relation` move the sum of clipped units: 1, or 2 for a replaced one.

    Source: Dwork and Roth 2014, section 2.3 (adjacency); a removed and an added unit move the sum by at most one clip
    each, and in opposite directions they add up.
    """
    return 2 if relation == REPLACE_ONE else 1


def units_of(persons: NDArray[np.uint64], unit: str) -> NDArray[np.int64]:
    """Return int64 [B]: the number 0..U-1 of the unit that each row belongs to.

    persons: uint64 [B], as in `Trajectories.persons`. Under unsafe-transition each row
    must be one step, see `rows.as_units`.
    Raises InvalidParameter for an unknown unit.
    """
    check_unit(unit)
    if unit == SITE:
        return np.zeros(persons.size, dtype=np.int64)
    if unit == PATIENT:
        return np.unique(persons, return_inverse=True)[1].astype(np.int64).reshape(-1)
    return np.arange(persons.size, dtype=np.int64)
