"""Proximal policy optimisation: the clipped surrogate, one loss a whole trajectory cut at `max_steps`.

Advantages come from the public critic, one trajectory at a time. What would make them, or the number of steps, depend
on other people is absent: no normalisation over a batch, no running reward scale, no target KL, no adaptive penalty or
entropy; the entropy's weight is a constant. On its first epoch the ratio is 1 and the gradient that of REINFORCE.

Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms, equations 7 and 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from secure_frl.errors import InvalidParameter
from secure_frl.learning.objectives.reinforce import Reinforce
from secure_frl.learning.policies import observed
from secure_frl.learning.trajectories import Trajectories


@dataclass(frozen=True, slots=True)
class ProximalPolicy:
    """An Objective. advantages: how REINFORCE makes them, with its critic. clip_ratio: epsilon of the paper, > 0.

    entropy_weight: c2 of the paper, >= 0; what a step gains by the entropy of its actions, in natural units.
    """

    advantages: Reinforce
    clip_ratio: float
    entropy_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.clip_ratio < 1 or not 0 <= self.entropy_weight < float("inf"):
            raise InvalidParameter(
                f"expected 0 < clip_ratio < 1 and an entropy_weight from 0, got {self.clip_ratio} and "
                f"{self.entropy_weight}. Correct training.clip_ratio and training.entropy_weight."
            )

    def targets(self, policy: Any, public: Mapping[str, Any], batch: Trajectories) -> Mapping[str, Any]:
        """Return what REINFORCE aims at, and the log-probabilities under which the actions were taken, [B,T].

        Raises InvalidParameter for trajectories without log_behaviour: that is a fact of their source, not of people.
        """
        if batch.log_behaviour is None:
            raise InvalidParameter("expected log_behaviour, got none. Collect the episodes under the broadcast policy.")
        behaviour = np.where(batch.steps, batch.log_behaviour, 0.0).astype(np.float64)
        return {**self.advantages.targets(policy, public, batch), "log_behaviour": behaviour}

    def losses(self, policy: Any, batch: Trajectories, targets: Mapping[str, Any]) -> torch.Tensor:
        """Return minus the clipped surrogate summed over steps (and the critic's linear part), tensor [B].

        policy: TablePolicy or a wrapper that is called like it (Any: a gradient hook may stand around it).
        """
        steps = torch.from_numpy(batch.steps)
        observations, allowed = observed(batch)
        log_probabilities, residual, visits = policy(observations, allowed)
        actions = torch.from_numpy(np.where(batch.steps, batch.actions, 0))
        taken = log_probabilities.gather(-1, actions[..., None])[..., 0]
        advantages = torch.from_numpy(targets["advantages"]).to(taken.dtype)
        ratio = torch.exp(torch.where(steps, taken - torch.from_numpy(targets["log_behaviour"]).to(taken.dtype), 0.0))
        clipped = ratio.clamp(1 - self.clip_ratio, 1 + self.clip_ratio)
        gain = torch.minimum(ratio * advantages, clipped * advantages)
        gain = gain + self.advantages.critic_gain(policy, observations, residual, visits, targets)
        if self.entropy_weight:
            gain = gain - self.entropy_weight * (torch.exp(log_probabilities) * log_probabilities).sum(dim=-1)
        losses: torch.Tensor = -(gain * steps).sum(dim=1)
        return losses
