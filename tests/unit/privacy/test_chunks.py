"""How a window is cut: whole units, and shapes that nobody else decides."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.chunks import CHUNK_UNITS, chunks_of, cut

WINDOWS = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 12), st.booleans()), max_size=60)


def arrays(window: list[tuple[int, int, bool]]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    lengths = np.array([length for length, _, _ in window], dtype=np.int64)
    persons = np.array([person for _, person, _ in window], dtype=np.int64)
    units = np.unique(persons, return_inverse=True)[1].astype(np.int64)
    return lengths, units, np.array([fine for _, _, fine in window], dtype=np.bool_)


@given(WINDOWS)
def test_every_row_of_a_usable_unit_is_in_one_chunk_once(window: list[tuple[int, int, bool]]) -> None:
    lengths, units, usable = arrays(window)
    unusable_units = set(units[~usable].tolist())

    chunks = list(chunks_of(lengths, units, usable))

    rows = [row for chunk in chunks for row in chunk.rows.tolist()]
    assert sorted(rows) == [row for row in range(len(window)) if units[row] not in unusable_units]
    homes: dict[int, tuple[int, int]] = {}
    for number, chunk in enumerate(chunks):
        assert chunk.units <= CHUNK_UNITS
        assert sorted(set(chunk.unit_of_row.tolist())) == list(range(chunk.units))
        for row, unit in zip(chunk.rows.tolist(), chunk.unit_of_row.tolist(), strict=True):
            assert homes.setdefault(int(units[row]), (number, unit)) == (number, unit)
            assert lengths[row] <= chunk.padded_length


@given(WINDOWS.filter(lambda window: len(window) > 0))
def test_the_padded_length_of_a_unit_does_not_depend_on_the_others(window: list[tuple[int, int, bool]]) -> None:
    lengths, units, _ = arrays(window)
    everyone = np.ones(units.size, dtype=np.bool_)

    among = {
        int(units[row]): chunk.padded_length for chunk in chunks_of(lengths, units, everyone) for row in chunk.rows
    }

    for unit in among:
        own = units == unit
        (alone,) = chunks_of(lengths[own], np.zeros(int(own.sum()), dtype=np.int64), everyone[own])
        assert alone.padded_length == among[unit]


def test_chunks_hold_at_most_128_units_however_many_trajectories_they_have() -> None:
    units = np.repeat(np.arange(300, dtype=np.int64), 3)

    chunks = list(chunks_of(np.full(900, 5, dtype=np.int64), units, np.ones(900, dtype=np.bool_)))

    assert [chunk.units for chunk in chunks] == [128, 128, 44]
    assert [chunk.rows.size for chunk in chunks] == [384, 384, 132]


def test_an_empty_window_has_no_chunk() -> None:
    nothing = np.empty(0, dtype=np.int64)

    assert list(chunks_of(nothing, nothing, np.empty(0, dtype=np.bool_))) == []


def test_cut_pads_and_trims_every_field_alike() -> None:
    window = Trajectories(
        observations=np.array([[5, 6, 7], [8, 0, 0]]),
        actions=np.array([[1, 2, 3], [4, 0, 0]]),
        allowed=np.ones((2, 3, 4), dtype=np.bool_),
        rewards=np.ones((2, 3), dtype=np.float32),
        log_behaviour=None,
        steps=np.array([[True, True, True], [True, False, False]]),
        terminated=np.array([True, False]),
        final_observations=np.array([9, 10]),
        persons=np.array([1, 2], dtype=np.uint64),
    )

    longer, shorter = cut(window, np.array([1, 0]), 4), cut(window, np.array([1]), 2)

    assert longer.observations.tolist() == [[8, 0, 0, 0], [5, 6, 7, 0]]
    assert longer.steps.sum(axis=1).tolist() == [1, 3]
    assert longer.allowed is not None
    assert longer.allowed.shape == (2, 4, 4)
    assert longer.final_observations.tolist() == [10, 9]
    assert shorter.actions.tolist() == [[4, 0]]
    assert shorter.persons.tolist() == [2]
