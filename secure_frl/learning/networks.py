"""Networks as plain arrays: names, shapes and public first values of their parameters, and how they act. No torch.

States enter through an embedding, never one-hot, features as they are; then linear layers with tanh, for gru and lstm a
recurrent layer as the last hidden one, then a linear head of one number an output. With random_features the head alone
is trained, on a fixed map of the observations. `policies` has the same functions with gradients, under the same names.

Sources of the cells: Cho et al. 2014, appendix A.1.1, with the reset gate behind the recurrent product as in
torch.nn.GRU; Hochreiter and Schmidhuber 1997 with a forget gate, as in torch.nn.LSTM.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.random_features import first_map, mapped

MLP, GRU, LSTM = "mlp", "gru", "lstm"
RANDOM_FEATURES = "random_features"
VALUE = "value."  # before the names of a value network's parameters, which stand beside the policy's
EMBEDDING, HEAD, RECURRENT, MAP = "embedding", "head", "recurrent", "map"
HEAD_GAIN = 0.01  # first logits are close to 0: a new policy is nearly uniform, and its lower layers have gradients
MASKED_LOGIT = -1e30  # finite: infinity would make NaN out of 0 times infinity in the backward pass
_GATES = {GRU: 3, LSTM: 4}
_LABEL = b"secure_frl/first_parameters/v1"

Arrays = Mapping[str, NDArray[np.float64]]  # by name of the parameter, in its own shape


@dataclass(frozen=True, slots=True)
class Network:
    """What a network is, apart from its parameters. Raises InvalidParameter for widths that make none."""

    kind: str  # mlp | gru | lstm | random_features
    hidden: tuple[int, ...]  # widths: of embedding, first layer or map first; gru and lstm: of the recurrent layer last
    inputs: int  # states that are embedded, or features
    outputs: int  # one logit an action, or one value
    embeds: bool = True  # inputs are numbers of states; False: features
    bandwidth: float = 1.0  # of random_features; once its map is made nobody asks for it

    def __post_init__(self) -> None:
        if self.kind == RANDOM_FEATURES:
            if self.embeds or len(self.hidden) != 1 or self.hidden[0] < 2 or self.hidden[0] % 2:
                raise InvalidParameter(
                    f"expected features and one even width for random_features, got {list(self.hidden)}. Correct "
                    "data.observation and policy.random_features."
                )
            return
        least = 1 if self.kind == MLP else 2
        if self.kind not in (MLP, GRU, LSTM) or len(self.hidden) < least or min(self.hidden) < 1:
            raise InvalidParameter(
                f"expected mlp with a width or more, or gru or lstm with two or more, got {self.kind!r} with "
                f"{list(self.hidden)}. Correct policy.kind and policy.hidden."
            )

    @property
    def is_recurrent(self) -> bool:
        """Return whether what it does depends on the episode so far, beside the state."""
        return self.kind in _GATES

    @property
    def is_mapped(self) -> bool:
        """Return whether a fixed map of the observations enters the head; then the head's weights alone are trained."""
        return self.kind == RANDOM_FEATURES

    @property
    def fixed(self) -> frozenset[str]:
        """Return the names of parameters that stay at their first values.

        A bias on features of length 1 would be a direction common to all observations.
        """
        return frozenset((f"{MAP}.weight", f"{HEAD}.bias")) if self.is_mapped else frozenset()

    @property
    def width_entering(self) -> int:
        """Return how many numbers enter the first linear layer."""
        return self.hidden[0] if self.embeds or self.is_mapped else self.inputs

    @property
    def linear_widths(self) -> tuple[int, ...]:
        """Return the widths of the linear layers before the recurrent one or the head."""
        return self.hidden[1 if self.embeds or self.is_mapped else 0 : -1 if self.is_recurrent else None]

    @property
    def memory_width(self) -> int:
        """Return how many numbers an episode carries from step to step."""
        return {GRU: self.hidden[-1], LSTM: 2 * self.hidden[-1]}.get(self.kind, 0)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter, in the order of the torch module."""
        found: dict[str, tuple[int, ...]] = {}
        if self.embeds:
            found[f"{EMBEDDING}.weight"] = (self.inputs, self.hidden[0])
        if self.is_mapped:
            found[f"{MAP}.weight"] = (self.hidden[0] // 2, self.inputs)
        width = self.width_entering
        for number, following in enumerate(self.linear_widths):
            found[f"layers.{number}.weight"] = (following, width)
            found[f"layers.{number}.bias"] = (following,)
            width = following
        if self.is_recurrent:
            last, rows = self.hidden[-1], _GATES[self.kind] * self.hidden[-1]
            found[f"{RECURRENT}.weight_ih_l0"] = (rows, width)
            found[f"{RECURRENT}.bias_ih_l0"] = (rows,)
            found[f"{RECURRENT}.weight_hh_l0"] = (rows, last)
            found[f"{RECURRENT}.bias_hh_l0"] = (rows,)
            width = last
        found[f"{HEAD}.weight"] = (self.outputs, width)
        found[f"{HEAD}.bias"] = (self.outputs,)
        return found


def value_network(network: Network) -> Network:
    """Return the value network of a policy's: the same layers with one output."""
    return replace(network, outputs=1)


