"""What entered each layer and what came back to it: of one backward pass, in which no gradient of a weight is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secure_frl.errors import InvalidParameter, UnexpectedState


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """One forward pass through one layer."""

    part: nn.Module
    entered: Tensor
    left: Tensor
    versions: tuple[int, int]


class LayerPasses:
    """Hooks on the layers of a policy."""

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        """Put the hooks on; undo with `remove`. parts: layers of one input and one output."""
        self._parts = tuple(parts)
        self._hooks = [part.register_forward_hook(self._keep) for part in self._parts]
        self._forget()

    def remove(self) -> None:
        """Take the hooks off and let go of what they kept."""
        for hook in self._hooks:
            hook.remove()
        self._forget()

    def _forget(self) -> None:
        self._forward: list[_Pass] = []
        self._returned: list[tuple[_Pass, Tensor]] = []  # of the one backward pass

    def _keep(self, part: nn.Module, entered: tuple[Any, ...], left: Tensor) -> None:  # Any: torch's signature
        if torch.is_grad_enabled():
            self._forward.append(_Pass(part, entered[0], left, (entered[0]._version, left._version)))

    def backward(self, total: Tensor) -> None:
        """Make the one backward pass of a batch, as far as the layers' outputs.

        Raises InvalidParameter for a second pass before the first was taken, for a layer that the loss does not use,
        or whose input or output was changed in place.
        """
        passes, self._forward = self._forward, []
        if self._returned:
            raise InvalidParameter(
                "expected per-unit gradients of one backward pass, got those of 2. "
                "Add the losses of a trajectory up and call backward once."
            )
        if any((one.entered._version, one.left._version) != one.versions for one in passes):
            raise InvalidParameter("expected layers' inputs and outputs unchanged, got changes in place. Copy instead.")
        missing = sorted(type(part).__name__ for part in self._parts if all(one.part is not part for one in passes))
        found = torch.autograd.grad(total, [one.left for one in passes], allow_unused=True) if passes else ()
        returned = [(one, back) for one, back in zip(passes, found, strict=True) if back is not None]
        if missing or len(returned) != len(passes):
            raise InvalidParameter(
                f"expected per-unit gradients of every layer in use, got none of some {missing}. Use the parameter in "
                "the loss through its module's forward, and compute targets under torch.no_grad()."
            )
        self._returned = returned

    def take(self, rows: int) -> Mapping[nn.Module, list[tuple[Tensor, Tensor]]]:
        """Return for each layer what entered it and what came back to its output, pass by pass, and clear them.

        rows: trajectories of the passes, the first dimension of every tensor.
        Raises UnexpectedState without a backward pass, InvalidParameter for one of another number of rows, or whose
        inputs were changed in place after it.
        """
        returned, self._returned = self._returned, []
        if not returned:
            raise UnexpectedState("expected a backward pass, got none. Call backward first.")
        found: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {part: [] for part in self._parts}
        for one, back in returned:
            found[one.part].append((one.entered, back))
        if any(one.entered._version != one.versions[0] for one, _ in returned):
            raise InvalidParameter("expected layers' inputs unchanged, got changes in place. Copy instead.")
        if any(entered.shape[0] != rows for pairs in found.values() for entered, _ in pairs):
            raise InvalidParameter(
                f"expected gradients of {rows} trajectories, got "
                f"{sorted({int(one.entered.shape[0]) for one, _ in returned})}. "
                "Keep the shape [episodes, steps, ...]: flattened steps would each become a unit."
            )
        return found


class HookedPolicy:
    """A policy with hooks on its layers: what the engines that make no gradient of a weight have in common."""

    def __init__(self, policy: nn.Module, parts: Iterable[nn.Module]) -> None:
        """Put the hooks on; undo with `to_standard_module`. parts: the policy's layers, as in `LayerPasses`."""
        self._policy, self._passes = policy, LayerPasses(parts)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the policy's parameters."""
        return self._policy.parameters()

    def to_standard_module(self) -> nn.Module:
        """Return the policy without hooks."""
        self._passes.remove()
        return self._policy

    def backward(self, total: Tensor) -> None:
        """Make the one backward pass of a batch, as far as the layers' outputs: see `LayerPasses.backward`."""
        self._passes.backward(total)
