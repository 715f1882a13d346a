"""Policies that act: from observations and uniform numbers to actions, many episodes side by side. No torch."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import LOGITS
from secure_frl.learning.networks import Arrays, Network, logits_of
from secure_frl.learning.tabular import Choice

_TINY = np.finfo(np.float64).tiny


class Acting(Protocol):
    """How a policy behaves in one roll-out of `count` episodes. What an episode does depends on its own past only."""

    @property
    def action_count(self) -> int:
        """Return the number of actions."""
        ...

    @property
    def needs_masks(self) -> bool:
        """Return whether `act` must be told what is allowed; False for a public table of admissible actions."""
        ...

    def begin(self, count: int) -> None:
        """Start `count` episodes."""
        ...

    def act(
        self,
        episodes: NDArray[np.int64],
        observations: NDArray[Any],
        uniform: NDArray[np.float64],
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return actions and their log-probabilities, one step on in each of the named episodes.

        episodes: int64 [n], positions below `count`. observations: int64 [n] or float32 [n, D]. uniform: float64 [n]
        in [0, 1). allowed: bool [n, actions] where `needs_masks`; None: every action.
        """
        ...


class TableActing:
    """A policy without memory: one row of probabilities a state, with the public table of masks in it."""

    needs_masks = False

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
        self,
        episodes: NDArray[np.int64],
        observations: NDArray[Any],
        uniform: NDArray[np.float64],
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return actions and their log-probabilities; see Acting."""
        chosen = (self._cumulative[observations] <= uniform[:, None]).sum(axis=1)
        return chosen, self._log_probabilities[observations, chosen]


class LogitsActing:
    """A policy whose logits are computed as it goes: over features, with a memory, or under masks that come along."""

    def __init__(
        self,
        network: Network | None,
        arrays: Arrays,
        admissible: NDArray[np.bool_] | None,
        choice: Choice,
    ) -> None:
        """network: None for a table of logits. admissible: bool [states, actions]; None: masks come along."""
        self._network = network
        self._arrays = arrays
        self._admissible = admissible
        self._choice = choice
        self._memory = np.zeros((0, 0))

    @property
    def action_count(self) -> int:
        """Return the number of actions."""
        return int(self._arrays[LOGITS].shape[1]) if self._network is None else self._network.outputs

    @property
    def needs_masks(self) -> bool:
        """Return whether masks come along."""
        return self._admissible is None

    def begin(self, count: int) -> None:
        """Start `count` episodes with an empty memory."""
        self._memory = np.zeros((count, 0 if self._network is None else self._network.memory_width))

    def act(
        self,
        episodes: NDArray[np.int64],
        observations: NDArray[Any],
        uniform: NDArray[np.float64],
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return actions and their log-probabilities; see Acting."""
        if self._network is None:
            logits = self._arrays[LOGITS][observations]
        else:
            logits, memory = logits_of(self._network, self._arrays, observations, self._memory[episodes])
            self._memory[episodes] = memory
        if self._admissible is not None:
            allowed = self._admissible[observations]
        elif allowed is None:
            allowed = np.ones(logits.shape, dtype=np.bool_)
        return _drawn(self._choice.probabilities(logits, allowed), uniform)


class UniformActing:
    """Every allowed action equally often, whatever is observed; for made-up people."""

    needs_masks = True

    def __init__(self, action_count: int) -> None:
        """action_count: at least 1."""
        self._action_count = action_count

    @property
    def action_count(self) -> int:
        """Return the number of actions."""
        return self._action_count

    def begin(self, count: int) -> None:
        """Start episodes; there is nothing to remember."""

    def act(
        self,
        episodes: NDArray[np.int64],
        observations: NDArray[Any],
        uniform: NDArray[np.float64],
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return actions and their log-probabilities; see Acting."""
        shape = (uniform.size, self._action_count)
        everything = np.ones(shape, dtype=np.bool_)
        return _drawn(Choice().probabilities(np.zeros(shape), everything if allowed is None else allowed), uniform)


def _drawn(
    probabilities: NDArray[np.float64], uniform: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    chosen = (_cumulative(probabilities) <= uniform[:, None]).sum(axis=1)
    return chosen, np.log(np.maximum(probabilities[np.arange(chosen.size), chosen], _TINY))


def _cumulative(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return cumulative probabilities [n, actions], 2 from the last action that has any.

    A sum of .9999999 must leave no gap behind that action; one without probability is never chosen.
    """
    cumulative = np.cumsum(probabilities, axis=1)
    actions = probabilities.shape[1]
    last = actions - 1 - np.argmax(probabilities[:, ::-1] > 0, axis=1)
    cumulative[np.arange(actions)[None, :] >= last[:, None]] = 2.0
    return cumulative
