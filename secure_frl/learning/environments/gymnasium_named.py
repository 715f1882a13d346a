"""An environment by its name in a study: any Gymnasium id, `module:id`, or `module:factory`.

A name with a module makes that module be imported by whoever plans or runs the study, before anything is signed: read
the name first. A site's policy lists the environments that it signs. The factory takes no arguments it needs and
returns one `gymnasium.Env`; whatever it raises is a refusal. Spaces are learned from an environment that is
made and closed again, without a step and without data.

Copies run side by side in `SyncVectorEnv`, which keeps them independent. An environment's own vector form is faster
and may share one generator among its copies; it is used for those below only, whose copies were looked at.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass

import gymnasium
from gymnasium.envs.registration import EnvSpec, VectorizeMode
from gymnasium.spaces import Box, Discrete

from secure_frl.errors import StudyRefused
from secure_frl.learning.environment import Environment
from secure_frl.learning.environments.gymnasium_vector import GymnasiumVector

LARGEST_OBSERVATION = 4096  # numbers; an image needs layers that are not here
# Draws at the start of an episode only (CartPole), or as many numbers at every step whoever has ended (ours).
_INDEPENDENT_COPIES = ("CartPole-v0", "CartPole-v1", "secure_frl/ICU-Sepsis-v0")


@dataclass(frozen=True, slots=True)
class Spaces:
    """What an environment shows and takes; exactly one of states and features is not None."""

    states: int | None  # Discrete observations
    features: int | None  # numbers of a Box, flattened
    actions: int
    limit: int | None  # steps after which the environment itself cuts an episode; None: never


def spaces_of(name: str) -> Spaces:
    """Return the spaces of an environment. Raises StudyRefused, as `made` does, for one that no policy here can use."""
    spec = _spec_of(name)
    one = _make(name, spec)
    try:
        actions, seen = one.action_space, one.observation_space
    finally:
        one.close()
    if not isinstance(actions, Discrete):
        raise _refused(name, f"an environment with Discrete actions, found {actions}", "wrap it so that it has a list")
    if isinstance(seen, Discrete):
        return Spaces(int(seen.n), None, int(actions.n), spec.max_episode_steps)
    width = math.prod(seen.shape) if isinstance(seen, Box) else 0
    if not 1 <= width <= LARGEST_OBSERVATION:
        raise _refused(
            name,
            f"Discrete observations or a Box of 1 to {LARGEST_OBSERVATION} numbers, found {seen}",
            "wrap it so that it shows one vector, for instance with gymnasium.wrappers.FlattenObservation",
        )
    return Spaces(None, width, int(actions.n), spec.max_episode_steps)


def made(name: str, count: int, max_steps: int) -> Environment:
    """Return `count` copies side by side, each cut after max_steps at the latest. Raises StudyRefused."""
    spec = _spec_of(name)
    if spec.id in _INDEPENDENT_COPIES:
        vector = gymnasium.make_vec(spec, count, VectorizeMode.VECTOR_ENTRY_POINT)
    else:
        vector = gymnasium.make_vec(spec, count, VectorizeMode.SYNC, disable_env_checker=True)
    return GymnasiumVector(vector, max_steps)


def _make(name: str, spec: EnvSpec) -> gymnasium.Env[object, object]:
    try:
        return gymnasium.make(spec)
    except (Exception, SystemExit) as error:  # somebody else's code: nothing of it may end a program quietly
        raise _refused(name, f"an environment that can be made, found: {error}", "install what it needs") from error


def _spec_of(name: str) -> EnvSpec:
    module_name, _, rest = name.rpartition(":")
    if not module_name:
        try:
            return gymnasium.spec(name)
        except gymnasium.error.Error as error:
            raise _refused(
                name, f"'icu-sepsis' or a Gymnasium id, found: {error}", "name its module, as in 'package.module:Id-v0'"
            ) from error
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # as above, while it is imported
        raise _refused(name, f"a module that can be imported, found: {error}", "install it at every site") from error
    if rest in gymnasium.registry:
        return gymnasium.registry[rest]
    if callable(getattr(module, rest, None)):
        return EnvSpec(id=rest, entry_point=f"{module_name}:{rest}")
    raise _refused(name, f"an id or factory in {module_name}, found neither", "correct the part behind ':'")


def _refused(name: str, expected: str, cure: str) -> StudyRefused:
    return StudyRefused(f"data.environment = {name!r}: expected {expected.rstrip('. ')}. To mend it: {cure}.")
