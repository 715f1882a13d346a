"""Policies with gradients: a table of logits, or a network over embedded states or features.

They are built from `nn.Embedding`, `nn.Linear` and Opacus' recurrent layers only, so that per-unit gradients come out
of hooks, and they have no buffer that learns. States are int64 ids through an embedding, never one-hot matrices. How
a policy acts is computed without torch, in `forms`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.layers import DPGRU, DPLSTM
from torch import nn

from secure_frl.errors import InvalidParameter
from secure_frl.learning.forms import NETWORK_CRITIC, PolicyForm
from secure_frl.learning.networks import GRU, MASKED_LOGIT, Network
from secure_frl.learning.trajectories import Trajectories


def observed(batch: Trajectories) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return what a policy is called with: observations, 0 where no step exists, and the trajectories' own masks.

    Int64 [B,T] or float32 [B,T,D], and bool [B,T,A]; None where the policy's public table says it, or all is allowed.
    """
    exists = batch.steps.reshape(batch.steps.shape + (1,) * (batch.observations.ndim - 2))
    seen = np.where(exists, batch.observations, np.zeros((), batch.observations.dtype))
    return torch.from_numpy(seen), None if batch.allowed is None else torch.from_numpy(batch.allowed)


def observed_with_final(batch: Trajectories) -> torch.Tensor:
    """Return observations with the final one right behind each trajectory's last step, [B,T+1] or [B,T+1,D].

    0 elsewhere. A policy with a memory values the final observation only after the steps before it.
    """
    seen = observed(batch)[0]
    seen = torch.cat([seen, torch.zeros_like(seen[:, :1])], dim=1)
    seen[torch.arange(batch.count), torch.from_numpy(batch.lengths)] = torch.from_numpy(batch.final_observations)
    return seen


