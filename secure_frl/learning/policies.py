"""Networks that act. Today the table: an embedding row a state.

A policy is built from `nn.Embedding` and `nn.Linear` only, so that per-unit gradients come out of hooks; it has no
buffer that learns. States are int64 ids through an embedding, never one-hot matrices.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import LOGITS, Layout, table_layout
from secure_frl.learning.tabular import action_probabilities, spread_logits

MASKED_LOGIT = -1e30  # finite: infinity would make NaN out of 0 times infinity in the backward pass


class TablePolicy(nn.Module):
    """Logits a state, and two tables that carry the critic's statistics.

    `residual` and `visits` are zero for ever: losses are linear in them, so their gradient is a trajectory's residual
    sum and visit count a state. The critic's values are public state and no parameter.
    """

    admissible: torch.Tensor  # bool [states, actions]; a constant buffer, outside the state dictionary

    def __init__(self, admissible: NDArray[np.bool_], critic: str, dtype: torch.dtype = torch.float64) -> None:
        """Build a uniform policy.

        admissible: bool [states, actions], terminal states at the end or absent. critic: "private" or "none".
        """
        super().__init__()
        states, actions = admissible.shape
        self.logits = nn.Embedding(states, actions, dtype=dtype)
        nn.init.zeros_(self.logits.weight)
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

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return log-probabilities [B,T,A], and [B,T] of each critic table (None without one). states: int64 [B,T]."""
        logits = self.logits(states).masked_fill(~self.admissible[states], MASKED_LOGIT)
        log_probabilities = torch.log_softmax(logits, dim=-1)
        if self.residual is None or self.visits is None:
            return log_probabilities, None, None
        return log_probabilities, self.residual(states)[..., 0], self.visits(states)[..., 0]

    @torch.no_grad()
    def load_free(self, free_logits: NDArray[np.float64], layout: Layout) -> None:
        """Take the free logits, float64, in the order of the layout's logits segment."""
        shape = (self.logits.num_embeddings, self.logits.embedding_dim)
        coordinates = next(segment.coordinates for segment in layout.segments if segment.parameter == LOGITS)
        self.logits.weight.copy_(torch.from_numpy(spread_logits(free_logits, coordinates, shape)))

    @torch.no_grad()
    def action_probabilities(self, sharpen: float = 1.0) -> NDArray[np.float64]:
        """Return how the policy acts, float64 [states, actions]."""
        admissible = np.asarray(self.admissible, dtype=np.bool_)
        return action_probabilities(self.logits.weight.numpy().astype(np.float64), admissible, sharpen)


def table_policy(admissible: NDArray[np.bool_], live_states: int, critic: str) -> tuple[TablePolicy, Layout]:
    """Return a table policy over all states with the layout of its message over the live ones."""
    return TablePolicy(admissible, critic), table_layout(admissible[:live_states], critic)
