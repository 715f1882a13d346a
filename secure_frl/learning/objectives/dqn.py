"""Double Q-learning over whole trajectories: one sum of temporal differences a trajectory.

A policy's logits are its Q values. The target network is the policy that was broadcast, also while a site moves its own
copy by several steps: it is public, so no other trajectory comes in through it.

Sources: Mnih et al. 2015, Human-level control through deep reinforcement learning (target network, clipped error);
van Hasselt et al. 2016, Deep Reinforcement Learning with Double Q-learning, equation 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.trajectories import Trajectories

TARGET = "target"  # key of the target network: a plain policy that holds the broadcast parameters
MASKED_VALUE = -1e30  # of an action that is not allowed: finite, for infinity makes NaN out of 0 times infinity


@dataclass(frozen=True, slots=True)
class DoubleQ:
    """An Objective for policies whose logits are Q values.

    discount: gamma in (0, 1]. error: "huber", linear beyond 1, or "squared". max_steps: the study's longest trajectory,
    a public constant that divides every loss.
    """

    discount: float
    error: str
    max_steps: int

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1 or self.max_steps < 1 or self.error not in ("huber", "squared"):
            raise InvalidParameter(
                "discount must be in (0, 1], max_steps at least 1 and error huber or squared, not "
                f"{self.discount}, {self.max_steps} and {self.error!r}. Correct training.discount and td_error."
            )

    @torch.no_grad()
    def targets(self, policy: Any, public: Mapping[str, Any], batch: Trajectories) -> Mapping[str, Any]:
        """Return what Q of the actions taken should be, and which steps count; float64 and bool [B,T].

        policy chooses the following action and public["target"] values it: double Q-learning. gamma times the value of
        the final observation is added when a trajectory was cut, never when it terminated. Where the actions allowed
        in that observation are not known, the step before it does not count.
        Any: torch modules; policy may have gradient hooks, public["target"] is a plain one.
        """
        seen = _with_final(batch)
        observations = torch.from_numpy(seen)
        online = policy.logits_of(observations)
        allowed = _allowed(policy, batch, seen)
        held = online if allowed is None else online.masked_fill(~allowed, MASKED_VALUE)
        following = held.argmax(dim=-1, keepdim=True)
        values = public[TARGET].logits_of(observations).gather(-1, following)[..., 0].double().numpy()
        is_last = np.arange(batch.steps.shape[1]) == batch.lengths[:, None] - 1
        after = np.where(is_last & batch.terminated[:, None], 0.0, values[:, 1:])
        # Masks of single steps say nothing of the observation behind the last one.
        is_unknown = is_last & ~batch.terminated[:, None] & (batch.allowed is not None)
        counted = batch.steps & ~is_unknown
        rewards = np.where(counted, batch.rewards, 0.0).astype(np.float64)
        return {"aims": np.where(counted, rewards + self.discount * after, 0.0), "counted": counted}

    def losses(self, policy: Any, batch: Trajectories, targets: Mapping[str, Any]) -> torch.Tensor:
        """Return the sum of a trajectory's errors over max_steps, tensor [B].

        policy: its logits are Q values (Any: a gradient hook may stand around it).
        """
        return self.errors(values_of(policy, batch), batch, targets)

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


def values_of(policy: Any, batch: Trajectories) -> torch.Tensor:
    """Return Q of every action at every step, [B,T,A]; of the first observation where no step exists."""
    values: torch.Tensor = policy.logits_of(torch.from_numpy(_where(batch.steps, batch.observations)))
    return values


def taken_of(values: torch.Tensor, batch: Trajectories) -> torch.Tensor:
    """Return Q of the actions taken, [B,T], out of [B,T,A]."""
    return values.gather(-1, torch.from_numpy(np.where(batch.steps, batch.actions, 0))[..., None])[..., 0]


def allowed_of(policy: Any, batch: Trajectories) -> torch.Tensor | None:
    """Return which actions each step allows, bool [B,T,A]: the trajectories' own masks, else the public table's.

    None when every action is. Padding allows all.
    """
    return _allowed(policy, batch, _where(batch.steps, batch.observations))


def _allowed(policy: Any, batch: Trajectories, observations: NDArray[Any]) -> torch.Tensor | None:
    if batch.allowed is not None:
        missing = observations.shape[1] - batch.allowed.shape[1]
        own = np.where(batch.steps[..., None], batch.allowed, True)
        return torch.from_numpy(np.pad(own, [(0, 0), (0, missing), (0, 0)], constant_values=True))
    if policy.admissible is None or observations.ndim == 3:
        return None
    found: torch.Tensor = policy.admissible[torch.from_numpy(observations)]
    return found


def _where(steps: NDArray[np.bool_], observations: NDArray[Any]) -> NDArray[Any]:
    shape = steps.shape + (1,) * (observations.ndim - 2)
    return np.where(steps.reshape(shape), observations, np.zeros((), observations.dtype))


def _with_final(batch: Trajectories) -> NDArray[Any]:
    """Return observations with the final one right behind the last step, [B,T+1] or [B,T+1,D]; padding is 0."""
    observed = _where(batch.steps, batch.observations)
    seen = np.concatenate([observed, np.zeros_like(observed[:, :1])], axis=1)
    seen[np.arange(batch.count), batch.lengths] = batch.final_observations
    return seen
