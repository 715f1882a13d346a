"""REINFORCE with generalised advantages and a public critic, one loss a trajectory.

The critic's values are public: they came out of earlier booked sums, or are a constant of the study. They are never
fitted on the trajectories at hand, since that would carry one person into another's gradient.

Source: Williams 1992; Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage
Estimation, equation 16, with the sum ended at the last step of an episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import VISIT_WEIGHT
from secure_frl.learning.trajectories import Trajectories

CRITIC = "critic"  # key of the public critic: float64 [states], 0 in terminal states


@dataclass(frozen=True, slots=True)
class Reinforce:
    """An Objective for tabular policies.

    discount: gamma in (0, 1]. gae_lambda: lambda in [0, 1]. critic: "private" adds each state's residual sum and
    visit count, as the gradient of a part linear in the policy's two critic tables.
    """

    discount: float
    gae_lambda: float
    critic: str

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1 or not 0 <= self.gae_lambda <= 1 or self.critic not in ("private", "none"):
            raise InvalidParameter(
                f"discount must be in (0, 1], gae_lambda in [0, 1] and critic private or none, not {self.discount}, "
                f"{self.gae_lambda} and {self.critic!r}. Correct [training] and [policy]."
            )

    def targets(self, policy: Any, public: Mapping[str, Any], batch: Trajectories) -> Mapping[str, Any]:
        """Return advantages and Monte Carlo residuals, float64 [B,T], 0 where no step exists.

        public["critic"]: float64 [states]. gamma times V(final observation) is added when an episode was cut, never
        when it terminated. policy is not looked at (Any: it belongs to the protocol's signature).
        """
        values: NDArray[np.float64] = public[CRITIC]
        steps = batch.steps
        here = np.where(steps, values[np.where(steps, batch.observations, 0)], 0.0)
        beyond = np.where(batch.terminated, 0.0, values[batch.final_observations])
        rewards = np.where(steps, batch.rewards, 0.0).astype(np.float64)
        advantages = np.zeros(steps.shape)
        residuals = np.zeros(steps.shape)
        advantage, outcome, value_after = np.zeros(batch.count), beyond, beyond
        for t in range(steps.shape[1] - 1, -1, -1):
            exists = steps[:, t]
            delta = rewards[:, t] + self.discount * value_after - here[:, t]
            advantage = np.where(exists, delta + self.discount * self.gae_lambda * advantage, advantage)
            outcome = np.where(exists, rewards[:, t] + self.discount * outcome, outcome)
            value_after = np.where(exists, here[:, t], value_after)
            advantages[:, t] = np.where(exists, advantage, 0.0)
            residuals[:, t] = np.where(exists, outcome - here[:, t], 0.0)
        return {"advantages": advantages, "residuals": residuals}

    def losses(self, policy: Any, batch: Trajectories, targets: Mapping[str, Any]) -> torch.Tensor:
        """Return minus the sum of log-probability times advantage (and the critic's linear part), tensor [B].

        policy: TablePolicy or a wrapper that is called like it (Any: a gradient hook may stand around it). Sums over
        an episode's steps; nothing is divided by a number that depends on data.
        """
        steps = torch.from_numpy(batch.steps)
        log_probabilities, residual, visits = policy(torch.from_numpy(np.where(batch.steps, batch.observations, 0)))
        actions = torch.from_numpy(np.where(batch.steps, batch.actions, 0))
        taken = log_probabilities.gather(-1, actions[..., None])[..., 0]
        gain = taken * torch.from_numpy(targets["advantages"]).to(taken.dtype)
        if self.critic == "private":
            gain = gain + residual * torch.from_numpy(targets["residuals"]).to(taken.dtype) + VISIT_WEIGHT * visits
        losses: torch.Tensor = -(gain * steps).sum(dim=1)
        return losses
