"""Minibatch steps of PPO with the gradient written out, for networks without a memory that have a value network.

What `local_training` does with autograd for any policy and objective, several times faster for this one: a hospital's
own training, where no gradient of a person is clipped. Same loss, same minibatches, same optimisers.

Source: Schulman et al. 2017, Proximal Policy Optimization Algorithms, equation 7 and section 5; Kingma and Ba 2015,
Adam, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.local_training import LocalSettings
from secure_frl.learning.networks import HEAD, MASKED_LOGIT, MLP, VALUE, Arrays, Network, logits_of
from secure_frl.learning.trajectories import Trajectories

_TINY = 1e-8
_BETA_1, _BETA_2 = 0.9, 0.999

Floats = NDArray[Any]  # float32 or float64, as the dtype of a run says


@dataclass(frozen=True, slots=True)
class ProximalSteps:
    """Charter constants of a hospital's own PPO; see `local_training.LocalSettings` for those that both have."""

    clip_ratio: float
    value_weight: float
    optimiser: str  # sgd | adam
    step_size: float
    passes: int
    minibatch: int  # steps; 0: all of them at once
    max_gradient_norm: float = 0.0  # L2 of a minibatch's gradient; 0: not cut
    proximal: float = 0.0  # mu of FedProx
    entropy_weight: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Steps that exist, one a row."""

    observations: Floats  # [N, D]
    actions: NDArray[np.int64]
    allowed: NDArray[np.bool_] | None
    log_behaviour: Floats
    advantages: NDArray[np.float64]
    outcomes: Floats


class FlatLayers:
    """A network's weights as views of one vector, and of its gradient."""

    def __init__(self, network: Network, prefix: str, vector: Floats, gradient: Floats, start: int) -> None:
        self._weights, self._gradients = [], []
        names = [f"layers.{number}" for number in range(len(network.linear_widths))] + [HEAD]
        self.stop = start
        self.places: dict[str, tuple[slice, tuple[int, ...]]] = {}
        for name in names:
            views: list[list[Floats]] = [[], []]
            for part in ("weight", "bias"):
                shape = network.shapes[f"{name}.{part}"]
                place = slice(self.stop, self.stop + int(np.prod(shape)))
                self.places[f"{prefix}{name}.{part}"] = (place, shape)
                for found, whole in zip(views, (vector, gradient), strict=True):
                    found.append(whole[place].reshape(shape))
                self.stop = place.stop
            self._weights.append(views[0])
            self._gradients.append(views[1])
        self._entered: list[Floats] = []

    def forward(self, observations: Floats) -> Floats:
        """Return the head's output, [n, outputs]."""
        self._entered = [observations]
        for weight, bias in self._weights[:-1]:
            values = self._entered[-1] @ weight.T
            values += bias
            self._entered.append(np.tanh(values, out=values))
        weight, bias = self._weights[-1]
        outputs: Floats = self._entered[-1] @ weight.T + bias
        return outputs

    def backward(self, returned: Floats) -> None:
        """Write the gradient, from that of the head's output."""
        for number in range(len(self._weights) - 1, -1, -1):
            entered, (for_weight, for_bias) = self._entered[number], self._gradients[number]
            np.matmul(returned.T, entered, out=for_weight)
            np.sum(returned, axis=0, out=for_bias)
            if number:
                returned = returned @ self._weights[number][0]
                slope = entered * entered
                np.subtract(1.0, slope, out=slope)
                returned *= slope


def is_offered(network: Network | None, value: Network | None) -> bool:
    """Return whether these steps can be made: features through linear layers, with a value network."""
    return network is not None and value is not None and network.kind == MLP and not network.embeds


