"""REINFORCE with generalised advantages, one loss a trajectory.

The critic's values are public: they came out of earlier booked sums, or are a constant of the study. They are never
fitted on the trajectories at hand, since that would carry one person into another's gradient. A value network is part
of the policy; its squared errors are a term of the trajectory's own loss, clipped together with the rest.

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
from secure_frl.learning.forms import NETWORK_CRITIC
from secure_frl.learning.layout import VISIT_WEIGHT
from secure_frl.learning.linear_critic import LinearCritic
from secure_frl.learning.policies import observed, observed_with_final
from secure_frl.learning.trajectories import Trajectories

CRITIC = "critic"  # key of the public critic: float64 [states], 0 in terminal states; over features [1], or linear


@dataclass(frozen=True, slots=True)
class Reinforce:
    """An Objective.

    discount: gamma in (0, 1]. gae_lambda: lambda in [0, 1]. critic: "private" adds each state's residual sum and
    visit count, as the gradient of a part linear in the policy's two critic tables, or, over random features, the sum
    of residual times feature, as the gradient of a linear critic's squared errors; "network" adds value_weight times
    half the squared error of the policy's value network against the Monte Carlo return.
    """

    discount: float
    gae_lambda: float
    critic: str
    value_weight: float = 0.5

    def __post_init__(self) -> None:
        fine = 0 < self.discount <= 1 and 0 <= self.gae_lambda <= 1 and self.value_weight > 0
        if not fine or self.critic not in ("private", NETWORK_CRITIC, "none"):
            raise InvalidParameter(
                "discount must be in (0, 1], gae_lambda in [0, 1], value_weight positive and critic private, network "
                f"or none, not {self.discount}, {self.gae_lambda}, {self.value_weight} and {self.critic!r}. "
                "Correct [training] and [policy]."
            )

    def targets(self, policy: Any, public: Mapping[str, Any], batch: Trajectories) -> Mapping[str, Any]:
        """Return advantages, Monte Carlo residuals and outcomes, float64 [B,T], 0 where no step exists.

        public["critic"]: float64 [states], [1] for every vector of features, or a LinearCritic; not looked at with a
        value network, which values by its present parameters. gamma times V(final observation) is added when an
        episode was cut, never when it terminated. Any: a gradient hook may stand around the policy.
        """
        steps = batch.steps
        here, beyond = self._values(policy, public, batch)
        here, beyond = np.where(steps, here, 0.0), np.where(batch.terminated, 0.0, beyond)
        rewards = np.where(steps, batch.rewards, 0.0).astype(np.float64)
        advantages = np.zeros(steps.shape)
        residuals = np.zeros(steps.shape)
        outcomes = np.zeros(steps.shape)
        advantage, outcome, value_after = np.zeros(batch.count), beyond, beyond
        for t in range(steps.shape[1] - 1, -1, -1):
            exists = steps[:, t]
            delta = rewards[:, t] + self.discount * value_after - here[:, t]
            advantage = np.where(exists, delta + self.discount * self.gae_lambda * advantage, advantage)
            outcome = np.where(exists, rewards[:, t] + self.discount * outcome, outcome)
            value_after = np.where(exists, here[:, t], value_after)
            advantages[:, t] = np.where(exists, advantage, 0.0)
            residuals[:, t] = np.where(exists, outcome - here[:, t], 0.0)
            outcomes[:, t] = np.where(exists, outcome, 0.0)
        return {"advantages": advantages, "residuals": residuals, "outcomes": outcomes}

    def losses(self, policy: Any, batch: Trajectories, targets: Mapping[str, Any]) -> torch.Tensor:
        """Return minus the sum of log-probability times advantage (and the critic's linear part), tensor [B].

        policy: TablePolicy or a wrapper that is called like it (Any: a gradient hook may stand around it). Sums over
        an episode's steps; nothing is divided by a number that depends on data.
        """
        steps = torch.from_numpy(batch.steps)
        observations, allowed = observed(batch)
        log_probabilities, residual, visits = policy(observations, allowed)
        actions = torch.from_numpy(np.where(batch.steps, batch.actions, 0))
        taken = log_probabilities.gather(-1, actions[..., None])[..., 0]
        gain = taken * torch.from_numpy(targets["advantages"]).to(taken.dtype)
        gain = gain + self.critic_gain(policy, observations, residual, visits, targets)
        losses: torch.Tensor = -(gain * steps).sum(dim=1)
        return losses

    def critic_gain(
        self,
        policy: Any,
        observations: torch.Tensor,
        residual: torch.Tensor | None,
        visits: torch.Tensor | None,
        targets: Mapping[str, Any],
    ) -> torch.Tensor:
        """Return what the critic adds to the gain of each step, [B,T], or 0; residual, visits: of the policy's call."""
        if residual is not None:
            seen = residual * torch.from_numpy(targets["residuals"]).to(residual.dtype)
            return seen if visits is None else seen + VISIT_WEIGHT * visits
        if self.critic != NETWORK_CRITIC:
            return torch.zeros(())
        values = policy.value_of(observations)
        error = values - torch.from_numpy(targets["outcomes"]).to(values.dtype)
        found: torch.Tensor = -0.5 * self.value_weight * error**2
        return found

    @torch.no_grad()
    def _values(
        self, policy: Any, public: Mapping[str, Any], batch: Trajectories
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return V of the observations [B,T], anything where no step exists, and of the final ones [B]."""
        if self.critic == NETWORK_CRITIC:
            found = policy.value_of(observed_with_final(batch)).double().numpy()
            return found[:, :-1], found[np.arange(batch.count), batch.lengths]
        critic = public[CRITIC]
        if isinstance(critic, LinearCritic):
            found = critic.values(policy.mapped_along(observed_with_final(batch), critic.weights))
            return found[:, :-1], found[np.arange(batch.count), batch.lengths]
        values: NDArray[np.float64] = critic
        if batch.observations.ndim == 3:  # vectors have no row: one value for all of them
            return np.full(batch.steps.shape, values[0]), np.full(batch.count, values[0])
        return values[np.where(batch.steps, batch.observations, 0)], values[batch.final_observations]
