"""Act with a policy in an environment and keep what happened. NumPy only; the generator is passed in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.acting import Acting, TableActing
from secure_frl.learning.environment import Environment
from secure_frl.learning.trajectories import Trajectories


def roll_out(
    acting: Acting, environment: Environment, generator: np.random.Generator, persons: NDArray[np.uint64]
) -> Trajectories:
    """Run one episode in each copy of an environment, whose observations are states or features.

    persons: uint64 [environment.count], one keyed hash an episode, made by the site.
    Returns trajectories padded to environment.max_steps; padding holds zeros. They carry the environment's masks if
    the policy needs them and the environment has any. The draws of copy i depend on the
    generator and i only. Raises InvalidParameter when shapes do not fit.
    """
    count, length = environment.count, environment.max_steps
    if persons.shape != (count,) or acting.action_count != environment.action_count:
        raise InvalidParameter(
            f"persons must be [{count}] and actions {environment.action_count}, not {list(persons.shape)} and "
            f"{acting.action_count}. Pass one person a copy, and a policy of this environment."
        )
    acting.begin(count)
    states = environment.reset(generator)
    observations = np.zeros((count, length, *states.shape[1:]), dtype=states.dtype)
    actions = np.zeros((count, length), dtype=np.int64)
    rewards = np.zeros((count, length), dtype=np.float32)
    log_behaviour = np.zeros((count, length), dtype=np.float32)
    steps = np.zeros((count, length), dtype=np.bool_)
    terminated = np.zeros(count, dtype=np.bool_)
    running = np.ones(count, dtype=np.bool_)
    mask = environment.allowed(states) if acting.needs_masks else None
    allowed = None if mask is None else np.zeros((count, length, acting.action_count), dtype=np.bool_)
    final_allowed = None if mask is None else mask.copy()
    for t in range(length):
        live = np.flatnonzero(running)
        if not live.size:
            break
        uniform = generator.random(count)[live]
        here = states[live]
        chosen, log_probabilities = acting.act(live, here, uniform, None if mask is None else mask[live])
        all_actions = np.zeros(count, dtype=np.int64)
        all_actions[live] = chosen
        states, reward, ended, cut = environment.step(all_actions)
        observations[live, t] = here
        if allowed is not None and final_allowed is not None:
            allowed[live, t] = True if mask is None else mask[live]
            mask = environment.allowed(states)
            final_allowed[live] = True if mask is None else mask[live]
        actions[live, t] = chosen
        rewards[live, t] = reward[live]
        log_behaviour[live, t] = log_probabilities
        steps[live, t] = True
        terminated |= ended
        running &= ~(ended | cut)
    return Trajectories(
        observations=observations,
        actions=actions,
        allowed=allowed,
        rewards=rewards,
        log_behaviour=log_behaviour,
        steps=steps,
        terminated=terminated,
        final_observations=states,
        persons=persons,
        final_allowed=final_allowed,
    )


def roll_out_table(
    probabilities: NDArray[np.float64],
    environment: Environment,
    generator: np.random.Generator,
    persons: NDArray[np.uint64],
) -> Trajectories:
    """Run one episode in each copy under a table of probabilities, float64 [states, actions]; see `roll_out`."""
    return roll_out(TableActing(probabilities), environment, generator, persons)
