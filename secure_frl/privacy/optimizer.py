"""Opacus' optimiser with its two private halves replaced: float64 clipping a block, and exact integer noise.

Opacus' own sum is float32 and its noise a float Gaussian; neither is used. A site makes an update and takes no step:
whoever may read the sum steps. One window, one call of `add_noise`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer

from secure_frl.encoding.quantise import quantise
from secure_frl.errors import InvalidParameter, UnexpectedState
from secure_frl.learning.layout import Segment
from secure_frl.privacy.clipping import (
    ClippedSum,
    add_to_units_,
    as_clipped_sum,
    check_blocks,
    clip_units,
)
from secure_frl.privacy.events import UNSAFE_NONE
from secure_frl.privacy.gram_gradients import GramGradients
from secure_frl.privacy.message_gradients import MessageGradients
from secure_frl.privacy.noise import discrete_gaussian
from secure_frl.privacy.table_gradients import TableGradients
from secure_frl.privacy.table_rows import TableSum
from secure_frl.secure_sum import RandomSource, SumConstants


def noised_integers(vector: NDArray[np.float64], constants: SumConstants, random: RandomSource) -> NDArray[np.int64]:
    """Return int64 [P]: a clipped vector rounded with dither, clamped, plus this site's discrete Gaussian.

    vector: float64 [P], in units of the clips; used for this call only, for two noised versions of one vector cancel
    each other's noise. With noise = unsafe-none nothing is added.
    """
    rounded = quantise(vector, constants.scale, constants.bound, random)
    if constants.noise == UNSAFE_NONE:
        return rounded.integers
    return rounded.integers + discrete_gaussian(constants.integer_noise_scale, vector.size, random)


class IntegerNoiseOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus has no types
    """Collects one window's per-unit gradients, then turns their clipped sum into noised integers, once.

    For each chunk of units: `expect`, then for each backward pass `collect`, then `clip_and_accumulate`; at the end
    `add_noise`, also after no chunk at all: an empty window sends noise.
    """

    def __init__(
        self,
        module: MessageGradients | GramGradients | TableGradients,
        segments: Sequence[Segment],
        constants: SumConstants,
        *,
        unit: str,
        random: RandomSource,
    ) -> None:
        """module: around the policy, with the same segments. random: source of dither and noise.

        Raises InvalidParameter for blocks or a length that do not match the segments.
        """
        self._length = check_blocks(constants.blocks, segments)
        if self._length != constants.length:
            raise InvalidParameter(
                f"expected a layout of {constants.length} values, got {self._length}. Build both from one study."
            )
        super().__init__(
            torch.optim.SGD(module.parameters(), lr=0.0),
            noise_multiplier=constants.noise_multiplier,
            max_grad_norm=1.0,  # of the whole message, in units of the clips
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._module = module
        self._constants = constants
        self._unit = unit
        self._random = random
        self._vector = np.zeros(self._length, dtype=np.float64)
        self._columns = sum(segment.coordinates.size for segment in segments)
        self._is_open = False
        tables = module.tables if isinstance(module, TableGradients) else ()
        self._of_tables = TableSum(tables, constants.blocks)  # of the window; then a chunk's forms below are unused
        self._gradients: NDArray[np.float64] | None = None  # [units, columns] of the open chunk, once there are any
        self._summed: tuple[NDArray[np.float64], int] | None = None  # of the open chunk, where no gradients are made
        self._returns = np.zeros(0, dtype=np.float64)  # [units], of the open chunk
        self._units = 0
        self._dropped = 0
        self._is_spent = False

    def expect(self, units: int) -> None:
        """Begin a chunk of `units` units. Raises UnexpectedState while another is open."""
        if self._is_open or self._is_spent:
            raise UnexpectedState("expected no open chunk before add_noise, got one. Clip it first.")
        self._units = units
        self._is_open = True
        self._gradients = self._summed = None
        self._returns = np.zeros(units, dtype=np.float64)

    def collect(
        self,
        unit_of_row: NDArray[np.int64],
        *,
        rows: int | None = None,
        returns: NDArray[np.float64] | None = None,
        is_whole: bool = False,
    ) -> None:
        """Take the gradients of one backward pass and add them to their units.

        unit_of_row: int64, which unit of the chunk each trajectory of the pass belongs to. rows: of the pass, when
        more follow that belong to nobody. returns: float64, what each trajectory adds to its unit's return.
        is_whole: no other pass of this chunk follows, so a unit of one row here has no other row.
        Raises InvalidParameter for gradients of several passes, or of another number of rows.
        """
        if not self._is_open:
            raise UnexpectedState("expected an open chunk, got none. Call expect with its units first.")
        if self._summed is not None:
            raise UnexpectedState("expected no pass after one that was the whole chunk, got one. Correct is_whole.")
        rows = unit_of_row.size if rows is None else rows
        if returns is not None:
            np.add.at(self._returns, unit_of_row, returns)
        if isinstance(self._module, TableGradients):
            self._of_tables.add(self._module.take_steps(unit_of_row + self._of_tables.units, rows))
            return
        is_all = self._gradients is None and np.array_equal(unit_of_row, np.arange(self._units))
        if is_all and is_whole and isinstance(self._module, GramGradients):
            self._summed = self._module.sum_clipped(self._units, rows, self._constants.blocks, self._returns)
            return
        found = self._module.take(rows)[: unit_of_row.size]
        if is_all:
            self._gradients = found  # most people have one trajectory; large arrays are not touched without need
            return
        if self._gradients is None:
            self._gradients = np.zeros((self._units, self._columns), dtype=np.float64)
        add_to_units_(self._gradients, found, unit_of_row)

    def clip_and_accumulate(self) -> None:
        """Clip the units of the open chunk and add them to the window's sum, in float64."""
        if not self._is_open:
            raise UnexpectedState("expected an open chunk, got none. Call expect and collect first.")
        if isinstance(self._module, TableGradients):
            self._of_tables.close(self._returns)
            self._is_open = False
            return
        if self._summed is not None:
            vector, dropped = self._summed
        else:
            gradients = np.zeros((self._units, self._columns)) if self._gradients is None else self._gradients
            vector, dropped = clip_units(gradients, self._constants.blocks, self._returns)
        self._vector += vector
        self._dropped += dropped
        self._is_open, self._gradients, self._summed = False, None, None

    def clipped_sum(self) -> ClippedSum:
        """Return what has been summed so far; before noise, so it stays in this process.

        Raises UnexpectedState in the middle of a chunk.
        """
        if self._is_open:
            raise UnexpectedState("expected no open chunk, got one. Clip it first.")
        vector, dropped = self._so_far()
        return as_clipped_sum(vector, self._constants.blocks, self._unit, dropped)

    def _so_far(self) -> tuple[NDArray[np.float64], int]:
        vector, dropped = self._of_tables.result()
        return self._vector + vector, self._dropped + dropped

    def add_noise(self) -> NDArray[np.int64]:
        """Return int64 [P]: the sum rounded with dither, clamped, plus this site's discrete Gaussian; once a window.

        With noise = unsafe-none nothing is added.
        Raises UnexpectedState at a second call: two noised versions of one sum cancel each other's noise.
        """
        if self._is_open or self._is_spent:
            raise UnexpectedState("expected a finished window without noise, got another. Start a new window.")
        self._is_spent = True
        vector, _ = self._so_far()
        self._vector = np.zeros(0, dtype=np.float64)
        self._of_tables.forget()
        return noised_integers(vector, self._constants, self._random)

    def step(self, closure: object = None) -> None:
        """Refuse: a site takes no step of its own under federated SGD."""
        raise UnexpectedState("expected add_noise, got step. Whoever may read the sum steps, not a site.")
