"""Clipped sums of per-unit gradients out of one backward pass, for policies of linear layers and embeddings.

Stands where `MessageGradients` stands. No gradient of a weight is made in the backward pass: hooks keep what entered
each layer, the pass gives what comes back to each, and `gram_layers` makes lengths and sum of them. A unit of several
rows, and whatever is odd in numbers, takes the way of `MessageGradients`: its own gradient, then `clip_units`.

Why a unit moves the sum by at most 1 + SENSITIVITY_MARGIN. A unit's gradient is here sum_t d_t h_t', of float64 numbers
that follow from that unit alone. Its weight comes from a bound above its true length, so its own term is at most 1
before summation. Summation is where others enter: `SUMMED_STEPS` outer products at a time go into one matrix product,
in an order that the library chooses, with an error of at most SUMMED_STEPS * 2^-53 times their lengths added up. The
lengths of a unit's outer products may add up to more than its gradient's, where they cancel; units for which it is more
than LARGEST_CANCELLATION times take the other way. So both neighbours' sums are off by at most

    SUMMED_STEPS * LARGEST_CANCELLATION * 2^-53 * LARGEST_WINDOW             = 2.2e-7   inside the products
    (LARGEST_WINDOW / 2 + chunks) * 2^-53 * LARGEST_WINDOW                   = 2.1e-7   adding them up

with two units or more in a product (LONGEST_STEPS), and the difference by twice that: 8.6e-7 of 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import Segment
from secure_frl.privacy.clipping import add_figures_, clip_units
from secure_frl.privacy.gram_layers import (
    EmbeddingLayer,
    Floats,
    Layer,
    LinearLayer,
    OwnGradients,
    is_shorter_by_steps,
)
from secure_frl.privacy.layer_passes import HookedPolicy
from secure_frl.secure_sum import Block

SUMMED_STEPS = 2048  # outer products in one matrix product
LARGEST_CANCELLATION = 16.0
LONGEST_STEPS = SUMMED_STEPS // 2
LONG_EPISODE = 16  # T^2 beside the states of a table, from where its gradient is cheaper than Gram matrices; measured


def is_offered(policy: nn.Module, segments: Sequence[Segment]) -> bool:
    """Return whether this engine takes a policy: a linear layer in the message, and nothing but those and embeddings.

    Exact types, one module a parameter, a layer in one block, a linear layer's parameter whole and in one piece. A
    policy of tables alone has nothing to gain: its gradients are as short as an episode.
    """
    owners = _owners(policy)
    weights = dict(policy.named_parameters())
    names = [segment.parameter for segment in segments]
    if len(set(names)) != len(names) or not set(names) <= set(owners):
        return False
    if len({(owners[segment.parameter], segment.block) for segment in segments}) != len({owners[n] for n in names}):
        return False
    for segment in segments:
        part, weight = owners[segment.parameter], weights[segment.parameter]
        is_whole = segment.coordinates.size == weight.numel()
        if not weight.requires_grad or (type(part) is nn.Linear and not is_whole):
            return False
    return any(type(owners[name]) is nn.Linear for name in names)


def _owners(policy: nn.Module) -> dict[str, nn.Module]:
    """Return the one layer that holds each parameter, by name; those of other layers, or shared, are absent."""
    found: dict[str, nn.Module] = {}
    holders: dict[Tensor, int] = {}
    for prefix, part in policy.named_modules():
        for name, weight in part.named_parameters(recurse=False):
            holders[weight] = holders.get(weight, 0) + 1
            if type(part) is nn.Linear or (type(part) is nn.Embedding and _is_plain(part)):
                found[f"{prefix}.{name}" if prefix else name] = part
    named = dict(policy.named_parameters())
    return {name: part for name, part in found.items() if name in named and holders[named[name]] == 1}


def _is_plain(part: nn.Embedding) -> bool:
    return part.padding_idx is None and part.max_norm is None and not part.scale_grad_by_freq and not part.sparse


class GramGradients(HookedPolicy):
    """A policy whose backward pass leaves what per-unit lengths and clipped sums are made of."""

    needs_fixed_rows = True  # as in MessageGradients: a product's last bits depend on how many rows it has

    def __init__(self, policy: nn.Module, segments: Sequence[Segment]) -> None:
        """Put hooks on the layers; undo with `to_standard_module`. `is_offered` says of which policies."""
        if not is_offered(policy, segments):
            raise InvalidParameter(
                "expected linear layers and embeddings whole in the message, got others. Use MessageGradients."
            )
        owners = _owners(policy)
        self._places: dict[nn.Module, dict[str, tuple[slice, Segment]]] = {}
        self._length = 0
        for segment in segments:
            place = slice(self._length, self._length + segment.coordinates.size)
            own = self._places.setdefault(owners[segment.parameter], {})
            own[segment.parameter.rpartition(".")[2]] = (place, segment)
            self._length = place.stop
        self._columns = {
            part: _columns(part, own["weight"][1].coordinates)
            for part, own in self._places.items()
            if isinstance(part, nn.Embedding)
        }
        super().__init__(policy, self._places)

    def _taken(self, rows: int) -> list[Layer]:
        return [self._layer(part, pairs, rows) for part, pairs in self._passes.take(rows).items()]

    def _layer(self, part: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]], rows: int) -> Layer:
        """Return a layer's passes as one, side by side in time. pairs: what entered, what came back."""
        returned = _joined([back.reshape(rows, -1, back.shape[-1]) for _, back in pairs])
        own = self._places[part]
        if isinstance(part, nn.Embedding):
            ids = torch.cat([entered.reshape(rows, -1) for entered, _ in pairs], dim=1).numpy()
            columns, (place, segment) = self._columns[part], own["weight"]
            if segment.coordinates.size < columns.size:
                returned = np.where(columns[ids] < segment.coordinates.size, returned, 0.0)
            table = EmbeddingLayer(ids, returned, columns.shape[0], place, segment.coordinates, columns)
            is_long = table.steps**2 > LONG_EPISODE * columns.shape[0]
            return OwnGradients(table.gradients(np.arange(rows)), table.steps) if is_long else table
        inputs = _joined([entered.detach().reshape(rows, -1, entered.shape[-1]) for entered, _ in pairs])
        weight, bias = own.get("weight"), own.get("bias")
        layer = LinearLayer(inputs, returned, weight and weight[0], bias and bias[0])
        if is_shorter_by_steps(layer.steps, inputs.shape[2], returned.shape[2]):
            return layer
        return OwnGradients(layer.gradients(slice(None)), layer.steps)

    def take(self, rows: int) -> Floats:
        """Return float64 [rows, P], each row's own gradient, and clear the pass; see `MessageGradients.take`."""
        return self._own(self._taken(rows), np.arange(rows, dtype=np.int64))

    def _own(self, layers: Sequence[Layer], rows: NDArray[np.int64]) -> Floats:
        gradients = np.zeros((rows.size, self._length))
        for layer in layers:
            for place, part in layer.gradients(rows):
                gradients[:, place] = part
        return gradients

    def sum_clipped(self, units: int, rows: int, blocks: Sequence[Block], returns: Floats) -> tuple[Floats, int]:
        """Return what `clip_units` returns for the first `units` rows, each a unit, and clear the pass.

        rows: of the pass; those beyond the units belong to nobody. returns: float64 [units].
        """
        layers = self._taken(rows)
        block_of = [_block_of(layer, blocks) for layer in layers]
        bounds, squares = np.zeros((len(blocks), units)), np.zeros((len(blocks), units))
        with np.errstate(invalid="ignore", over="ignore"):  # a gradient that is not finite is nobody's error here
            for layer, number in zip(layers, block_of, strict=True):
                bound, square = layer.lengths(units)
                bounds[number] += bound
                squares[number] += square
            norms = np.sqrt(np.maximum(bounds, 0.0))
            clips = np.array([block.clip_norm for block in blocks])[:, None]
            longest = np.maximum(norms, clips)
            is_plain = (np.isfinite(squares) & (squares <= (LARGEST_CANCELLATION * longest) ** 2)).all(axis=0)
        is_plain &= np.isfinite(returns) & (max(layer.steps for layer in layers) <= LONGEST_STEPS)
        vector, dropped = np.zeros(blocks[-1].stop), 0
        odd, plain = np.flatnonzero(~is_plain), np.flatnonzero(is_plain)
        if odd.size:
            vector, dropped = clip_units(self._own(layers, odd), blocks, returns[odd])
        if not plain.size:
            return vector, dropped
        shares = np.sqrt(np.array([block.noise_share for block in blocks]))[:, None]
        weights = shares / longest
        for layer, number in zip(layers, block_of, strict=True):
            together = max(1, SUMMED_STEPS // layer.steps)
            for start in range(0, plain.size, together):
                chosen = plain[start : start + together]
                here = slice(start, start + chosen.size) if plain.size == units else chosen
                layer.add_weighted(vector, here, weights[number, chosen])
        add_figures_(vector, blocks, norms[0, plain] <= blocks[0].clip_norm, returns[plain])
        return vector, dropped


def _block_of(layer: Layer, blocks: Sequence[Block]) -> int:
    return next(n for n, block in enumerate(blocks) if block.start <= layer.first < block.stop)


def _columns(part: nn.Embedding, coordinates: NDArray[np.int64]) -> NDArray[np.int64]:
    table = np.full(part.weight.numel(), coordinates.size, dtype=np.int64)
    table[coordinates] = np.arange(coordinates.size)
    return table.reshape(tuple(part.weight.shape))


def _joined(parts: Sequence[Tensor]) -> Floats:
    whole = parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)
    found: Floats = whole.to(torch.float64).numpy()
    return found
