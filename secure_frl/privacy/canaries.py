"""Made-up units for an audit: each one's gradient is a direction of its own, three clips long in every block.

Canary k of a sum moves one coordinate of each block, so those of one sum are orthogonal and after clipping each has the
norm that the claim allows one unit. The coordinates move on from sum to sum, so that an audit visits the whole message.
A block too short for that carries none, and canaries are that much shorter: the figures of one value above all, which
follow a unit's gradient and return by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_frl.learning.layout import Segment
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.hooks import Losses
from secure_frl.privacy.round_shares import share_of
from secure_frl.secure_sum import AUXILIARY_BLOCKS, Block

LENGTH_IN_CLIPS = 3.0  # before clipping, so that a clip that is left out shows
_SHORTEST_BLOCK = 128  # values; a shorter block would need as many more sums


class CanaryPolicy(nn.Module):
    """One number a coordinate of the message, in a table a block: the smallest policy that has such gradients."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({b.name: nn.Embedding(b.stop - b.start, 1, dtype=torch.float64) for b in blocks})


class Canaries:
    """The canaries of one message layout."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        """blocks: of the charter's constants, covering [0, P)."""
        self._all = tuple(blocks)
        self._blocks = tuple(block for block in blocks if block.name not in AUXILIARY_BLOCKS)
        filled = [block for block in self._blocks if block.noise_share > 0]
        longest = max(block.stop - block.start for block in filled)
        self._carrying = tuple(b for b in filled if b.stop - b.start >= min(_SHORTEST_BLOCK, longest))
        self.policy = CanaryPolicy(self._blocks)
        self.segments = tuple(
            Segment(b.name, f"tables.{b.name}.weight", np.arange(b.stop - b.start, dtype=np.int64))
            for b in self._blocks
        )

    @property
    def norm(self) -> float:
        """Return the L2 norm of a clipped canary, in clips: 1 when every block carries canaries."""
        return min(1.0, math.sqrt(share_of(self._carrying) / share_of(self._all)))

    @property
    def most_in_one_sum(self) -> int:
        """Return how many orthogonal canaries fit into one sum."""
        return min(block.stop - block.start for block in self._carrying)

    def window(self, numbers: NDArray[np.int64], signs: NDArray[np.float32]) -> Trajectories:
        """Return one person with an episode of one step for each canary.

        numbers: int64 [B], 0..most_in_one_sum-1. signs: [B], -1 for the opposite direction.
        """
        count = numbers.size
        return Trajectories(
            observations=numbers[:, None],
            actions=np.zeros((count, 1), dtype=np.int64),
            allowed=None,
            rewards=signs[:, None],
            log_behaviour=None,
            steps=np.ones((count, 1), dtype=np.bool_),
            terminated=np.ones(count, dtype=np.bool_),
            final_observations=numbers,
            persons=numbers.astype(np.uint64),
        )

    def nobody(self) -> Trajectories:
        """Return an empty window."""
        return self.window(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))

    def losses(self, turn: int) -> Losses:
        """Return the losses of the sum number `turn`: a public constant that says where its canaries stand."""

        def losses(policy: nn.Module, batch: Trajectories) -> Tensor:
            if not isinstance(policy, CanaryPolicy):
                raise TypeError("expected the canaries' own policy. Pass Canaries.policy.")
            signs = torch.from_numpy(batch.rewards[:, 0].astype(np.float64))
            total = torch.zeros(batch.count, dtype=torch.float64)
            for block in self._blocks:
                places = self._places(block, turn, batch.observations[:, 0])
                length = LENGTH_IN_CLIPS * block.clip_norm if block in self._carrying else 0.0
                total = total + length * policy.tables[block.name](torch.from_numpy(places)[:, None])[:, 0, 0]
            return total * signs

        return losses

    def scores(self, turn: int, values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """Return float64 [count]: how far each of the first canaries' directions is from 0, in canaries.

        values: float64 [P], a sum over sites in units of the clips.
        """
        numbers = np.arange(count, dtype=np.int64)
        total = np.zeros(count)
        for block in self._carrying:
            total += math.sqrt(block.noise_share) * values[block.start + self._places(block, turn, numbers)]
        return total / share_of(self._carrying)

    def _places(self, block: Block, turn: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return (numbers + turn * self.most_in_one_sum) % (block.stop - block.start)
