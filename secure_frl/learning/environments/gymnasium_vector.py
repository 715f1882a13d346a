"""Any `gymnasium.vector.VectorEnv` with discrete actions as an Environment.

Gymnasium's copies start again by themselves, an Environment's stay as they are once their episode is over. So the
adapter keeps the last observation of such a copy and lets the one below run on unseen. Where that last observation
stands depends on the autoreset mode:

    NEXT_STEP  among the observations of the step; the next step resets
    SAME_STEP  in info["final_obs"]; the observations are already those of the next episode
    DISABLED   among the observations; the copy must be reset before the next step, by a mask

Source: Gymnasium 1.4, gymnasium.vector.AutoresetMode and SyncVectorEnv.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter, UnexpectedState

_SEEDS = 2**62  # SyncVectorEnv gives copy i the seed + i: among so many, two roll-outs never share one


class GymnasiumVector:
    """A vector environment as an Environment; who made it closes it.

    Copies are as independent as the environment makes them: those of `SyncVectorEnv` and `AsyncVectorEnv` are, those
    that share one generator may not be.
    """

    def __init__(
        self,
        environment: VectorEnv[Any, Any, Any],
        max_steps: int | None = None,
        allowed_key: str = "allowed_actions",
    ) -> None:
        """Wrap `environment`.

        max_steps: at least 1; None takes the limit of the environment's spec. A shorter limit inside also cuts.
        allowed_key: where `info` may hold the mask of valid actions, bool [copies, actions].
        Raises InvalidParameter for spaces that are not Discrete (or Box, of observations), an environment that does
        not state its autoreset mode, and episodes without a limit.
        """
        mode = environment.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise InvalidParameter(
                f'metadata["autoreset_mode"] must be an AutoresetMode, not {mode!r}: without it nobody knows where an '
                "episode's last observation stands. State it in the environment."
            )
        actions, observed = environment.single_action_space, environment.single_observation_space
        if not isinstance(actions, Discrete) or not isinstance(observed, Discrete | Box):
            raise InvalidParameter(
                f"actions must be Discrete and observations Discrete or Box, not {actions} and {observed}. "
                "Put a Gymnasium wrapper around the environment that makes them so."
            )
        spec = getattr(environment, "spec", None)
        limit = max_steps if max_steps is not None else getattr(spec, "max_episode_steps", None)
        if limit is None or limit < 1:
            raise InvalidParameter(f"max_steps must be at least 1, not {limit}. Name the step that cuts an episode.")
        self._environment, self._mode, self._key = environment, mode, allowed_key
        self._actions, self._observed = actions, observed
        self._max_steps = int(limit)
        self._observations: NDArray[Any] | None = None
        self._allowed: NDArray[np.bool_] | None = None
        self._running = np.zeros(self.count, dtype=np.bool_)
        self._taken = 0

    @property
    def count(self) -> int:
        """Return the number of copies."""
        return int(self._environment.num_envs)

    @property
    def action_count(self) -> int:
        """Return the number of actions; 0 is the first of them also where the space starts elsewhere."""
        return int(self._actions.n)

    @property
    def max_steps(self) -> int:
        """Return the step after which an episode that goes on is cut."""
        return self._max_steps

    def reset(self, generator: np.random.Generator) -> NDArray[Any]:
        """Start an episode in each copy under a seed drawn from `generator`; see Environment.reset."""
        seed = int(generator.integers(_SEEDS))
        observations, info = self._environment.reset(seed=seed)
        self._observations = self._converted(observations)
        self._allowed = self._mask(info)
        self._running[:] = True
        self._taken = 0
        return self._observations.copy()

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Act in every copy; see Environment.step. An episode that ends at its limit has ended, and is not cut.

        actions: int64 [count]; those of copies whose episode is over must be valid, and lead nowhere.
        Raises UnexpectedState before the first reset.
        """
        if self._observations is None:
            raise UnexpectedState("an environment must be reset before it is stepped. Call reset with a generator.")
        observations, rewards, terminated, truncated, info = self._environment.step(actions + int(self._actions.start))
        over_below = terminated | truncated
        seen = self._converted(observations)
        if self._mode == AutoresetMode.SAME_STEP:
            for copy in np.flatnonzero(over_below & self._running):
                seen[copy] = self._converted(np.asarray(info["final_obs"][copy])[None])[0]
        self._taken += 1
        running = self._running.copy()
        ended = terminated & running
        cut = running & ~ended & (truncated | (self._taken >= self._max_steps))
        self._observations[running] = seen[running]
        self._allowed = self._mask(info)
        if self._allowed is not None and self._mode == AutoresetMode.SAME_STEP:
            over = np.flatnonzero(over_below & running)
            last = self._mask(info.get("final_info", {}))
            self._allowed[over] = True if last is None else last[over]
        self._running = running & ~ended & ~cut
        kept = np.where(running, rewards, 0).astype(np.float32)
        if self._mode == AutoresetMode.DISABLED and over_below.any():  # last: it may write over what it gave
            self._environment.reset(options={"reset_mask": over_below})
        return self._observations.copy(), kept, ended, cut

    def allowed(self, observations: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Return the mask [count, action_count] that came with the current observations, None if none came.

        From the step after its end on, that of a copy belongs to what runs on below. Raises InvalidParameter for other
        observations: Gymnasium tells masks only of where a copy is.
        """
        if self._allowed is None:
            return None
        if self._observations is None or not np.array_equal(observations, self._observations):
            raise InvalidParameter("masks are known only of the observations that came last. Ask before the next step.")
        return self._allowed.copy()

    def _converted(self, observations: Any) -> NDArray[Any]:
        """Return an own array: states int64 [n] from 0 on, or features float32 [n, D]. Any: of whichever space."""
        if isinstance(self._observed, Discrete):
            return np.asarray(observations, dtype=np.int64) - int(self._observed.start)
        features = np.array(observations, dtype=np.float32)
        return features.reshape(features.shape[0], -1)

    def _mask(self, info: dict[str, Any]) -> NDArray[np.bool_] | None:
        """Return the mask in `info`; a copy that came without one may do everything."""
        if self._key not in info:
            return None
        came = np.asarray(info.get(f"_{self._key}", np.ones(self.count)), dtype=np.bool_)
        return np.asarray(np.where(came[:, None], info[self._key], True), dtype=np.bool_)
