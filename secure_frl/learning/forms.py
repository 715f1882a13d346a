"""What a study's policy is: its parameters as one vector, what of it is sent, and how it acts. No torch.

Every party derives the form from the signed study. The vector holds exactly the coordinates of the policy's block of
the message; what cannot change stays at its public first value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.acting import Acting, LogitsActing, TableActing
from secure_frl.learning.layout import (
    LOGITS,
    POLICY_BLOCK,
    Layout,
    met_rows,
    network_layout,
    table_layout,
    value_layout,
)
from secure_frl.learning.networks import (
    EMBEDDING,
    HEAD,
    HEAD_GAIN,
    RANDOM_FEATURES,
    VALUE,
    Arrays,
    Network,
    first_parameters,
    logits_of,
    value_network,
)
from secure_frl.learning.settings import Setting, setting_of
from secure_frl.learning.tabular import Choice
from secure_frl.study import Study

TABLE = "table"
NETWORK_CRITIC = "network"


class PolicyForm:
    """A policy without its parameters. Every array that is handed out is new or read-only."""

    def __init__(
        self,
        kind: str,
        hidden: tuple[int, ...],
        admissible: NDArray[np.bool_] | None,
        live_states: int,
        critic: str,
        *,
        features: int = 0,
        actions: int = 0,
        masks_come: bool = False,
        acts_greedily: bool = False,
        sums_values: bool = False,
        critic_start: float = 0.0,
        seed: int = 0,
        auxiliary: tuple[str, ...] = (),
        keeps_head: bool = False,
        bandwidth: float = 1.0,
    ) -> None:
        """kind: table, mlp, gru, lstm or random_features. admissible: bool [states, actions], the public table,
        terminal states last.

        features, actions: in place of admissible = None and live_states = 0, where observations are vectors.
        masks_come: whether the environment says with each observation what is allowed; so it is with features.
        hidden: see `networks.Network`; not used by a table. critic: private, network or none. critic_start: the first
        value of every state in a value network, and of every action if logits are such values (acts_greedily). seed:
        of the first parameters, public. auxiliary: names of the figures that travel with the update. keeps_head:
        whether the last layer is private: it is not sent, so it stays at its first value while the others are trained.
        bandwidth: of random_features, whose private critic is linear in the same map. sums_values: whether a table is
        made by fitted value iteration, whose message is no gradient.
        Raises InvalidParameter for a table over features or random features over states, a private critic of other
        networks over features, and a table's value network.
        """
        if (admissible is None) != (features > 0) or (features > 0 and (kind == TABLE or actions < 1)):
            raise InvalidParameter(
                f"expected a table of states, or features with a network, got {kind!r} with {features} features. "
                "Set policy.kind = mlp, gru or lstm for features."
            )
        if kind == TABLE and critic == NETWORK_CRITIC:
            raise InvalidParameter("expected a network policy beside a value network, got a table. Set policy.kind.")
        self.kind = kind
        self.hidden = hidden
        self.critic = critic
        self.admissible = admissible
        self.live_states = live_states
        self.features = features
        self.masks_come = masks_come or features > 0
        self.acts_greedily = acts_greedily
        self.states = 0 if admissible is None else int(admissible.shape[0])
        self.actions = actions if admissible is None else int(admissible.shape[1])
        self.network: Network | None = None
        self.value_network: Network | None = None
        if kind == TABLE and admissible is not None:
            live = admissible[:live_states]
            self.layout: Layout = (
                value_layout(live) if sums_values else table_layout(live, critic, auxiliary, are_values=acts_greedily)
            )
            self._first = {LOGITS: np.full(admissible.shape, critic_start if acts_greedily else 0.0)}
            return
        self.network = Network(
            kind, hidden, features or self.states, self.actions, embeds=not features, bandwidth=bandwidth
        )
        shapes = _trained(self.network)
        self._first = first_parameters(self.network, seed)
        if acts_greedily:
            self._first[f"{HEAD}.bias"] += critic_start
        is_met = {}
        if admissible is not None:
            live = admissible[:live_states]
            is_met = {
                f"{EMBEDDING}.weight": met_rows(live, self.network.is_recurrent or acts_greedily),
                f"{VALUE}{EMBEDDING}.weight": met_rows(live, True),
            }
        if critic == NETWORK_CRITIC:
            self.value_network = value_network(self.network)
            shapes |= {VALUE + name: shape for name, shape in _trained(self.value_network).items()}
            self._first |= first_parameters(self.value_network, seed, VALUE)
            self._first[f"{VALUE}{HEAD}.bias"] += critic_start
        if keeps_head:
            for name in [name for name in shapes if name.startswith(f"{HEAD}.")]:
                del shapes[name]
            self._first[f"{HEAD}.weight"] /= HEAD_GAIN  # one that never grows lets gradients through from the first
        weights = self.network.width_entering if self.network.is_mapped else 0
        self.layout = network_layout(shapes, is_met, live_states, critic, auxiliary, critic_weights=weights)

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
        """Return how the policy acts in every state, float64 [states, actions].

        sharpen: > 0, multiplies the logits. Raises InvalidParameter for a policy with a memory, or of features.
        """
        if self.admissible is None:
            raise InvalidParameter("features number no states. Ask for the probabilities at observations.")
        return self.probabilities_at(parameters, np.arange(self.states), self.admissible, sharpen)

    def probabilities_at(
        self,
        parameters: NDArray[np.float64],
        observations: NDArray[Any],
        allowed: NDArray[np.bool_],
        sharpen: float = 1.0,
    ) -> NDArray[np.float64]:
        """Return how the policy acts at observations, float64 [n, actions]; see `probabilities`.

        observations: int64 [n] or float32 [n, features]. allowed: bool [n, actions].
        """
        choice = Choice(sharpen, self.acts_greedily)
        return self.probabilities_of(self.arrays(parameters), observations, allowed, choice)

    def probabilities_of(
        self, arrays: Arrays, observations: NDArray[Any], allowed: NDArray[np.bool_], choice: Choice
    ) -> NDArray[np.float64]:
        """Return how parameters by name act, a site's own among them; see `probabilities_at`."""
        if self.has_memory:
            raise InvalidParameter(f"a policy of kind {self.kind} is no table of probabilities. Roll it out instead.")
        if self.network is None:
            return choice.probabilities(arrays[LOGITS][observations], allowed)
        logits, _ = logits_of(self.network, arrays, observations, np.zeros((len(observations), 0)))
        return choice.probabilities(logits, allowed)

    def acting(self, parameters: NDArray[np.float64], sharpen: float = 1.0, exploration: float = 0.0) -> Acting:
        """Return the policy ready to be rolled out.

        exploration: in [0, 1], the part of steps that a policy of values of actions takes at random; others draw
        their actions anyway, and it changes nothing for them.
        """
        arrays = self.arrays(parameters)
        choice = Choice(sharpen, self.acts_greedily, exploration if self.acts_greedily else 0.0)
        return acting_of(self.network, arrays, self.admissible, choice, masks_come=self.masks_come)


