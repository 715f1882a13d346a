"""Policies with gradients: a table of logits, or a network over embedded states.

They are built from `nn.Embedding`, `nn.Linear` and Opacus' recurrent layers only, so that per-unit gradients come out
of hooks, and they have no buffer that learns. States are int64 ids through an embedding, never one-hot matrices. How
a policy acts is computed without torch, in `forms`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.layers import DPGRU, DPLSTM
from torch import nn

from secure_frl.errors import InvalidParameter
from secure_frl.learning.forms import PolicyForm
from secure_frl.learning.networks import GRU, Network

MASKED_LOGIT = -1e30  # finite: infinity would make NaN out of 0 times infinity in the backward pass


class Policy(nn.Module):
    """Logits of a state, and two tables that carry the critic's statistics.

    `residual` and `visits` are zero for ever: losses are linear in them, so their gradient is a trajectory's residual
    sum and visit count a state. The critic's values are public state and no parameter.
    """

    admissible: torch.Tensor  # bool [states, actions]; a constant buffer, outside the state dictionary

    def _add_critic(self, admissible: NDArray[np.bool_], critic: str, dtype: torch.dtype) -> None:
        """Take the public mask and, for a private critic, its tables; the last act of a policy's constructor."""
        states = admissible.shape[0]
        self.residual: nn.Embedding | None = None
        self.visits: nn.Embedding | None = None
        if critic == "private":
            self.residual = nn.Embedding(states, 1, dtype=dtype)
            self.visits = nn.Embedding(states, 1, dtype=dtype)
            nn.init.zeros_(self.residual.weight)
            nn.init.zeros_(self.visits.weight)
        elif critic != "none":
            raise InvalidParameter(f"critic must be private or none, not {critic!r}. Correct policy.critic.")
        self.register_buffer("admissible", torch.from_numpy(admissible.copy()), persistent=False)

    def logits_of(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits [B,T,A] of states int64 [B,T], inadmissible actions included."""
        raise NotImplementedError

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return log-probabilities [B,T,A], and [B,T] of each critic table (None without one). states: int64 [B,T]."""
        logits = self.logits_of(states).masked_fill(~self.admissible[states], MASKED_LOGIT)
        log_probabilities = torch.log_softmax(logits, dim=-1)
        if self.residual is None or self.visits is None:
            return log_probabilities, None, None
        return log_probabilities, self.residual(states)[..., 0], self.visits(states)[..., 0]

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
        nn.init.zeros_(self.logits.weight)
        self._add_critic(admissible, critic, dtype)

    def logits_of(self, states: torch.Tensor) -> torch.Tensor:
        """Return the rows of the states."""
        rows: torch.Tensor = self.logits(states)
        return rows


class NetworkPolicy(Policy):
    """An embedding, linear layers with tanh, for gru and lstm a recurrent layer over the episode, and a linear head.

    Opacus' DPGRU and DPLSTM stand in for nn.GRU and nn.LSTM, whose fused kernels give no gradient of one unit.
    """

    def __init__(
        self, network: Network, admissible: NDArray[np.bool_], critic: str, dtype: torch.dtype = torch.float64
    ) -> None:
        """See TablePolicy. The parameters are torch's until `load`."""
        super().__init__()
        hidden, width = network.hidden, network.hidden[0]
        self.embedding = nn.Embedding(network.states, width, dtype=dtype)
        self.layers = nn.ModuleList()
        for following in network.linear_widths:
            self.layers.append(nn.Linear(width, following, dtype=dtype))
            width = following
        self.recurrent: nn.Module | None = None
        if network.is_recurrent:
            cell = DPGRU if network.kind == GRU else DPLSTM
            self.recurrent = cell(width, hidden[-1], batch_first=True).to(dtype)
        self.head = nn.Linear(hidden[-1], network.actions, dtype=dtype)
        self._add_critic(admissible, critic, dtype)

    def logits_of(self, states: torch.Tensor) -> torch.Tensor:
        """Return the head's output; the steps of a row are one episode, from its first step."""
        values = torch.tanh(self.embedding(states))
        for layer in self.layers:
            values = torch.tanh(layer(values))
        if self.recurrent is not None:
            values, _ = self.recurrent(values)
        logits: torch.Tensor = self.head(values)
        return logits


def build_policy(form: PolicyForm) -> Policy:
    """Return the torch policy of a form; `load` gives it its parameters."""
    if form.network is None:
        return TablePolicy(form.admissible, form.critic)
    return NetworkPolicy(form.network, form.admissible, form.critic)
