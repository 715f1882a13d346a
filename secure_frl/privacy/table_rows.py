"""Clipped sums of units whose gradients are a few rows of tables: what `clip_units` does, without the zeros. No torch.

A trajectory touches as many rows of a table as it has steps, of hundreds, and a row has few coordinates in the message.
Every number here is added up in the order of the steps, and in the end each coordinate gets one number a unit. So
what bounds the sum of `clip_units` holds here too: a unit's number is at most its clip, whatever cancelled inside it,
and the order in which units are added up is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_frl.privacy.clipping import add_figures_
from secure_frl.secure_sum import AUXILIARY_BLOCKS, Block

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
MOST_NUMBERS = 1 << 18  # kept before units are clipped, of one table: the same work in fewer, larger steps


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Where a table's coordinates stand in the message: those of a state side by side, state after state."""

    is_sent: NDArray[np.bool_]  # [states, D]
    count: Integers  # [states], of a state's coordinates
    first: Integers  # [states], place of the first of them

    @classmethod
    def of(cls, coordinates: Integers, shape: tuple[int, int], start: int) -> Table:
        """Return that of a table. coordinates: flat, ascending, those sent; start: place of the first of them."""
        is_sent = np.zeros(shape[0] * shape[1], dtype=np.bool_)
        is_sent[coordinates] = True
        count = np.bincount(coordinates // shape[1], minlength=shape[0])
        return cls(is_sent.reshape(shape), count, start + np.cumsum(count) - count)


@dataclass(frozen=True, slots=True, eq=False)
class TableRows:
    """Rows of a table, each of one unit and state; of steps, or added up."""

    unit: Integers  # [rows]
    state: Integers  # [rows]
    values: Floats  # of those coordinates that are sent, one row behind the other


def rows_of_steps(table: Table, unit: Integers, state: Integers, returned: Floats) -> TableRows:
    """Return a row a step. unit, state: int64 [steps]. returned: float64 [steps, D], what came back to each."""
    is_sent = np.take(table.is_sent, state, axis=0)  # rows of few bytes: five times as fast as an index
    return TableRows(unit, state, returned.reshape(-1)[np.flatnonzero(is_sent)])


class TableSum:
    """Adds up, clips and sums the rows of units, table by table."""

    def __init__(self, tables: Sequence[Table], blocks: Sequence[Block]) -> None:
        """tables: each whole inside one block. blocks: cover [0, P); the policy's first."""
        self._tables, self._blocks = tuple(tables), tuple(blocks)
        self._block_of = [_block_of(table, blocks) for table in tables]
        self._vector = np.zeros(blocks[-1].stop)
        self._dropped = 0
        self._clear()

    def _clear(self) -> None:
        self._rows: list[list[TableRows]] = [[] for _ in self._tables]
        self._returns: list[Floats] = []
        self._units = self._numbers = 0

    @property
    def units(self) -> int:
        """Return how many units wait to be clipped: the number of the first unit of the next chunk."""
        return self._units

    def add(self, rows: Sequence[TableRows]) -> None:
        """Add rows to their units. rows: of each table, of units from `units` on."""
        for kept, found in zip(self._rows, rows, strict=True):
            kept.append(found)
        self._numbers += max((found.values.size for found in rows), default=0)
        if self._numbers >= MOST_NUMBERS:  # in the middle of a chunk: units of many trajectories get shorter
            self._rows = [[one] for one in self._added_up()]
            self._numbers = 0

    def close(self, returns: Floats) -> None:
        """End a chunk: its units are whole. returns: float64 [units of the chunk]."""
        self._returns.append(returns)
        self._units += returns.size
        if max((sum(one.values.size for one in kept) for kept in self._rows), default=0) >= MOST_NUMBERS // 2:
            self._clip()

    def result(self) -> tuple[Floats, int]:
        """Return what `clip_units` returns: the sum over all closed chunks, float64 [P], and units counted as zero."""
        self._clip()
        return self._vector.copy(), self._dropped

    def forget(self) -> None:
        """Let the sum and all units go."""
        self._clear()
        self._vector = np.zeros(0)

    def _added_up(self) -> list[TableRows]:
        """Return one row a table, unit and state."""
        places: dict[tuple[int, ...], _Places] = {}  # tables are mostly asked for the same states
        found = []
        for table, kept in zip(self._tables, self._rows, strict=True):
            asked = tuple(id(one.state) for one in kept)
            if asked not in places:
                places[asked] = _Places(kept, len(table.count))
            found.append(places[asked].added_up(table, np.concatenate([one.values for one in kept])))
        return found

    def _clip(self) -> None:
        if not self._returns:
            return
        returns = np.concatenate(self._returns)
        rows = self._added_up() if any(self._rows) else []
        self._clear()
        units, is_broken = returns.size, ~np.isfinite(returns)
        squares = {block.name: np.zeros(units) for block in self._blocks if block.name not in AUXILIARY_BLOCKS}
        entries = []
        for table, block, found in zip(self._tables, self._block_of, rows, strict=False):
            of, inside = _spread(table.count[found.state])
            unit, place, value = found.unit[of], table.first[found.state][of] + inside, found.values
            fine = np.isfinite(value)
            if not fine.all():
                is_broken[unit[~fine]] = True
            with np.errstate(over="ignore"):
                squares[block.name] += np.bincount(unit, value * value, units)
            entries.append((block, unit, place, value))
        norms = {name: np.sqrt(square) for name, square in squares.items()}
        for block, unit, place, value in entries:
            if is_broken.any():
                fine = ~is_broken[unit]
                unit, place, value = unit[fine], place[fine], value[fine]
            weights = np.sqrt(block.noise_share) / np.maximum(norms[block.name], block.clip_norm)
            self._vector += np.bincount(place, weights[unit] * value, self._vector.size)
        is_whole = norms[self._blocks[0].name] <= self._blocks[0].clip_norm
        add_figures_(self._vector, self._blocks, is_whole[~is_broken], returns[~is_broken])
        self._dropped += int(np.count_nonzero(is_broken))


class _Places:
    """Which distinct unit and state each row has."""

    def __init__(self, rows: Sequence[TableRows], states: int) -> None:
        unit, self._state = (np.concatenate([getattr(one, name) for one in rows]) for name in ("unit", "state"))
        found, self._of_row = np.unique(unit * states + self._state, return_inverse=True)
        self._units, self._states = found // states, found % states

    def added_up(self, table: Table, values: Floats) -> TableRows:
        """Return one row a unit and state, each number added up from 0 in the order of the rows.

        A sum of the first rows before the others gives the same bits as all of them, so no unit's bits depend on where
        its rows were cut into passes.
        """
        count = table.count[self._states]
        stops = np.cumsum(count)
        of, inside = _spread(table.count[self._state])
        cells = (stops - count)[self._of_row][of] + inside
        total: Floats = np.bincount(cells, values, stops[-1] if stops.size else 0).astype(np.float64, copy=False)
        return TableRows(self._units, self._states, total)


def _spread(count: Integers) -> tuple[Integers, Integers]:
    """Return for each coordinate of rows with `count` of them: which row, and its number inside the row."""
    of = np.repeat(np.arange(count.size), count)
    return of, np.arange(of.size) - (np.cumsum(count) - count)[of]


def _block_of(table: Table, blocks: Sequence[Block]) -> Block:
    start = int(table.first[0])
    return next(block for block in blocks if block.start <= start < block.stop)
