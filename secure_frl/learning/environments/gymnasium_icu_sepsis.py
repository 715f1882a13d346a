"""ICU-Sepsis for the Gymnasium world, under the id `secure_frl/ICU-Sepsis-v0`.

Importing this module registers the id. Gymnasium 1.0 gave up entry points of packages, so a caller names the module,
once and for all or in the id itself:

    import secure_frl.learning.environments.gymnasium_icu_sepsis
    gymnasium.make("secure_frl/ICU-Sepsis-v0")
    gymnasium.make_vec("secure_frl.learning.environments.gymnasium_icu_sepsis:secure_frl/ICU-Sepsis-v0", num_envs=1000)

Observation: the number of a state, Discrete(716). Action: Discrete(25). Reward: 1 on survival. An episode is truncated
after 48 steps unless `max_episode_steps` says otherwise. `info["allowed_actions"]` is the public mask of admissible
actions, bool [25] or, of many copies, [copies, 25].

Nothing else in the package imports this module.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter, UnexpectedState
from secure_frl.learning.environments.icu_sepsis import (
    ACTIONS,
    LIVE_STATES,
    STATES,
    SURVIVAL,
    admissible_actions,
    admit,
    draw,
    treat,
)

ID = "secure_frl/ICU-Sepsis-v0"
MAX_STEPS = 48


class IcuSepsisEnv(gymnasium.Env[np.int64, np.int64]):
    """One patient. It never truncates: `gymnasium.make` puts a time limit around it."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]  # the base calls it an attribute

    def __init__(self) -> None:
        self.observation_space = Discrete(STATES)
        self.action_space = Discrete(ACTIONS)
        self._state: np.int64 | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Admit a patient; returns their state and {"allowed_actions": bool [25]}. There are no options."""
        super().reset(seed=seed)
        self._state = np.int64(admit(draw(self.np_random, 1))[0])
        return self._state, _allowed(self._state)

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Treat the patient once.

        Raises UnexpectedState before the first reset and after the end, InvalidParameter for an unknown action.
        """
        if self._state is None or self._state >= LIVE_STATES:
            raise UnexpectedState("expected a live patient, got one not admitted or past the end. Call reset first.")
        if action not in self.action_space:
            raise InvalidParameter(f"an action must be an integer in 0..{ACTIONS - 1}, not {action!r}. Correct it.")
        landed = treat(np.array([self._state]), np.array([action]), draw(self.np_random, 1))
        self._state = np.int64(landed[0])
        ended = bool(self._state >= LIVE_STATES)
        return self._state, float(self._state == SURVIVAL), ended, False, _allowed(self._state)


class IcuSepsisVectorEnv(VectorEnv[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]):
    """Many patients side by side. Autoreset is NEXT_STEP: the step after an end admits, whatever the action.

    Every copy uses one number a step, for treatment or admission, so what happens in one copy never depends on the
    length of another.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": [],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(self, num_envs: int = 1, max_episode_steps: int = MAX_STEPS) -> None:
        """Raise InvalidParameter unless both numbers are at least 1."""
        if num_envs < 1 or max_episode_steps < 1:
            raise InvalidParameter(
                f"num_envs and max_episode_steps must be at least 1, not {num_envs} and {max_episode_steps}. "
                "Correct the call."
            )
        self.num_envs = num_envs
        self.single_observation_space = Discrete(STATES)
        self.single_action_space = Discrete(ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._max_steps = max_episode_steps
        self._states: NDArray[np.int64] | None = None
        self._taken = np.zeros(num_envs, dtype=np.int64)
        self._over = np.zeros(num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Admit a patient in every copy; returns states, int64 [copies], and info. There are no options."""
        super().reset(seed=seed)
        self._states = admit(draw(self.np_random, self.num_envs))
        self._taken[:] = 0
        self._over[:] = False
        return self._states.copy(), self._info(self._states)

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Treat every patient once; in a copy whose episode ended at the step before, admit the next with reward 0.

        actions: integers [copies] in 0..24. Raises UnexpectedState before the first reset, InvalidParameter for other
        actions.
        """
        if self._states is None:
            raise UnexpectedState("an environment must be reset before it is stepped. Call reset first.")
        actions = np.asarray(actions)
        known = np.issubdtype(actions.dtype, np.integer) and actions.shape == (self.num_envs,)
        if not known or actions.min() < 0 or actions.max() >= ACTIONS:
            raise InvalidParameter(
                f"actions must be {self.num_envs} integers in 0..{ACTIONS - 1}, not {actions.dtype}"
                f"{list(actions.shape)} or beyond. Correct them."
            )
        uniform = draw(self.np_random, self.num_envs)
        # A copy past its end is treated as if in state 0, then overwritten by an admission.
        landed = treat(np.where(self._over, 0, self._states), actions, uniform)
        landed[self._over] = admit(uniform[self._over])
        self._taken = np.where(self._over, 0, self._taken + 1)
        reward = (landed == SURVIVAL).astype(np.float32)
        terminated = landed >= LIVE_STATES
        truncated = ~terminated & (self._taken >= self._max_steps)
        self._over = terminated | truncated
        self._states = landed
        return landed.copy(), reward, terminated, truncated, self._info(landed)

    def _info(self, states: NDArray[np.int64]) -> dict[str, Any]:
        # Gymnasium's rule for many copies: `_name` marks those that have `name`.
        return {"allowed_actions": admissible_actions()[states], "_allowed_actions": np.ones(self.num_envs, np.bool_)}


def _allowed(state: np.int64) -> dict[str, Any]:
    return {"allowed_actions": admissible_actions()[state].copy()}


def register() -> None:
    """Make the id known to Gymnasium; a second call changes nothing."""
    if ID not in gymnasium.registry:
        gymnasium.register(
            id=ID,
            entry_point=f"{__name__}:{IcuSepsisEnv.__name__}",
            vector_entry_point=f"{__name__}:{IcuSepsisVectorEnv.__name__}",
            max_episode_steps=MAX_STEPS,
        )


register()
