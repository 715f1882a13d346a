"""A policy that features and states enter, with its losses and trajectories, for tests of sums by Gram matrices."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import nn

from secure_frl.learning.layout import Segment
from secure_frl.secure_sum import Block

FEATURES, STATES, ACTIONS = 5, 7, 3
SENT = np.array([0, 4, 5, 6, 7, 8, 20, 27], dtype=np.int64)  # of the embedding's 28 coordinates


class Mixed(nn.Module):
    """Features and states enter one network; a second one stands beside it."""

    def __init__(self, width: int = 4, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, width, dtype=dtype)
        self.embedding = nn.Embedding(STATES, 4, dtype=dtype)
        self.deep = nn.Linear(width + 4, width, bias=False, dtype=dtype)
        self.head = nn.Linear(width, ACTIONS, dtype=dtype)
        self.value = nn.Linear(width, 1, dtype=dtype)

    def hidden_of(self, features: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        entered = torch.cat([torch.tanh(self.first(features)), self.embedding(states)], dim=-1)
        return torch.tanh(self.deep(entered))

    def value_of(self, features: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.value(self.hidden_of(features, states))
        return values[..., 0]

    def forward(self, features: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.hidden_of(features, states)
        return torch.log_softmax(self.head(hidden), dim=-1), self.value(hidden)[..., 0]


@dataclasses.dataclass
class Batch:
    features: torch.Tensor
    states: torch.Tensor
    actions: torch.Tensor
    sizes: torch.Tensor  # of each step's part; 0 where no step exists

    def rows(self, which: slice) -> Batch:
        return Batch(self.features[which], self.states[which], self.actions[which], self.sizes[which])


def batch(rows: int, steps: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    drawn = torch.Generator().manual_seed(seed)
    exists = torch.arange(steps) < torch.randint(1, steps + 1, (rows, 1), generator=drawn)
    spread = 10 ** (2 * torch.rand(rows, 1, generator=drawn, dtype=dtype) - 1)  # short and long gradients
    return Batch(
        torch.randn(rows, steps, FEATURES, generator=drawn, dtype=dtype),
        torch.randint(0, STATES, (rows, steps), generator=drawn),
        torch.randint(0, ACTIONS, (rows, steps), generator=drawn),
        torch.randn(rows, steps, generator=drawn, dtype=dtype) * exists * spread,
    )


def losses(policy: Mixed, some: Batch) -> torch.Tensor:
    """What lies beyond makes a second pass through all layers but the head, as bootstrapped values do."""
    log_probabilities, values = policy(some.features, some.states)
    taken = log_probabilities.gather(-1, some.actions[..., None])[..., 0]
    beyond = policy.value_of(some.features[:, :1].flip(-1), some.states[:, :1])
    found: torch.Tensor = ((taken + values**2) * some.sizes).sum(1) + (beyond * some.sizes[:, :1]).sum(1)
    return found


def segments_of(policy: nn.Module) -> tuple[Segment, ...]:
    """Policy and value in blocks of their own, the embedding in part."""
    whole = {name: np.arange(weight.numel(), dtype=np.int64) for name, weight in policy.named_parameters()}
    whole["embedding.weight"] = SENT
    return tuple(Segment("critic" if name.startswith("value") else "policy", name, c) for name, c in whole.items())


def blocks_of(segments: tuple[Segment, ...], clip_norm: float = 2.0) -> tuple[Block, ...]:
    critic = sum(s.coordinates.size for s in segments if s.block == "critic")
    length = sum(s.coordinates.size for s in segments)
    start = length - critic
    return Block("policy", 0, start, clip_norm, 0.8), Block("critic", start, length, clip_norm / 2, 0.2)


def made(dtype: torch.dtype = torch.float64, width: int = 4) -> Mixed:
    torch.manual_seed(3)
    return Mixed(width, dtype)
