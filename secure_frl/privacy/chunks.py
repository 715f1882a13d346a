"""How a window is cut into batches for per-unit gradients: whole units, of similar length, 128 at a time.

Padding costs time and other people must not decide it: a unit's shape follows from its own trajectories alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.learning.trajectories import Trajectories

CHUNK_UNITS = 128  # units, and rows of one backward pass: bounds the memory of per-unit gradients
_PADDED_LENGTHS = (2, 4, 6, 8, 12, 16, 24, 32, 48)  # steps; then multiples of the last one


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Up to 128 whole units, computed together."""

    rows: NDArray[np.int64]  # trajectories, those of one unit side by side
    unit_of_row: NDArray[np.int64]  # 0..units-1, ascending
    units: int
    padded_length: int  # steps; follows from the longest trajectory of each unit alone


def chunks_of(lengths: NDArray[np.int64], units: NDArray[np.int64], usable: NDArray[np.bool_]) -> Iterator[Chunk]:
    """Cut usable units into chunks of one padded length, shortest first.

    lengths: int64 [B], last step + 1. units: int64 [B], 0..U-1. usable: bool [B]; a unit with a trajectory that is
    not usable is left out whole.
    A unit's padded length depends on its own trajectories only: were it the longest of its chunk, another person
    would decide the shape, and so the last bits, of this one's gradient.
    """
    count = int(units.max()) + 1 if units.size else 0
    longest = np.zeros(count, dtype=np.int64)
    np.maximum.at(longest, units, lengths)
    fine = np.ones(count, dtype=np.bool_)
    fine[units[~usable]] = False
    padded = _padded(longest)
    kept = np.flatnonzero(fine[units])
    order = kept[np.lexsort((kept, units[kept], padded[units[kept]]))]  # by length, then unit, then own order
    members = units[order]
    starts = np.flatnonzero(np.r_[True, members[1:] != members[:-1]]) if members.size else np.empty(0, np.int64)
    stops = np.r_[starts[1:], members.size]
    first = 0
    while first < starts.size:
        length = padded[members[starts[first]]]
        last = first + 1
        while last < starts.size and last - first < CHUNK_UNITS and padded[members[starts[last]]] == length:
            last += 1
        rows = slice(int(starts[first]), int(stops[last - 1]))
        unit_of_row = np.cumsum(np.r_[False, members[rows][1:] != members[rows][:-1]]).astype(np.int64)
        yield Chunk(order[rows], unit_of_row, last - first, int(length))
        first = last


def _padded(longest: NDArray[np.int64]) -> NDArray[np.int64]:
    steps = np.array(_PADDED_LENGTHS, dtype=np.int64)
    found = np.searchsorted(steps, longest)
    return np.where(found < steps.size, steps[np.minimum(found, steps.size - 1)], -(-longest // steps[-1]) * steps[-1])


def with_rows(trajectories: Trajectories, rows: int) -> Trajectories:
    """Return the trajectories with others behind them, of nobody and without a step, `rows` in all; B <= rows.

    A matrix product's last bits depend on how many rows it has: with a public number of them, nobody's gradient
    depends on who else is there.
    """
    missing = rows - trajectories.count

    def fill(values: NDArray[Any]) -> NDArray[Any]:  # Any: the dtype of each field stays what it was
        return np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))

    return trajectories.changed(fill, fill)


def cut(trajectories: Trajectories, rows: NDArray[np.int64], length: int) -> Trajectories:
    """Return the named rows with exactly `length` steps, cut or padded; what is cut or added must hold no step."""

    def fit(values: NDArray[Any]) -> NDArray[Any]:  # Any: the dtype of each field stays what it was
        taken = values[rows, :length]
        short = length - taken.shape[1]
        return np.pad(taken, [(0, 0), (0, short)] + [(0, 0)] * (taken.ndim - 2)) if short > 0 else taken

    return trajectories.changed(fit, lambda values: values[rows])
