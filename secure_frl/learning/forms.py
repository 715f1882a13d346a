"""What a study's policy is: its parameters as one vector, what of it is sent, and how it acts. No torch.

Every party derives the form from the signed study. The vector holds exactly the coordinates of the policy's block of
the message; what cannot change stays at its public first value.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.acting import Acting, NetworkActing, TableActing
from secure_frl.learning.environments.icu_sepsis import LIVE_STATES, admissible_actions
from secure_frl.learning.layout import LOGITS, POLICY_BLOCK, Layout, network_layout, table_layout
from secure_frl.learning.networks import Network, first_parameters, logits_of
from secure_frl.learning.tabular import action_probabilities
from secure_frl.study import Study

TABLE = "table"


class PolicyForm:
    """A policy without its parameters. Every array that is handed out is new or read-only."""

    def __init__(
        self,
        kind: str,
        hidden: tuple[int, ...],
        admissible: NDArray[np.bool_],
        live_states: int,
        critic: str,
        *,
        seed: int = 0,
        auxiliary: tuple[str, ...] = (),
    ) -> None:
        """kind: table, mlp, gru or lstm. admissible: bool [states, actions], the public table, terminal states last.

        hidden: see `networks.Network`; not used by a table. seed: of the first parameters, public.
        auxiliary: names of the figures that travel with the update.
        """
        self.kind = kind
        self.hidden = hidden
        self.critic = critic
        self.admissible = admissible
        self.live_states = live_states
        states, actions = admissible.shape
        live = admissible[:live_states]
        self.network: Network | None = None
        if kind == TABLE:
            self.layout: Layout = table_layout(live, critic, auxiliary)
            self._first = {LOGITS: np.zeros((states, actions))}
        else:
            self.network = Network(kind, hidden, states, actions)
            self.layout = network_layout(self.network.shapes, self.network.is_recurrent, live, critic, auxiliary)
            self._first = first_parameters(self.network, seed)

    @property
    def has_memory(self) -> bool:
        """Return whether how the policy acts depends on the episode so far; it is then no table of probabilities."""
        return self.network is not None and self.network.is_recurrent

    def first_vector(self) -> NDArray[np.float64]:
        """Return the parameters before the first round, in the order of the policy's block."""
        parts = [self._first[s.parameter].ravel()[s.coordinates] for s in self.layout.segments_of(POLICY_BLOCK)]
        return np.concatenate(parts)

    def arrays(self, parameters: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return every parameter of the policy in its own shape: the vector's where it is sent, else the first value.

        parameters: float64, as `first_vector`. Raises InvalidParameter for another length.
        """
        segments = self.layout.segments_of(POLICY_BLOCK)
        size = sum(segment.coordinates.size for segment in segments)
        if parameters.shape != (size,):
            raise InvalidParameter(f"{size} parameters are needed, not {parameters.size}. Use this policy's state.")
        found = {name: array.copy() for name, array in self._first.items()}
        start = 0
        for segment in segments:
            stop = start + segment.coordinates.size
            found[segment.parameter].reshape(-1)[segment.coordinates] = parameters[start:stop]
            start = stop
        return found

    def probabilities(self, parameters: NDArray[np.float64], sharpen: float = 1.0) -> NDArray[np.float64]:
        """Return how the policy acts, float64 [states, actions]. Raises InvalidParameter for one with a memory.

        sharpen: > 0, multiplies the logits.
        """
        if self.has_memory:
            raise InvalidParameter(f"a policy of kind {self.kind} is no table of probabilities. Roll it out instead.")
        arrays = self.arrays(parameters)
        if self.network is None:
            return action_probabilities(arrays[LOGITS], self.admissible, sharpen)
        states = np.arange(self.admissible.shape[0])
        logits, _ = logits_of(self.network, arrays, states, np.zeros((states.size, 0)))
        return action_probabilities(logits, self.admissible, sharpen)

    def acting(self, parameters: NDArray[np.float64], sharpen: float = 1.0) -> Acting:
        """Return the policy ready to be rolled out."""
        if self.network is None or not self.has_memory:
            return TableActing(self.probabilities(parameters, sharpen))
        return NetworkActing(self.network, self.arrays(parameters), self.admissible, sharpen)


def policy_form(study: Study) -> PolicyForm:
    """Return the form of a study's policy."""
    policy = study.policy
    return PolicyForm(
        policy.kind,
        tuple(policy.hidden),
        admissible_actions(),
        LIVE_STATES,
        policy.critic,
        seed=study.study.seed,
        auxiliary=tuple(study.auxiliary),
    )
