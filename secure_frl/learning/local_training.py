"""How a hospital trains on its own records between two rounds, when its whole move is what is protected.

Whatever happens in here, the move that leaves is clipped as one vector; so minibatches, several passes, Adam and
advantages normalised over a batch are the hospital's own business. It knows no clip of a message, noise, key or site.

Sources: McMahan et al. 2017, Algorithm 1 (ClientUpdate); Li et al. 2020, Federated Optimization in Heterogeneous
Networks, equation 2 (proximal term); Schulman et al. 2017, section 5 (passes in minibatches); Mnih et al. 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secure_frl.learning.objective import Objective
from secure_frl.learning.replay import Replay
from secure_frl.learning.trajectories import Trajectories

ADVANTAGES = "advantages"  # key of targets that are normalised over a minibatch
_TINY = 1e-8

Targets = Mapping[str, Any]  # arrays [B,T] by name
Batch = tuple[Trajectories, Targets]


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Charter constants of a hospital's own training."""

    optimiser: str  # sgd | adam, fresh in every round
    step_size: float  # of this round
    minibatch: int  # rows; 0: all of them at once
    max_gradient_norm: float  # L2 of a minibatch's gradient; 0: not cut
    proximal: float  # mu of FedProx


def moved_by(
    policy: nn.Module,
    losses: Callable[[Batch], torch.Tensor],
    batches: Iterator[Batch],
    names: Sequence[str],
    settings: LocalSettings,
) -> dict[str, NDArray[np.float64]]:
    """Take one step a batch on the mean loss, and return where the named parameters are then, by name.

    policy: holds the broadcast parameters at first, and is changed. losses: of a batch, a tensor [rows].
    A batch whose loss or gradient is not finite is passed over: it would end every following step.
    """
    known = dict(policy.named_parameters())
    trained = [known[name] for name in names]
    start = [parameter.detach().clone() for parameter in trained]
    kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.SGD
    optimiser = kind(trained, lr=settings.step_size)
    for batch in batches:
        found = torch.autograd.grad(losses(batch).mean(), trained)
        norm = torch.sqrt(sum((part.square().sum() for part in found), torch.zeros(())))
        if not torch.isfinite(norm):
            continue
        factor = 1.0
        if settings.max_gradient_norm:
            factor = min(1.0, settings.max_gradient_norm / (float(norm) + _TINY))
        for parameter, part, origin in zip(trained, found, start, strict=True):
            parameter.grad = part * factor
            if settings.proximal:
                parameter.grad.add_(parameter.detach() - origin, alpha=settings.proximal)
        optimiser.step()
    return {name: known[name].detach().to(torch.float64).numpy() for name in names}


def passes(
    seen: Trajectories,
    targets: Targets,
    generator: np.random.Generator,
    *,
    count: int,
    minibatch: int,
    whole_episodes: bool,
) -> Iterator[Batch]:
    """Yield the minibatches of `count` passes, each in an order of its own.

    A row is a step, with its targets; whole_episodes: a trajectory, for policies with a memory.
    """
    rows, aims = (seen, dict(targets)) if whole_episodes else flattened(seen, targets)
    size = minibatch or max(rows.count, 1)
    for _ in range(count):
        order = generator.permutation(rows.count)
        for start in range(0, rows.count, size):
            chosen = order[start : start + size]
            part = {name: values[chosen] for name, values in aims.items()}
            if ADVANTAGES in part and chosen.size > 1:
                part[ADVANTAGES] = _normalised(part[ADVANTAGES])
            yield rows.select(chosen), part


def draws(
    replay: Replay,
    objective: Objective,
    policy: nn.Module,
    public: Mapping[str, Any],
    generator: np.random.Generator,
    *,
    count: int,
    minibatch: int,
) -> Iterator[Batch]:
    """Yield `count` minibatches of remembered steps, with the targets under the policy as it is then."""
    for _ in range(count if replay.size else 0):
        rows = replay.draw(generator, minibatch)
        yield rows, objective.targets(policy, public, rows)


def flattened(seen: Trajectories, targets: Targets) -> tuple[Trajectories, dict[str, Any]]:
    """Return each step as a trajectory of one, in their order, with its own targets [steps, 1].

    What lies beyond a step is in its targets; the final observation of such a row is its own.
    """
    episodes, times = np.nonzero(seen.steps)
    own = seen.observations[episodes, times]
    rows = Trajectories(
        observations=own[:, None],
        actions=seen.actions[episodes, times][:, None],
        allowed=None if seen.allowed is None else seen.allowed[episodes, times][:, None],
        rewards=seen.rewards[episodes, times][:, None],
        log_behaviour=None if seen.log_behaviour is None else seen.log_behaviour[episodes, times][:, None],
        steps=np.ones((episodes.size, 1), dtype=np.bool_),
        terminated=np.zeros(episodes.size, dtype=np.bool_),
        final_observations=own,
        persons=seen.persons[episodes],
    )
    return rows, {name: values[episodes, times][:, None] for name, values in targets.items()}


def _normalised(advantages: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((advantages - advantages.mean()) / (advantages.std() + _TINY), dtype=np.float64)