class Valued:
    """A value network as `Reinforce.targets` asks a policy for it, without gradients; padding is valued once."""

    def __init__(self, value: Network, arrays: Arrays) -> None:
        """arrays: parameters, the value network's under "value."."""
        self._network = value
        self._arrays = {n.removeprefix(VALUE): array for n, array in arrays.items() if n.startswith(VALUE)}

    def value_of(self, observations: torch.Tensor) -> torch.Tensor:
        """Return values, float64 [B,T]. observations: float32 [B,T,D], zeros where no step exists."""
        flat = observations.numpy().reshape(-1, observations.shape[-1])
        seen = flat.any(axis=1)
        found = np.empty(seen.size)
        found[~seen] = self._at(np.zeros_like(flat[:1]))
        found[seen] = self._at(flat[seen])
        return torch.from_numpy(found.reshape(tuple(observations.shape[:-1])))

    def _at(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        return logits_of(self._network, self._arrays, observations, np.zeros((len(observations), 0)))[0][:, 0]


def moved_by_ppo(
    network: Network,
    value: Network,
    arrays: Arrays,
    seen: Trajectories,
    targets: Mapping[str, NDArray[np.float64]],
    generator: np.random.Generator,
    settings: ProximalSteps,
    dtype: type[np.floating[Any]] = np.float32,
) -> dict[str, NDArray[np.float64]]:
    """Return where the parameters are after `passes` over the steps in minibatches, by name.

    arrays: parameters at first, the value network's under "value.". seen: with log_behaviour. targets: of
    `ProximalPolicy`: advantages and outcomes, [B,T]; advantages are normalised over a minibatch.
    A minibatch whose loss or gradient is not finite is passed over.
    Raises InvalidParameter for networks that `is_offered` refuses, and without log_behaviour.
    """
    if not is_offered(network, value) or seen.log_behaviour is None:
        raise InvalidParameter(
            "expected a network over features without a memory, a value network, and episodes with log_behaviour, got "
            "others. Use local_training.moved_by."
        )
    sizes = [sum(int(np.prod(shape)) for shape in one.shapes.values()) for one in (network, value)]
    vector, gradient = np.zeros(sum(sizes), dtype=dtype), np.zeros(sum(sizes), dtype=dtype)
    policy = FlatLayers(network, "", vector, gradient, 0)
    critic = FlatLayers(value, VALUE, vector, gradient, policy.stop)
    places = policy.places | critic.places
    for name, (place, _) in places.items():
        vector[place] = arrays[name].reshape(-1)
    rows = _rows(seen, targets, dtype)
    step = Adam(vector, settings.step_size) if settings.optimiser == "adam" else Descent(vector, settings.step_size)
    first, size = vector.copy(), settings.minibatch or max(rows.actions.size, 1)
    for _ in range(settings.passes):
        order = generator.permutation(rows.actions.size)
        for start in range(0, order.size, size):
            with np.errstate(over="ignore", invalid="ignore"):
                _differentiate(policy, critic, rows, order[start : start + size], settings)
                norm = float(np.sqrt(np.dot(gradient, gradient)))
            take_cut(step, gradient, norm, vector - first, settings)
    return {name: vector[place].astype(np.float64).reshape(shape) for name, (place, shape) in places.items()}


def take_cut(
    step: Adam | Descent, gradient: Floats, norm: float, moved: Floats, settings: ProximalSteps | LocalSettings
) -> None:
    """Take a step on a gradient of a length, cut and pulled back by what was moved; none where it is not finite."""
    if not np.isfinite(norm):
        return
    if settings.max_gradient_norm and norm > settings.max_gradient_norm:
        gradient *= settings.max_gradient_norm / (norm + _TINY)
    if settings.proximal:
        gradient += settings.proximal * moved
    step.take(gradient)


def _differentiate(
    policy: FlatLayers, critic: FlatLayers, rows: _Rows, chosen: NDArray[np.int64], settings: ProximalSteps
) -> None:
    """Write the gradient of the mean loss over the chosen rows."""
    seen, each = rows.observations[chosen], np.arange(chosen.size)
    actions, advantages = rows.actions[chosen], rows.advantages[chosen]
    if chosen.size > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + _TINY)
    advantages = advantages.astype(seen.dtype)
    logits = policy.forward(seen)
    if rows.allowed is not None:
        np.copyto(logits, seen.dtype.type(MASKED_LOGIT), where=~rows.allowed[chosen])
    logits -= logits.max(axis=1, keepdims=True)
    taken = logits[each, actions]
    logged = logits.copy() if settings.entropy_weight else None
    np.exp(logits, out=logits)
    total = logits.sum(axis=1)
    ratio = np.exp(taken - np.log(total) - rows.log_behaviour[chosen])
    clipped = np.clip(ratio, 1 - settings.clip_ratio, 1 + settings.clip_ratio)
    # The smaller of the two gains counts; where it is the clipped one, nothing moves it.
    weights = np.where(ratio * advantages <= clipped * advantages, ratio * advantages, 0) / seen.dtype.type(chosen.size)
    logits *= (weights / total)[:, None]  # from here on the gradient of the logits: weight * (p - taken)
    logits[each, actions] -= weights
    if logged is not None:  # weight * p * (log p + entropy)
        logged -= np.log(total)[:, None]
        chances = np.exp(logged)
        entropy = -np.sum(chances * logged, axis=1, keepdims=True)
        logits += chances * (logged + entropy) * seen.dtype.type(settings.entropy_weight / chosen.size)
    policy.backward(logits)
    errors = critic.forward(seen)[:, 0] - rows.outcomes[chosen]
    critic.backward((errors * seen.dtype.type(settings.value_weight / chosen.size))[:, None])


def _rows(seen: Trajectories, targets: Mapping[str, NDArray[np.float64]], dtype: type[np.floating[Any]]) -> _Rows:
    episodes, times = np.nonzero(seen.steps)
    logged = np.zeros(seen.steps.shape) if seen.log_behaviour is None else seen.log_behaviour
    return _Rows(
        observations=seen.observations[episodes, times].astype(dtype),
        actions=seen.actions[episodes, times],
        allowed=None if seen.allowed is None else seen.allowed[episodes, times],
        log_behaviour=logged[episodes, times].astype(dtype),
        advantages=targets["advantages"][episodes, times],
        outcomes=targets["outcomes"][episodes, times].astype(dtype),
    )


class Descent:
    """Plain gradient descent on a vector, in place."""

    def __init__(self, vector: Floats, step_size: float) -> None:
        self._vector = vector
        self._step_size = vector.dtype.type(step_size)

    def take(self, gradient: Floats) -> None:
        """Move against the gradient."""
        self._vector -= self._step_size * gradient


class Adam:
    """Adam on a vector, in place."""

    def __init__(self, vector: Floats, step_size: float) -> None:
        self._vector = vector
        self._step_size = step_size
        self._mean, self._square = np.zeros_like(vector), np.zeros_like(vector)
        self._taken = 0

    def take(self, gradient: Floats) -> None:
        """Move against the gradient."""
        self._taken += 1
        self._mean += (1 - _BETA_1) * (gradient - self._mean)
        self._square *= _BETA_2
        self._square += (1 - _BETA_2) * (gradient * gradient)
        size = np.sqrt(self._square / (1 - _BETA_2**self._taken))
        size += _TINY
        self._vector -= self._step_size / (1 - _BETA_1**self._taken) * self._mean / size
