"""Opacus' hooks around a policy, holding per-unit gradients of the message's coordinates only.

Opacus' own sampler for embeddings makes a dense table for each trajectory. A message names a tenth of it, so here
those coordinates are added up directly, in the same order and to the same bits; every other layer keeps Opacus'
sampler.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from torch import Tensor, nn

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import Segment

# An embedding's input is int64 ids, which never need gradients: the hook fires as it should.
warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)


class MessageGradients(GradSampleModule):  # type: ignore[misc]  # Opacus has no types
    """A policy whose backward pass leaves per-trajectory gradients of the segments' coordinates."""

    def __init__(self, policy: nn.Module, segments: Sequence[Segment], loss_reduction: str = "sum") -> None:
        """policy: in training mode, or Opacus' hooks record nothing. Undo with `to_standard_module`.

        Raises InvalidParameter for loss_reduction="mean", under which every gradient would scale with how many
        people were there, and for a segment whose parameter is missing.
        """
        if loss_reduction != "sum":
            raise InvalidParameter(
                f"expected loss_reduction='sum', got {loss_reduction!r}. "
                "A mean makes one unit's gradient depend on how many others there are."
            )
        weights = dict(policy.named_parameters())
        missing = sorted({segment.parameter for segment in segments} - set(weights))
        if missing:
            raise InvalidParameter(
                f"expected parameters {missing}, got a policy without them. Build policy and layout from one study."
            )
        super().__init__(policy, loss_reduction=loss_reduction)
        self._segments = tuple(segments)
        self._weights = weights
        self._columns = {
            part.weight: _columns(part, [s.coordinates for s in segments if weights[s.parameter] is part.weight])
            for part in policy.modules()
            if type(part) is nn.Embedding
        }
        self.GRAD_SAMPLERS = {**GradSampleModule.GRAD_SAMPLERS, nn.Embedding: self._sample_embedding}

    def __deepcopy__(self, memo: object) -> None:
        """Refuse: the hooks of a copy keep pointing at the original, which is found out in some later backward pass."""
        raise InvalidParameter(
            "expected a plain module as target network, got a deep copy of one with gradient hooks. Build a policy of "
            "the same form and load the broadcast parameters into it."
        )

    def backward(self, total: Tensor) -> None:
        """Make the backward pass of a batch's losses, added up."""
        torch.autograd.backward(total)

    @property
    def needs_fixed_rows(self) -> bool:
        """Return whether a row's gradient may depend, in its last bits, on how many rows are computed together.

        Sums into a table do not; matrix products do, for a library chooses its kernel by their size.
        """
        return any(weight not in self._columns for weight in self._weights.values())

    def take(self, rows: int) -> NDArray[np.float64]:
        """Return float64 [rows, P] of the one backward pass that was made, and clear it.

        rows: trajectories of that pass.
        Raises InvalidParameter when a parameter holds the gradients of no pass, of several passes, or of another
        number of rows. Each means that one unit would count more than once, or be cut into pieces.
        """
        parts: list[Tensor] = []
        used: dict[str, int] = {}
        for segment in self._segments:
            name, weight = segment.parameter, self._weights[segment.parameter]
            found = _one_pass(name, getattr(weight, "grad_sample", None), rows)
            if weight in self._columns:  # its segments side by side
                start = used.get(name, 0)
                used[name] = start + segment.coordinates.size
                parts.append(found[:, start : used[name]])
            else:
                parts.append(found.reshape(rows, -1).index_select(1, torch.from_numpy(segment.coordinates)))
        gradients: NDArray[np.float64] = torch.cat([part.to(torch.float64) for part in parts], dim=1).numpy()
        for weight in self._weights.values():
            weight.grad_sample = None  # type: ignore[attr-defined]  # Opacus keeps it on the parameter
            weight.grad = None
        return gradients

    def _sample_embedding(
        self, layer: nn.Embedding, activations: Sequence[Tensor], backprops: Tensor
    ) -> Mapping[Tensor, Tensor]:
        """Return [B, coordinates] for one embedding. activations[0]: int64 [B, ...]; backprops: [B, ..., D]."""
        if not layer.weight.requires_grad:
            return {}
        columns, wanted = self._columns[layer.weight]
        rows = activations[0].shape[0]
        # One column more than wanted takes everything that the message does not name.
        total = torch.zeros(rows, wanted + 1, dtype=backprops.dtype)
        total.scatter_add_(1, columns[activations[0]].reshape(rows, -1), backprops.reshape(rows, -1))
        return {layer.weight: total[:, :wanted]}


def _columns(part: nn.Embedding, coordinates: Sequence[NDArray[np.int64]]) -> tuple[Tensor, int]:
    """Return int64 [states, D], the column of each coordinate, and how many are wanted; the others get one beyond."""
    wanted = np.concatenate([np.empty(0, np.int64), *coordinates])
    table = np.full(part.weight.numel(), wanted.size, dtype=np.int64)
    table[wanted] = np.arange(wanted.size)
    return torch.from_numpy(table.reshape(tuple(part.weight.shape))), wanted.size


def _one_pass(name: str, found: object, rows: int) -> Tensor:
    if isinstance(found, list):
        raise InvalidParameter(
            f"{name}: expected per-unit gradients of one backward pass, got those of {len(found)}. "
            "Add the losses of a trajectory up and call backward once."
        )
    if not isinstance(found, Tensor):
        raise InvalidParameter(
            f"{name}: expected per-unit gradients, got none. Use the parameter in the loss through its module's "
            "forward, and compute targets under torch.no_grad()."
        )
    if found.shape[0] != rows:
        raise InvalidParameter(
            f"{name}: expected gradients of {rows} trajectories, got {found.shape[0]}. "
            "Keep the shape [episodes, steps, ...]: flattened steps would each become a unit."
        )
    return found.detach()
