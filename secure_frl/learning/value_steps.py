"""Minibatch steps of double Q-learning with the gradient written out, for an mlp over features.

What `local_training` does with autograd for any policy and objective, several times faster for this one: a hospital's
own training on its replay, where no gradient of a person is clipped. Same loss, same minibatches, same optimisers. The
target network is the policy at its beginning, which is the one that was broadcast.

Source: van Hasselt et al. 2016, Deep Reinforcement Learning with Double Q-learning, equation 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.local_training import LocalSettings
from secure_frl.learning.networks import MLP, Arrays, Network
from secure_frl.learning.objectives.dqn import DoubleQ
from secure_frl.learning.proximal_steps import Adam, Descent, FlatLayers, Floats, take_cut
from secure_frl.learning.replay import Replay
from secure_frl.learning.trajectories import Trajectories


def has_flat_layers(network: Network | None) -> bool:
    """Return whether these steps can be made: features through linear layers that are all trained."""
    return network is not None and network.kind == MLP and not network.embeds


def moved_by_dqn(
    network: Network,
    arrays: Arrays,
    replay: Replay,
    objective: DoubleQ,
    generator: np.random.Generator,
    settings: LocalSettings,
    *,
    count: int,
    dtype: type[np.floating[Any]] = np.float32,
) -> dict[str, NDArray[np.float64]]:
    """Return where the parameters are after `count` minibatches of remembered steps, by name.

    objective: of rows that are one step, as a replay draws them. An empty replay moves nothing, and a minibatch whose
    gradient is not finite is passed over.
    Raises InvalidParameter for a network that `has_flat_layers` refuses.
    """
    if not has_flat_layers(network):
        raise InvalidParameter("expected an mlp over features. Use local_training.moved_by.")
    size = sum(int(np.prod(shape)) for shape in network.shapes.values())
    vector, gradient = np.zeros(size, dtype=dtype), np.zeros(size, dtype=dtype)
    policy = FlatLayers(network, "", vector, gradient, 0)
    for name, (place, _) in policy.places.items():
        vector[place] = arrays[name].reshape(-1)
    first = vector.copy()
    target = FlatLayers(network, "", first, np.zeros_like(first), 0)
    step = Adam(vector, settings.step_size) if settings.optimiser == "adam" else Descent(vector, settings.step_size)
    for _ in range(count if replay.size else 0):
        with np.errstate(over="ignore", invalid="ignore"):
            _differentiate(policy, target, replay.draw(generator, settings.minibatch), objective)
            norm = float(np.sqrt(np.dot(gradient, gradient)))
        take_cut(step, gradient, norm, vector - first, settings)
    return {name: vector[place].astype(np.float64).reshape(shape) for name, (place, shape) in policy.places.items()}


def _differentiate(policy: FlatLayers, target: FlatLayers, rows: Trajectories, objective: DoubleQ) -> None:
    """Write the gradient of the mean loss over rows of one step."""
    each, final = np.arange(rows.count), rows.final_observations
    following = policy.forward(final)
    if rows.final_allowed is not None:
        following = np.where(rows.final_allowed, following, -np.inf)
    after: Floats = target.forward(final)[each, following.argmax(axis=1)]
    aims = rows.rewards[:, 0] + objective.discount * np.where(rows.terminated, 0.0, after)
    hides_final = rows.allowed is not None and rows.final_allowed is None
    counted = rows.steps[:, 0] & ~(hides_final & ~rows.terminated)
    values, actions = policy.forward(rows.observations[:, 0]), rows.actions[:, 0]
    errors = np.where(counted, values[each, actions] - aims, 0.0)
    if objective.error == "huber":
        errors = np.clip(errors, -1.0, 1.0)
    returned = np.zeros_like(values)
    returned[each, actions] = errors / (rows.count * objective.max_steps)
    policy.backward(returned)
