"""Double Q-learning over whole trajectories: one sum of temporal differences a trajectory.

A policy's logits are its Q values. The target network is the policy that was broadcast, also while a site moves its own
copy by several steps: it is public, so no other trajectory comes in through it. A target may look several steps ahead
before it trusts that network, which carries values back faster and smooths a network's errors; the actions on the way
are taken as they were, so it holds a little of whoever took them.

Sources: Mnih et al. 2015, Human-level control through deep reinforcement learning (target network, clipped error);
van Hasselt et al. 2016, Deep Reinforcement Learning with Double Q-learning, equation 4; Hessel et al. 2018, Rainbow,
section "Multi-step learning".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from secure_frl.errors import InvalidParameter
from secure_frl.learning.networks import MASKED_LOGIT
from secure_frl.learning.policies import observed, observed_with_final
from secure_frl.learning.trajectories import Trajectories

TARGET = "target"  # key of the target network: a plain policy that holds the broadcast parameters


@dataclass(frozen=True, slots=True)
class DoubleQ:
    """An Objective for policies whose logits are Q values.

    discount: gamma in (0, 1]. error: "huber", linear beyond 1, or "squared". max_steps: the study's longest trajectory,
    a public constant that divides every loss. ahead: n, rewards that a target adds before it bootstraps, at most to
    the trajectory's end.
    """

    discount: float
    error: str
    max_steps: int
    ahead: int = 1

    def __post_init__(self) -> None:
        fine = 0 < self.discount <= 1 and self.max_steps >= 1 and self.ahead >= 1
        if not fine or self.error not in ("huber", "squared"):
            raise InvalidParameter(
                "discount must be in (0, 1], max_steps and steps_ahead at least 1 and error huber or squared, not "
                f"{self.discount}, {self.max_steps}, {self.ahead} and {self.error!r}. Correct [training]."
            )

    @torch.no_grad()
    def targets(self, policy: Any, public: Mapping[str, Any], batch: Trajectories) -> Mapping[str, Any]:
        """Return what Q of the actions taken should be, and which steps count; float64 and bool [B,T].

        policy chooses the following action and public["target"] values it: double Q-learning. gamma times the value of
        the final observation is added when a trajectory was cut, never when it terminated. Where the actions allowed
        in that observation are not known, the step before it does not count, and nothing looks beyond.
        Any: torch modules; policy may have gradient hooks, public["target"] is a plain one.
        """
        observations = observed_with_final(batch)
        online = policy.logits_of(observations)
        allowed = policy.allowed_at(observations, _masks_with_final(batch))
        held = online if allowed is None else online.masked_fill(~allowed, MASKED_LOGIT)
        following = held.argmax(dim=-1, keepdim=True)
        values = public[TARGET].logits_of(observations).gather(-1, following)[..., 0].double().numpy()
        is_last = np.arange(batch.steps.shape[1]) == batch.lengths[:, None] - 1
        after = np.where(is_last & batch.terminated[:, None], 0.0, values[:, 1:])
        # Masks of the steps say nothing of the observation behind the last one.
        hides_final = batch.allowed is not None and batch.final_allowed is None
        is_unknown = is_last & ~batch.terminated[:, None] & hides_final
        counted = batch.steps & ~is_unknown
        rewards = np.where(counted, batch.rewards, 0.0).astype(np.float64)
        aims = one_step = rewards + self.discount * after
        goes_on = np.concatenate([counted[:, 1:], np.zeros_like(counted[:, :1])], axis=1)
        for _ in range(1, self.ahead):
            aims = np.where(goes_on, rewards + self.discount * np.roll(aims, -1, axis=1), one_step)
        return {"aims": np.where(counted, aims, 0.0), "counted": counted}

    def losses(self, policy: Any, batch: Trajectories, targets: Mapping[str, Any]) -> torch.Tensor:
        """Return the sum of a trajectory's errors over max_steps, tensor [B].

        policy: its logits are Q values (Any: a gradient hook may stand around it).
        """
        return self.errors(policy.logits_of(observed(batch)[0]), batch, targets)

    def errors(self, values: torch.Tensor, batch: Trajectories, targets: Mapping[str, Any]) -> torch.Tensor:
        """Return the same of Q values that are known already, [B,T,A]."""
        aims = torch.from_numpy(targets["aims"]).to(values.dtype)
        taken = taken_of(values, batch)
        if self.error == "huber":
            error = torch.nn.functional.smooth_l1_loss(taken, aims, reduction="none")
        else:
            error = 0.5 * (taken - aims) ** 2
        losses: torch.Tensor = (error * torch.from_numpy(targets["counted"])).sum(dim=1) / self.max_steps
        return losses


def taken_of(values: torch.Tensor, batch: Trajectories) -> torch.Tensor:
    """Return Q of the actions taken, [B,T], out of [B,T,A]."""
    return values.gather(-1, torch.from_numpy(np.where(batch.steps, batch.actions, 0))[..., None])[..., 0]


def _masks_with_final(batch: Trajectories) -> torch.Tensor | None:
    """Return the trajectories' own masks, bool [B,T+1,A], as `observed_with_final` orders them; None without any."""
    if batch.allowed is None:
        return None
    masks = np.concatenate([batch.allowed, np.zeros_like(batch.allowed[:, :1])], axis=1)
    if batch.final_allowed is not None:
        masks[np.arange(batch.count), batch.lengths] = batch.final_allowed
    return torch.from_numpy(masks)
