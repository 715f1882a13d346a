"""Hooks on a policy for as long as per-unit gradients are taken, and the one total that a backward pass starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from torch import Tensor, nn

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import Segment
from secure_frl.learning.trajectories import Trajectories

Losses = Callable[[nn.Module, Trajectories], Tensor]  # one loss a trajectory, [B]; coupled by nothing


class Hooked(Protocol):
    """A policy with hooks on it, as each engine of per-unit gradients has one."""

    def to_standard_module(self) -> object:
        """Return the policy without hooks."""
        ...


_Engine = TypeVar("_Engine", bound=Hooked)


@contextmanager
def hooked(
    policy: nn.Module, segments: Sequence[Segment], engine: Callable[[nn.Module, Sequence[Segment]], _Engine]
) -> Iterator[_Engine]:
    """Put an engine's hooks on a policy in training mode, without which they record nothing; leave it as it was."""
    was_training = policy.training
    policy.train()
    wrapped = engine(policy, segments)
    try:
        yield wrapped
    finally:
        wrapped.to_standard_module()
        policy.zero_grad(set_to_none=True)
        policy.train(was_training)


def total_loss(losses: Losses, policy: nn.Module, batch: Trajectories) -> Tensor:
    """Return the losses of a batch, added up. Raises InvalidParameter unless there is one a trajectory."""
    found = losses(policy, batch)
    if found.shape != (batch.count,):
        raise InvalidParameter(
            f"expected one loss a trajectory, shape ({batch.count},), got {tuple(found.shape)}. "
            "Sum over steps and divide by a charter constant, never by the number of people or steps."
        )
    return found.sum()
