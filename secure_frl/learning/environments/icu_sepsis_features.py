"""ICU-Sepsis as a clinician sees it: 47 clinical features in place of the number of a state.

The dynamics are those of `icu_sepsis`. A feature is the published centre of the state's cluster, standardised by
constants of the published table: mean and deviation over the 713 live states. No patient's data enters them.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import UnexpectedState
from secure_frl.learning.environments.icu_sepsis import LIVE_STATES, IcuSepsis, admissible_actions, load_tables

FEATURES = 47


@cache
def state_features() -> NDArray[np.float32]:
    """Return the standardised features of every state, float32 [716, 47], read-only; 0 in terminal states."""
    raw = load_tables().features.astype(np.float64)
    live = raw[:LIVE_STATES]
    standard = np.zeros(raw.shape, dtype=np.float32)
    standard[:LIVE_STATES] = (live - live.mean(axis=0)) / live.std(axis=0)
    standard.setflags(write=False)
    return standard


class IcuSepsisFeatures:
    """`count` patients side by side, seen by their features; an Environment. Same draws as `IcuSepsis`."""

    def __init__(self, count: int, max_steps: int = 48, below: IcuSepsis | None = None) -> None:
        """Raise InvalidParameter unless count >= 0 and max_steps >= 1. below: the patients; None: as published."""
        self._below = below or IcuSepsis(count, max_steps)
        self._states: NDArray[np.int64] | None = None

    @property
    def count(self) -> int:
        """Return the number of copies."""
        return self._below.count

    @property
    def action_count(self) -> int:
        """Return 25."""
        return self._below.action_count

    @property
    def max_steps(self) -> int:
        """Return the step after which an episode that goes on is cut."""
        return self._below.max_steps

    def reset(self, generator: np.random.Generator) -> NDArray[np.float32]:
        """Admit `count` patients; returns their features, float32 [count, 47]."""
        self._states = self._below.reset(generator)
        return state_features()[self._states]

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Treat every patient once; see Environment.step. Raises UnexpectedState before the first reset."""
        self._states, reward, ended, cut = self._below.step(actions)
        return state_features()[self._states], reward, ended, cut

    def allowed(self, observations: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return the admissible actions of the patients as they are now, bool [count, 25].

        observations: the last ones. Raises UnexpectedState before the first reset.
        """
        if self._states is None:
            raise UnexpectedState("an environment must be reset before it is asked. Call reset with a generator.")
        return admissible_actions()[self._states]
