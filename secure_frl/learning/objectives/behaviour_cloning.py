"""Behaviour cloning: act as the logged trajectories did. One loss a trajectory.

It recovers at best the policy that was logged; it needs no reward, critic or weight that was fitted on other people.

Source: Pomerleau 1991, Efficient Training of Artificial Neural Networks for Autonomous Navigation; the likelihood of a
trajectory's actions, its sum over steps divided by a constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from secure_frl.errors import InvalidParameter
from secure_frl.learning.policies import observed
from secure_frl.learning.trajectories import Trajectories


@dataclass(frozen=True, slots=True)
class BehaviourCloning:
    """An Objective. max_steps: the study's longest trajectory, a public constant that divides every loss."""

    max_steps: int

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise InvalidParameter(f"expected max_steps >= 1, got {self.max_steps}. Correct data.max_steps.")

    def targets(self, policy: Any, public: Mapping[str, Any], batch: Trajectories) -> Mapping[str, Any]:
        """Return nothing: the logged actions are the targets. Any: the protocol's signature."""
        return {}

    def losses(self, policy: Any, batch: Trajectories, targets: Mapping[str, Any]) -> torch.Tensor:
        """Return minus the sum of log-probabilities of the logged actions over max_steps, tensor [B].

        policy: TablePolicy or a wrapper that is called like it (Any: a gradient hook may stand around it).
        """
        steps = torch.from_numpy(batch.steps)
        log_probabilities = policy(*observed(batch))[0]
        actions = torch.from_numpy(np.where(batch.steps, batch.actions, 0))
        taken = log_probabilities.gather(-1, actions[..., None])[..., 0]
        losses: torch.Tensor = -(taken * steps).sum(dim=1) / self.max_steps
        return losses
