"""Policies that act: from observations and uniform numbers to actions, many episodes side by side. No torch."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.networks import Arrays, Network, logits_of
from secure_frl.learning.tabular import action_probabilities

_TINY = np.finfo(np.float64).tiny


class Acting(Protocol):
    """How a policy behaves in one roll-out of `count` episodes. What an episode does depends on its own past only."""

    @property
    def action_count(self) -> int:
        """Return the number of actions."""
        ...

    def begin(self, count: int) -> None:
        """Start `count` episodes."""
        ...

    def act(
        self, episodes: NDArray[np.int64], states: NDArray[np.int64], uniform: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return actions and their log-probabilities, one step on in each of the named episodes.

        episodes: int64 [n], positions below `count`. states: int64 [n]. uniform: float64 [n] in [0, 1).
        """
        ...


class TableActing:
    """A policy without memory: one row of probabilities a state."""

    def __init__(self, probabilities: NDArray[np.float64]) -> None:
        """probabilities: float64 [states, actions], rows sum to 1. Raises InvalidParameter for another shape."""
        if probabilities.ndim != 2:
            raise InvalidParameter(
                f"probabilities must be [states, actions], not {list(probabilities.shape)}. Pass a table."
            )
        self._cumulative = _cumulative(probabilities)
        self._log_probabilities = np.log(np.maximum(probabilities, _TINY))

    @property
    def action_count(self) -> int:
        """Return the number of actions."""
        return int(self._cumulative.shape[1])

    def begin(self, count: int) -> None:
        """Start episodes; there is nothing to remember."""

    def act(
        self, episodes: NDArray[np.int64], states: NDArray[np.int64], uniform: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return actions and their log-probabilities; see Acting."""
        chosen = (self._cumulative[states] <= uniform[:, None]).sum(axis=1)
        return chosen, self._log_probabilities[states, chosen]


class NetworkActing:
    """A recurrent network: an episode's memory is carried from step to step."""

    def __init__(self, network: Network, arrays: Arrays, admissible: NDArray[np.bool_], sharpen: float = 1.0) -> None:
        """admissible: bool [states, actions]. sharpen: > 0, multiplies the logits."""
        self._network = network
        self._arrays = arrays
        self._admissible = admissible
        self._sharpen = sharpen
        self._memory = np.zeros((0, network.memory_width))

    @property
    def action_count(self) -> int:
        """Return the number of actions."""
        return self._network.actions

    def begin(self, count: int) -> None:
        """Start `count` episodes with an empty memory."""
        self._memory = np.zeros((count, self._network.memory_width))

    def act(
        self, episodes: NDArray[np.int64], states: NDArray[np.int64], uniform: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return actions and their log-probabilities; see Acting."""
        logits, memory = logits_of(self._network, self._arrays, states, self._memory[episodes])
        self._memory[episodes] = memory
        probabilities = action_probabilities(logits, self._admissible[states], self._sharpen)
        chosen = (_cumulative(probabilities) <= uniform[:, None]).sum(axis=1)
        return chosen, np.log(np.maximum(probabilities[np.arange(states.size), chosen], _TINY))


def _cumulative(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return cumulative probabilities [n, actions], 2 from the last action that has any.

    A sum of .9999999 must leave no gap behind that action; one without probability is never chosen.
    """
    cumulative = np.cumsum(probabilities, axis=1)
    actions = probabilities.shape[1]
    last = actions - 1 - np.argmax(probabilities[:, ::-1] > 0, axis=1)
    cumulative[np.arange(actions)[None, :] >= last[:, None]] = 2.0
    return cumulative