def first_parameters(network: Network, seed: int, prefix: str = "") -> dict[str, NDArray[np.float64]]:
    """Return the parameters before the first round: a public function of the charter, equal at every party.

    seed: the study's, of training; nothing secret. prefix: before each name, also among what is drawn from. Weights
    are uniform in +-1 / sqrt(inputs), the embedding in +-1, biases 0, the head's weights times 0.01. Drawn
    from SHAKE-256, whose bytes no library's version changes. The map of random_features is `first_map`, its head 0.
    Source of the range: LeCun et al. 1998, Efficient BackProp, section 4.6, up to a constant.
    """
    found: dict[str, NDArray[np.float64]] = {}
    for name, shape in network.shapes.items():
        if len(shape) == 1 or (network.is_mapped and name.startswith(HEAD)):
            found[prefix + name] = np.zeros(shape)
            continue
        if name.startswith(MAP):
            found[prefix + name] = first_map(seed, prefix + name, (shape[0], shape[1]), network.bandwidth)
            continue
        drawn = hashlib.shake_256(b"\x00".join((_LABEL, str(seed).encode(), (prefix + name).encode())))
        words = np.frombuffer(drawn.digest(4 * math.prod(shape)), dtype="<u4")
        uniform = (words + 0.5) * 2.0**-31 - 1.0
        gain = HEAD_GAIN if name.startswith(HEAD) else 1.0
        width = 1 if name.startswith(EMBEDDING) else shape[1]
        found[prefix + name] = (uniform * gain / math.sqrt(width)).reshape(shape)
    return found


def logits_of(
    network: Network, arrays: Arrays, observations: NDArray[Any], memory: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return outputs [n, outputs] of one step and the memory after it.

    observations: int64 [n] or float32 [n, features]. memory: float64 [n, memory_width], zeros at an episode's first
    step.
    """
    values = entering(network, arrays, observations)
    for number in range(len(network.linear_widths)):
        values = np.tanh(values @ arrays[f"layers.{number}.weight"].T + arrays[f"layers.{number}.bias"])
    if network.is_recurrent:
        memory = (_gru_step if network.kind == GRU else _lstm_step)(arrays, values, memory)
        values = memory[:, : network.hidden[-1]]
    return values @ arrays[f"{HEAD}.weight"].T + arrays[f"{HEAD}.bias"], memory


def entering(network: Network, arrays: Arrays, observations: NDArray[Any]) -> NDArray[np.float64]:
    """Return what enters the first linear layer, float64 [n, width_entering]."""
    if network.embeds:
        return np.asarray(np.tanh(arrays[f"{EMBEDDING}.weight"][observations]), dtype=np.float64)
    if network.is_mapped:
        return mapped(arrays[f"{MAP}.weight"], np.asarray(observations, dtype=np.float64))
    return np.asarray(observations, dtype=np.float64)


def _gru_step(arrays: Arrays, values: NDArray[np.float64], memory: NDArray[np.float64]) -> NDArray[np.float64]:
    reset, update, new = np.split(_gates(arrays, values, "ih"), 3, axis=1)
    reset_h, update_h, new_h = np.split(_gates(arrays, memory, "hh"), 3, axis=1)
    kept = _sigmoid(update + update_h)
    return (1 - kept) * np.tanh(new + _sigmoid(reset + reset_h) * new_h) + kept * memory


def _lstm_step(arrays: Arrays, values: NDArray[np.float64], memory: NDArray[np.float64]) -> NDArray[np.float64]:
    shown, cell = np.split(memory, 2, axis=1)
    entering, forgetting, new, leaving = np.split(_gates(arrays, values, "ih") + _gates(arrays, shown, "hh"), 4, axis=1)
    cell = _sigmoid(forgetting) * cell + _sigmoid(entering) * np.tanh(new)
    return np.concatenate([_sigmoid(leaving) * np.tanh(cell), cell], axis=1)


def _gates(arrays: Arrays, values: NDArray[np.float64], which: str) -> NDArray[np.float64]:
    weight, bias = arrays[f"{RECURRENT}.weight_{which}_l0"], arrays[f"{RECURRENT}.bias_{which}_l0"]
    return np.asarray(values @ weight.T + bias, dtype=np.float64)


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)), dtype=np.float64)  # no overflow on either side