def _trained(network: Network) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in network.shapes.items() if name not in network.fixed}


def acting_of(
    network: Network | None,
    arrays: Arrays,
    admissible: NDArray[np.bool_] | None,
    choice: Choice,
    *,
    masks_come: bool,
) -> Acting:
    """Return how named parameters act; network: None for a table. What never changes is computed here, once."""
    if masks_come or admissible is None or (network is not None and network.is_recurrent):
        return LogitsActing(network, arrays, None if masks_come else admissible, choice)
    if network is None:
        return TableActing(choice.probabilities(arrays[LOGITS], admissible))
    states = np.arange(admissible.shape[0])
    logits, _ = logits_of(network, arrays, states, np.zeros((states.size, 0)))
    return TableActing(choice.probabilities(logits, admissible))


def policy_form(study: Study) -> PolicyForm:
    """Return the form of a study's policy. Raises StudyRefused for an environment that no policy here can use."""
    return form_in(setting_of(study), study)


def form_in(setting: Setting, study: Study) -> PolicyForm:
    """Return the form of a study's policy in a setting."""
    policy, states = study.policy, setting.states
    admissible = setting.admissible
    if admissible is None and states is not None:
        admissible = np.ones((states, setting.actions), dtype=np.bool_)
    return PolicyForm(
        policy.kind,
        (policy.random_features.width,) if policy.kind == RANDOM_FEATURES else tuple(policy.hidden),
        admissible,
        setting.live_states,
        policy.critic,
        features=setting.features or 0,
        actions=setting.actions,
        masks_come=setting.admissible is None,
        acts_greedily=study.acts_greedily,
        sums_values=study.sums_values,
        critic_start=study.policy.critic_start,
        seed=study.study.seed,
        auxiliary=tuple(study.auxiliary),
        keeps_head=study.training.personalise == "private_head",
        bandwidth=policy.random_features.bandwidth,
    )
