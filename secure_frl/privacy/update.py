"""One window of a site: trajectories to noised integers. The door of this room.

    trajectories -> per-unit gradients -> clipped sum (float64) -> integers -> integers with noise

There is no float vector with noise, and no way from a later form to an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import Segment
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.chunks import CHUNK_UNITS, chunks_of, cut, with_rows
from secure_frl.privacy.clipping import clip_units
from secure_frl.privacy.events import NOISES
from secure_frl.privacy.gram_gradients import GramGradients, is_offered
from secure_frl.privacy.hooks import Losses, hooked, total_loss
from secure_frl.privacy.message_gradients import MessageGradients
from secure_frl.privacy.module_check import check_module
from secure_frl.privacy.optimizer import IntegerNoiseOptimizer, noised_integers
from secure_frl.privacy.rows import as_units
from secure_frl.privacy.table_gradients import TableGradients, is_of_tables
from secure_frl.privacy.unit import SITE
from secure_frl.secure_sum import RandomSource, SumConstants

Engine = MessageGradients | GramGradients | TableGradients


@dataclass(frozen=True, slots=True, eq=False)
class PrivateUpdate:
    """What a site hands to the secure sum: rounded, noised, paid for. value = integers / scale.

    Under distributed noise this is one share of it: only the sum of h of them is private, so it goes nowhere but
    into the masked input.
    """

    integers: NDArray[np.int64] = field(repr=False)  # [P]
    scale: float
    receipt: int  # row of the site's ledger that reserved this release
    dropped: int = field(repr=False)  # units that counted as zero; for the site's private log only


def private_update(
    policy: nn.Module,
    losses: Losses,
    trajectories: Trajectories,
    *,
    unit: str,
    usable: NDArray[np.bool_],
    segments: Sequence[Segment],
    constants: SumConstants,
    random: RandomSource,
    receipt: int,
    return_middle: float = 0.0,
) -> PrivateUpdate:
    """Return the noised integers of one window; an empty window gives noise alone.

    policy: holds the broadcast parameters; left as it was. losses: given policy and a batch, a tensor [B].
    usable: bool [B]; a unit with a trajectory that is not usable contributes zero, as does one whose gradient is
    not finite. segments: which coordinates enter, in order. receipt: the reservation made before sampling.
    return_middle: of the public range of returns; used when the message has a block for them.
    Raises InvalidParameter for a module, loss or layout that cannot be private; never because of a value in the data.
    """
    window = _Window.of(trajectories, usable, unit, return_middle)
    optimizer = _accumulate(policy, losses, window, segments, constants, random)
    dropped = optimizer.clipped_sum().dropped + window.left_out
    return PrivateUpdate(optimizer.add_noise(), constants.scale, receipt, dropped)


def private_move(
    move: NDArray[np.float64], *, constants: SumConstants, random: RandomSource, receipt: int, mean_return: float = 0.0
) -> PrivateUpdate:
    """Return the noised integers of a site's whole move, which is one unit: cut as one vector, whatever made it.

    move: float64 [P without auxiliary figures], in the message's order; one that is not finite counts as zero.
    mean_return: of the site's episodes, from the middle of the public range.
    """
    vector, dropped = clip_units(move[None, :].copy(), constants.blocks, np.array([mean_return]))
    return PrivateUpdate(noised_integers(vector, constants, random), constants.scale, receipt, dropped)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Window:
    """Rows that losses are computed on: whose each is, whether it counts, what it adds to its unit's mean return."""

    rows: Trajectories
    units: NDArray[np.int64]  # [rows]
    usable: NDArray[np.bool_]  # [rows]
    shares_of_returns: NDArray[np.float64]  # [rows]
    unit: str
    left_out: int  # units that count as zero for a row that is not usable

    @classmethod
    def of(cls, trajectories: Trajectories, usable: NDArray[np.bool_], unit: str, return_middle: float) -> Self:
        """Return the rows of a window's trajectories; arguments as in `private_update`. Raises InvalidParameter."""
        if usable.shape != (trajectories.count,) or usable.dtype != np.bool_:
            raise InvalidParameter(
                f"expected usable as bool [{trajectories.count}], got {usable.dtype} {usable.shape}. "
                "Mark every trajectory of the window."
            )
        rows, fine, units = as_units(trajectories, usable, unit)
        # A site loses what is not usable, and counts as zero when nothing is left; people are lost whole.
        is_empty = unit == SITE and usable.size > 0 and not usable.any()
        left_out = int(is_empty) if unit == SITE else int(np.unique(units[~fine]).size)
        return cls(rows, units, fine, _shares_of_returns(rows, units, return_middle), unit, left_out)


def _accumulate(
    policy: nn.Module,
    losses: Losses,
    window: _Window,
    segments: Sequence[Segment],
    constants: SumConstants,
    random: RandomSource,
) -> IntegerNoiseOptimizer:
    """Return the optimiser that holds the window's clipped sum, before rounding and noise."""
    if constants.noise not in NOISES:
        raise InvalidParameter(f"expected noise of {NOISES}, got {constants.noise!r}. Take it from the charter.")
    check_module(policy)
    with hooked(policy, segments, _engine) as wrapped:
        optimizer = IntegerNoiseOptimizer(wrapped, segments, constants, unit=window.unit, random=random)
        _walk(lambda batch: total_loss(losses, policy, batch), window, optimizer, wrapped)
    return optimizer


def _engine(policy: nn.Module, segments: Sequence[Segment]) -> Engine:
    """Return what sums a policy's per-unit gradients fastest: tables by their rows, networks by Gram matrices."""
    if is_of_tables(policy, segments):
        return TableGradients(policy, segments)
    return (GramGradients if is_offered(policy, segments) else MessageGradients)(policy, segments)


def _walk(
    total: Callable[[Trajectories], Tensor], window: _Window, optimizer: IntegerNoiseOptimizer, wrapped: Engine
) -> None:
    steps = window.rows.steps
    # The last step that exists, gaps or not: nothing of an episode may be cut off by its padding. Written without
    # argmax, which raises on an array of no columns: a window in which nobody has a step is answered like any other.
    lengths = np.max(steps * np.arange(1, steps.shape[1] + 1), axis=1, initial=1).astype(np.int64)
    for chunk in chunks_of(lengths, window.units, window.usable):
        optimizer.expect(chunk.units)
        for start in range(0, chunk.rows.size, CHUNK_UNITS):
            rows = slice(start, start + CHUNK_UNITS)
            batch = cut(window.rows, chunk.rows[rows], chunk.padded_length)
            if wrapped.needs_fixed_rows:
                batch = with_rows(batch, CHUNK_UNITS)
            wrapped.backward(total(batch))
            optimizer.collect(
                chunk.unit_of_row[rows],
                rows=batch.count,
                returns=window.shares_of_returns[chunk.rows[rows]],
                is_whole=chunk.rows.size <= CHUNK_UNITS,
            )
        optimizer.clip_and_accumulate()


def _shares_of_returns(
    trajectories: Trajectories, units: NDArray[np.int64], return_middle: float
) -> NDArray[np.float64]:
    """Return float64 [B]: what each trajectory adds to the mean return of its unit, counted from the public middle."""
    returns = np.where(trajectories.steps, trajectories.rewards, 0.0).sum(axis=1, dtype=np.float64) - return_middle
    return np.asarray(returns / np.bincount(units, minlength=1)[units], dtype=np.float64)
