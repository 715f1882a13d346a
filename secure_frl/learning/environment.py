"""What a source of fresh episodes must offer: many copies of one environment, stepped together.

An environment knows nothing of policies, people or privacy. Its randomness comes from the generator that `reset`
receives, and each copy uses its own draws: what happens in one copy never depends on the length of another.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Environment(Protocol):
    """`count` copies side by side; an adapter can make a `gymnasium.vector.VectorEnv` one."""

    @property
    def count(self) -> int:
        """Return the number of copies."""
        ...

    @property
    def action_count(self) -> int:
        """Return the number of actions; an action is an integer below it."""
        ...

    @property
    def max_steps(self) -> int:
        """Return the step after which an episode that goes on is cut."""
        ...

    def reset(self, generator: np.random.Generator) -> NDArray[Any]:
        """Start `count` episodes and return their first observations: [count] int64 or [count, D] float32."""
        ...

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Act in every copy; return next observations, rewards, ended and cut, each with `count` rows.

        ended: the episode reached its end at this step. cut: it went on, but `max_steps` is reached.
        A copy whose episode is over stays as it is: reward 0, neither ended nor cut, whatever its action.
        """
        ...

    def allowed(self, observations: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Return the mask [count, action_count] of valid actions, or None when all are."""
        ...
