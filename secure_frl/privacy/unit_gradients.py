"""Each trajectory's own gradient, and what the clip makes of it: about single people, so for simulated ones only.

Each trajectory is a unit of its own here. The answers may be asked of nobody who lives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secure_frl.learning.layout import Segment
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.chunks import CHUNK_UNITS, chunks_of, cut, with_rows
from secure_frl.privacy.hooks import Losses, hooked, total_loss
from secure_frl.privacy.message_gradients import MessageGradients
from secure_frl.secure_sum import AUXILIARY_BLOCKS, Block


def units_cut(
    policy: nn.Module,
    losses: Losses,
    trajectories: Trajectories,
    *,
    segments: Sequence[Segment],
    blocks: Sequence[Block],
) -> dict[str, NDArray[np.bool_]]:
    """Return by block, bool [B], whether a trajectory's gradient is longer than the block's clip.

    policy, losses, segments, blocks: as for `private_update`; the policy is left as it was.
    """
    found = {
        block.name: np.zeros(trajectories.count, dtype=np.bool_)
        for block in blocks
        if block.name not in AUXILIARY_BLOCKS
    }
    for rows, gradients in _gradients(policy, losses, trajectories, segments):
        for block in blocks:
            if block.name in found:
                found[block.name][rows] = _norms(gradients, block) > block.clip_norm
    return found


def unit_messages(
    policy: nn.Module,
    losses: Losses,
    trajectories: Trajectories,
    *,
    segments: Sequence[Segment],
    blocks: Sequence[Block],
) -> NDArray[np.float64]:
    """Return float64 [B, P]: what each trajectory alone would send before rounding and noise, as `clip_units` has it.

    policy, losses, segments, blocks: as for `private_update`; the policy is left as it was. Blocks of auxiliary figures
    are left at zero.
    """
    messages = np.zeros((trajectories.count, blocks[-1].stop))
    for rows, gradients in _gradients(policy, losses, trajectories, segments):
        for block in blocks:
            if block.name not in AUXILIARY_BLOCKS:
                weights = np.sqrt(block.noise_share) / np.maximum(_norms(gradients, block), block.clip_norm)
                messages[rows, block.start : block.stop] = weights[:, None] * gradients[:, block.start : block.stop]
    return messages


def _norms(gradients: NDArray[np.float64], block: Block) -> NDArray[np.float64]:
    part = gradients[:, block.start : block.stop]
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", part, part)))


def _gradients(
    policy: nn.Module, losses: Losses, trajectories: Trajectories, segments: Sequence[Segment]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Yield rows with their gradients, float64 [rows, P], a chunk at a time."""
    lengths = np.maximum(trajectories.lengths, 1)
    everybody = np.arange(trajectories.count, dtype=np.int64)
    with hooked(policy, segments, MessageGradients) as wrapped:
        for chunk in chunks_of(lengths, everybody, trajectories.lengths > 0):
            batch = cut(trajectories, chunk.rows, chunk.padded_length)
            if wrapped.needs_fixed_rows:
                batch = with_rows(batch, CHUNK_UNITS)
            wrapped.backward(total_loss(losses, policy, batch))
            yield chunk.rows, wrapped.take(batch.count)[: chunk.rows.size]
