"""Clipped sums of per-unit gradients out of one backward pass, for policies of embeddings alone.

Stands where `MessageGradients` stands, for tables: a trajectory's gradient is as short as an episode, and a dense one,
of every coordinate of the message, would be mostly zeros. Hooks keep the states that each table was asked for, the
pass gives what comes back to each step, and `table_rows` adds it up by unit and state, clips and sums, in float64.
A unit's rows may come in several passes: they are added up, in order, before anything is clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import Segment
from secure_frl.privacy.layer_passes import HookedPolicy
from secure_frl.privacy.table_rows import Integers, Table, TableRows, rows_of_steps


def is_of_tables(policy: nn.Module, segments: Sequence[Segment]) -> bool:
    """Return whether this engine takes a policy: every parameter an embedding's own, one segment a parameter sent."""
    tables, names = _tables(policy), [segment.parameter for segment in segments]
    if len({id(part.weight) for part in tables.values()}) != len(tables) or len(set(names)) != len(names):
        return False
    if set(dict(policy.named_parameters())) != set(tables) or not set(names) <= set(tables):
        return False
    return all(tables[name].weight.requires_grad for name in names)


def _tables(policy: nn.Module) -> dict[str, nn.Embedding]:
    """Return the plain embeddings by the name of their parameter."""
    return {
        f"{name}.weight" if name else "weight": part
        for name, part in policy.named_modules()
        if type(part) is nn.Embedding
        and part.padding_idx is None
        and part.max_norm is None
        and not part.scale_grad_by_freq
        and not part.sparse
    }


@final
class TableGradients(HookedPolicy):
    """A policy whose backward pass leaves what came back to each step."""

    needs_fixed_rows = False  # sums into a table do not depend on how many rows there are

    def __init__(self, policy: nn.Module, segments: Sequence[Segment]) -> None:
        """Put hooks on the tables; undo with `to_standard_module`. `is_of_tables` says of which policies."""
        if not is_of_tables(policy, segments):
            raise InvalidParameter("expected a policy of embeddings alone, got another. Use MessageGradients.")
        named, start = _tables(policy), 0
        self._tables: dict[nn.Embedding, Table] = {}
        for segment in segments:
            part = named[segment.parameter]
            self._tables[part] = Table.of(segment.coordinates, (part.num_embeddings, part.embedding_dim), start)
            start += segment.coordinates.size
        super().__init__(policy, self._tables)

    @property
    def tables(self) -> tuple[Table, ...]:
        """Return the tables in the order of the message."""
        return tuple(self._tables.values())

    def take_steps(self, unit_of_row: Integers, rows: int) -> list[TableRows]:
        """Return a row a step and table of the one backward pass that was made, and clear it.

        unit_of_row: int64, the unit of each trajectory; those behind them belong to nobody. rows: of the pass.
        Raises UnexpectedState without a pass, InvalidParameter for one of another number of rows.
        """
        returned = self._passes.take(rows)
        asked_for: dict[tuple[int, ...], tuple[Integers, Integers]] = {}  # most tables are asked for the same states
        found = []
        for part, table in self._tables.items():
            mine = returned[part]
            asked = tuple(id(states) for states, _ in mine)
            if asked not in asked_for:
                state = _joined([states for states, _ in mine], unit_of_row.size, 1).reshape(-1)
                asked_for[asked] = np.repeat(unit_of_row, state.size // max(unit_of_row.size, 1)), state
            values = _joined([back.double() for _, back in mine], unit_of_row.size, part.embedding_dim)
            found.append(rows_of_steps(table, *asked_for[asked], values))
        return found


def _joined(parts: Sequence[Tensor], rows: int, width: int) -> NDArray[Any]:  # Any: the dtype stays what it was
    """Return [steps, width] of the first rows of several passes, the steps of a row side by side."""
    each = [part[:rows].reshape(rows, -1, width) for part in parts]
    whole = each[0] if len(each) == 1 else torch.cat(each, dim=1)
    found: NDArray[Any] = whole.reshape(-1, width).numpy()
    return found
