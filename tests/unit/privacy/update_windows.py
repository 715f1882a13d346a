"""A table policy, windows of made-up trajectories and their losses; what becomes of a window on the production path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from clipped_sums import clipped_sum
from numpy.typing import NDArray
from sum_events import sum_constants
from torch import nn

from secure_frl.learning.layout import Layout, Segment
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.clipping import ClippedSum
from secure_frl.privacy.update import PrivateUpdate, private_update
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import SumConstants

STATES, ACTIONS = 20, 4


class Table(nn.Module):
    def __init__(self, states: int = STATES, actions: int = ACTIONS) -> None:
        super().__init__()
        self.logits = nn.Embedding(states, actions, dtype=torch.float64)
        self.residual = nn.Embedding(states, 1, dtype=torch.float64)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.residual.weight)

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.log_softmax(self.logits(states), dim=-1), self.residual(states)[..., 0]


def losses(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
    """Policy gradient and a linear critic part; a reward is the size of a step's gradient."""
    log_probabilities, residual = policy(torch.from_numpy(batch.observations))
    taken = log_probabilities.gather(-1, torch.from_numpy(batch.actions)[..., None])[..., 0]
    size = torch.from_numpy(np.where(batch.steps, batch.rewards, 0).astype(np.float64))
    return -((taken + residual) * size * torch.from_numpy(batch.steps)).sum(dim=1)


def layout(states: int = STATES, actions: int = ACTIONS) -> Layout:
    return Layout(
        (
            Segment("policy", "logits.weight", np.arange(states * actions, dtype=np.int64)),
            Segment("critic", "residual.weight", np.arange(states, dtype=np.int64)),
        )
    )


def constants(found: Layout | None = None, **changes: Any) -> SumConstants:
    """Under which a table's message is sent, or one of another layout. changes: fields by name."""
    found = found or layout()
    made = {"scale": 2000.0, "bound": 10**8, "blocks": found.blocks(0.4, 1.0, 0.15)}
    return sum_constants(found.length, **made | changes)


def window(count: int, seed: int = 0, persons: NDArray[np.uint64] | None = None, longest: int = 6) -> Trajectories:
    generator = np.random.default_rng(seed)
    steps = np.arange(longest)[None, :] < generator.integers(1, longest + 1, count)[:, None]
    return Trajectories(
        observations=np.where(steps, generator.integers(0, STATES, steps.shape), 0),
        actions=np.where(steps, generator.integers(0, ACTIONS, steps.shape), 0),
        allowed=None,
        rewards=np.where(steps, generator.normal(0, 3, steps.shape), 0).astype(np.float32),
        log_behaviour=None,
        steps=steps,
        terminated=np.ones(count, dtype=np.bool_),
        final_observations=np.zeros(count, dtype=np.int64),
        persons=np.arange(count, dtype=np.uint64) if persons is None else persons,
    )


def aligned(count: int) -> Trajectories:
    """Everybody does the same thing, with a gradient far beyond the clip: every influence points one way."""
    return Trajectories(
        observations=np.full((count, 1), 3),
        actions=np.full((count, 1), 2),
        allowed=None,
        rewards=np.full((count, 1), 1000.0, dtype=np.float32),
        log_behaviour=None,
        steps=np.ones((count, 1), dtype=np.bool_),
        terminated=np.ones(count, dtype=np.bool_),
        final_observations=np.zeros(count, dtype=np.int64),
        persons=np.arange(count, dtype=np.uint64),
    )


def message(trajectories: Trajectories, unit: str = "patient", usable: NDArray[np.bool_] | None = None) -> ClippedSum:
    return clipped_sum(
        Table(),
        losses,
        trajectories,
        unit=unit,
        usable=usable,
        segments=layout().segments,
        constants=constants(),
    )


def update(
    trajectories: Trajectories,
    usable: NDArray[np.bool_] | None = None,
    using: Callable[[nn.Module, Trajectories], torch.Tensor] = losses,
    terms: SumConstants | None = None,
    seed: int = 0,
) -> PrivateUpdate:
    return private_update(
        Table(),
        using,
        trajectories,
        unit="patient",
        usable=np.ones(trajectories.count, dtype=np.bool_) if usable is None else usable,
        segments=layout().segments,
        constants=terms or constants(),
        random=rehearsal_source(seed),
        receipt=5,
    )
