"""A chunk's units may take several passes: no way of summing may forget the rows that come in a later one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clipped_sums import clipped_sum
from numpy.typing import NDArray
from torch import Tensor, nn
from update_windows import constants

from secure_frl.learning.layout import Layout, Segment
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy import update
from secure_frl.secure_sum import Block

SEGMENTS = (Segment("policy", "head.weight", np.arange(8)), Segment("policy", "head.bias", np.arange(2)))
ONE_CLIP = constants(Layout(SEGMENTS), blocks=(Block("policy", 0, 10, 1.0, 1.0),))


class Head(nn.Module):
    """One linear layer, which the Gram engine takes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(4, 2).double()

    def forward(self, seen: Tensor) -> Tensor:
        found: Tensor = self.head(seen)
        return found


def losses(policy: nn.Module, batch: Trajectories) -> Tensor:
    seen = torch.from_numpy(np.where(batch.steps[:, :, None], batch.observations, 0)).double()
    weights = torch.from_numpy(np.where(batch.steps, batch.rewards, 0)).double()
    found: Tensor = (policy(seen)[..., 0] * weights).sum(dim=1)
    return found


def summed(persons: NDArray[np.int64], rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    count = persons.size
    stays = Trajectories(
        observations=np.ones((count, 2, 4), dtype=np.float32),
        actions=np.zeros((count, 2), dtype=np.int64),
        allowed=None,
        rewards=np.repeat(rewards.astype(np.float32)[:, None], 2, axis=1),
        log_behaviour=None,
        steps=np.ones((count, 2), dtype=np.bool_),
        terminated=np.ones(count, dtype=np.bool_),
        final_observations=np.ones((count, 4), dtype=np.float32),
        persons=persons.astype(np.uint64),
    )
    return clipped_sum(
        Head(),
        losses,
        stays,
        segments=SEGMENTS,
        constants=ONE_CLIP,
    ).vector


@pytest.mark.parametrize("chunks", [1, 4])
def test_a_person_moves_a_sum_by_one_clip_though_the_last_of_each_chunk_has_another_stay(
    chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = 128 * np.arange(chunks) + 127
    persons = np.concatenate([np.arange(128 * chunks), last])
    rewards = np.concatenate([np.ones(128 * chunks), np.full(chunks, -3.0)])

    everybody, without_one = summed(persons, rewards), summed(persons[1:], rewards[1:])

    assert np.linalg.norm(everybody - without_one) <= 1 + 1e-6
    monkeypatch.setattr(update, "is_offered", lambda *module: False)  # Opacus' hooks
    np.testing.assert_allclose(everybody, summed(persons, rewards), atol=1e-9)