class Layers(nn.Module):
    """The layers of a network: an embedding (of states), linear ones with tanh, perhaps a recurrent one, a head.

    Opacus' DPGRU and DPLSTM stand in for nn.GRU and nn.LSTM, whose fused kernels give no gradient of one unit.
    """

    def __init__(self, network: Network, dtype: torch.dtype = torch.float64) -> None:
        """Make the layers; the parameters are torch's until they are loaded."""
        super().__init__()
        width = network.width_entering
        self.embedding = nn.Embedding(network.inputs, width, dtype=dtype) if network.embeds else None
        self.map = nn.Linear(network.inputs, width // 2, bias=False, dtype=dtype) if network.is_mapped else None
        self.layers = nn.ModuleList()
        for following in network.linear_widths:
            self.layers.append(nn.Linear(width, following, dtype=dtype))
            width = following
        self.recurrent: nn.Module | None = None
        if network.is_recurrent:
            cell = DPGRU if network.kind == GRU else DPLSTM
            self.recurrent = cell(width, network.hidden[-1], batch_first=True).to(dtype)
            width = network.hidden[-1]
        self.head = nn.Linear(width, network.outputs, dtype=dtype)
        for name in network.fixed:
            self.get_parameter(name).requires_grad_(False)

    def entering(self, observations: torch.Tensor) -> torch.Tensor:
        """Return what enters the first linear layer, [B,T,D]."""
        if self.embedding is not None:
            return torch.tanh(self.embedding(observations))
        values = observations.to(self.head.weight.dtype)
        if self.map is None:
            return values
        with torch.no_grad():  # the map is fixed
            angles, half = self.map(values).float(), self.map.out_features
            found = torch.empty(*angles.shape[:-1], 2 * half, dtype=values.dtype)
            found[..., :half], found[..., half:] = torch.cos(angles), torch.sin(angles)
            return found.mul_(1.0 / math.sqrt(half))

    @torch.no_grad()
    def mapped_along(self, observations: torch.Tensor, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the map's features times weights, float64 [B,T], without making the features.

        weights: float64 [width]. Raises InvalidParameter for a network without a map.
        """
        if self.map is None:
            raise InvalidParameter("expected random features under a linear critic, got others. Set policy.kind.")
        angles, half = self.map(observations.to(self.head.weight.dtype)).float(), self.map.out_features
        along = torch.from_numpy(weights / math.sqrt(half)).float()
        found: NDArray[np.float64] = (
            (torch.cos(angles) @ along[:half] + torch.sin(angles) @ along[half:]).double().numpy()
        )
        return found

    def outputs_of(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the head's output [B,T,outputs]; the steps of a row are one episode, from its first step."""
        values = self.entering(observations)
        for layer in self.layers:
            values = torch.tanh(layer(values))
        if self.recurrent is not None:
            values, _ = self.recurrent(values)
        outputs: torch.Tensor = self.head(values)
        return outputs


class ValueNetwork(Layers):
    """What an observation is worth, as parameters beside the policy's, in its block."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return values [B,T]. observations: int64 [B,T] or float32 [B,T,D]."""
        return self.outputs_of(observations)[..., 0]


class Policy(nn.Module):
    """Logits at observations, and what a critic needs.

    With a private critic, `residual` and `visits` are zero for ever: losses are linear in them, so their gradient is a
    trajectory's residual sum and visit count a state; over random features, its sum of residual times feature alone.
    The critic's values are then public state and no parameter.
    With a value network they are parameters, and clipped together with the policy's.
    """

    admissible: torch.Tensor | None  # bool [states, actions]; a constant buffer, outside the state dictionary
    value: ValueNetwork | None

    def _add_critic(self, admissible: NDArray[np.bool_] | None, critic: str, dtype: torch.dtype) -> None:
        """Take the public mask and, for a private critic, its tables; the last act of a policy's constructor."""
        self.residual: nn.Embedding | nn.Linear | None = None
        self.visits: nn.Embedding | None = None
        if critic == "private" and admissible is not None:
            states = admissible.shape[0]
            self.residual = nn.Embedding(states, 1, dtype=dtype)
            self.visits = nn.Embedding(states, 1, dtype=dtype)
            nn.init.zeros_(self.residual.weight)
            nn.init.zeros_(self.visits.weight)
        elif critic not in ("none", NETWORK_CRITIC):
            raise InvalidParameter(f"critic must be private, network or none, not {critic!r}. Correct policy.critic.")
        table = None if admissible is None else torch.from_numpy(admissible.copy())
        self.register_buffer("admissible", table, persistent=False)

    def logits_of(self, observations: torch.Tensor) -> torch.Tensor:
        """Return logits [B,T,A], those of actions that are not allowed included; values of actions to some objectives.

        observations: int64 [B,T] or float32 [B,T,D]; the steps of a row are one episode, from its first step.
        """
        raise NotImplementedError

    def value_of(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the value network's values [B,T] at observations; see `logits_of`.

        Raises InvalidParameter without a value network.
        """
        if self.value is None:
            raise InvalidParameter("expected a value network, got a policy without one. Set policy.critic = network.")
        values: torch.Tensor = self.value(observations)
        return values

    def allowed_at(self, observations: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor | None:
        """Return what is allowed, bool [B,T,A]: `allowed` if it came, else as the public table says; None: everything.

        The table is asked only of observations that are numbers of states.
        """
        if allowed is not None or self.admissible is None:
            return allowed
        return self.admissible[observations]

    def forward(
        self, observations: torch.Tensor, allowed: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return log-probabilities [B,T,A], and [B,T] of each critic table (None without one).

        observations, allowed: as `observed` gives them. Where nothing is allowed, as in padding, all is alike.
        """
        log_probabilities = self.log_probabilities_of(self.logits_of(observations), observations, allowed)
        if self.residual is None or self.visits is None:
            return log_probabilities, None, None
        return log_probabilities, self.residual(observations)[..., 0], self.visits(observations)[..., 0]

    def log_probabilities_of(
        self, logits: torch.Tensor, observations: torch.Tensor, allowed: torch.Tensor | None
    ) -> torch.Tensor:
        """Return log-probabilities [B,T,A] of logits [B,T,A]; see `forward`."""
        mask = self.allowed_at(observations, allowed)
        if mask is not None:
            logits = logits.masked_fill(~mask, MASKED_LOGIT)
        return torch.log_softmax(logits, dim=-1)

    @torch.no_grad()
    def load(self, arrays: Mapping[str, NDArray[np.float64]]) -> None:
        """Take parameters by name, in their own shapes, as `PolicyForm.arrays` gives them."""
        mine = dict(self.named_parameters())
        for name, array in arrays.items():
            mine[name].copy_(torch.from_numpy(array))


class TablePolicy(Policy):
    """One row of logits a state; uniform at first."""

    def __init__(self, admissible: NDArray[np.bool_], critic: str, dtype: torch.dtype = torch.float64) -> None:
        """admissible: bool [states, actions], terminal states at the end or absent. critic: "private" or "none"."""
        super().__init__()
        self.logits = nn.Embedding(admissible.shape[0], admissible.shape[1], dtype=dtype)
        self.value = None
        nn.init.zeros_(self.logits.weight)
        self._add_critic(admissible, critic, dtype)

    def logits_of(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the rows of the states."""
        rows: torch.Tensor = self.logits(observations)
        return rows


class NetworkPolicy(Layers, Policy):
    """A network of one logit an action, with a value network beside it if the critic is one."""

    def __init__(
        self,
        network: Network,
        admissible: NDArray[np.bool_] | None,
        critic: str,
        value: Network | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """See TablePolicy. admissible: None over features."""
        super().__init__(network, dtype)
        self.value = None if value is None else ValueNetwork(value, dtype)
        is_linear = network.is_mapped and critic == "private"
        self._add_critic(admissible, "none" if is_linear else critic, dtype)
        if is_linear:
            self.residual = nn.Linear(network.width_entering, 1, bias=False, dtype=dtype)
            nn.init.zeros_(self.residual.weight)

    def logits_of(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the head's output."""
        return self.outputs_of(observations)

    def forward(
        self, observations: torch.Tensor, allowed: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """See Policy. A private critic over random features has no visits."""
        if self.residual is None or self.visits is not None:
            return super().forward(observations, allowed)
        entered = self.entering(observations)
        log_probabilities = self.log_probabilities_of(self.head(entered), observations, allowed)
        return log_probabilities, self.residual(entered)[..., 0], None


def build_policy(form: PolicyForm) -> Policy:
    """Return the torch policy of a form; `load` gives it its parameters."""
    if form.network is None:
        if form.admissible is None:
            raise InvalidParameter("expected a table of states, got features. Set policy.kind to a network.")
        return TablePolicy(form.admissible, form.critic)
    return NetworkPolicy(form.network, form.admissible, form.critic, form.value_network)
