"""Discrete conservative Q-learning: double Q-learning that distrusts actions which the records hardly hold.

At every logged step Q of all allowed actions is pushed down (log-sum-exp) and Q of the action taken up. What nobody
tried is then not taken for good because its value is noise, which is also what private noise would make of it.

Source: Kumar et al. 2020, Conservative Q-Learning for Offline Reinforcement Learning, equation 4, with the sum over
states of the records and the actions that each of them allows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from secure_frl.errors import InvalidParameter
from secure_frl.learning.networks import MASKED_LOGIT
from secure_frl.learning.objectives.dqn import DoubleQ, taken_of
from secure_frl.learning.policies import observed
from secure_frl.learning.trajectories import Trajectories


@dataclass(frozen=True, slots=True)
class ConservativeQ:
    """An Objective. q: how targets and errors are made. alpha: weight of the conservative part, at least 0."""

    q: DoubleQ
    alpha: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise InvalidParameter(f"expected alpha >= 0, got {self.alpha}. Correct training.conservatism.")

    def targets(self, policy: Any, public: Mapping[str, Any], batch: Trajectories) -> Mapping[str, Any]:
        """Return what double Q-learning aims at. Any: see `DoubleQ.targets`."""
        return self.q.targets(policy, public, batch)

    def losses(self, policy: Any, batch: Trajectories, targets: Mapping[str, Any]) -> torch.Tensor:
        """Return errors plus alpha times (log-sum-exp of Q minus Q of the action taken), summed over steps, over
        max_steps; tensor [B]. Any: see `DoubleQ.losses`."""
        observations, masks = observed(batch)
        values = policy.logits_of(observations)
        allowed = policy.allowed_at(observations, masks)
        held = values if allowed is None else values.masked_fill(~allowed, MASKED_LOGIT)
        gap = torch.logsumexp(held, dim=-1) - taken_of(values, batch)
        conservative = (gap * torch.from_numpy(batch.steps)).sum(dim=1) / self.q.max_steps
        losses: torch.Tensor = self.q.errors(values, batch, targets) + self.alpha * conservative
        return losses
