"""Whose gradient the clip cuts: a decision of each unit, so raw data, and for simulated people only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secure_frl.learning.layout import AUXILIARY, Segment
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.chunks import CHUNK_UNITS, chunks_of, cut, with_rows
from secure_frl.privacy.message_gradients import MessageGradients
from secure_frl.privacy.update import Losses
from secure_frl.secure_sum import Block


def units_cut(
    policy: nn.Module,
    losses: Losses,
    trajectories: Trajectories,
    *,
    segments: Sequence[Segment],
    blocks: Sequence[Block],
) -> dict[str, NDArray[np.bool_]]:
    """Return by block, bool [B], whether a trajectory's gradient is longer than the block's clip.

    Each trajectory is a unit of its own. policy, losses, segments, blocks: as for `private_update`; the policy is left
    as it was. Its answer is about single people: it may be asked of nobody who lives.
    """
    found = {
        block.name: np.zeros(trajectories.count, dtype=np.bool_) for block in blocks if block.name not in AUXILIARY
    }
    was_training = policy.training
    policy.train()
    wrapped = MessageGradients(policy, segments)
    lengths = np.maximum(trajectories.lengths, 1)
    try:
        everybody = np.arange(trajectories.count, dtype=np.int64)
        for chunk in chunks_of(lengths, everybody, trajectories.lengths > 0):
            batch = cut(trajectories, chunk.rows, chunk.padded_length)
            if wrapped.needs_fixed_rows:
                batch = with_rows(batch, CHUNK_UNITS)
            torch.autograd.backward(losses(policy, batch).sum())
            gradients = wrapped.take(batch.count)[: chunk.rows.size]
            for block in blocks:
                if block.name in found:
                    part = gradients[:, block.start : block.stop]
                    found[block.name][chunk.rows] = np.sqrt(np.einsum("ij,ij->i", part, part)) > block.clip_norm
    finally:
        wrapped.to_standard_module()
        policy.zero_grad(set_to_none=True)
        policy.train(was_training)
    return found
