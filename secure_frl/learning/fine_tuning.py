"""A network fitted further to one hospital's own records, held to the shared parameters. Without noise: it stays there.

    minimise over v:  mean of a trajectory's loss at v  +  pull / 2 |v - w|^2      w: the shared parameters

Only the named parameters move. Source: Li et al. 2021, Ditto: Fair and Robust Federated Learning Through
Personalization, equation 2; with the head alone and no pull, Arivazhagan et al. 2019, Federated Learning with
Personalization Layers, section 3, fitted after the shared part and not beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import torch
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.policies import Policy
from secure_frl.learning.trajectories import Trajectories

BATCH = 256  # trajectories of a step, drawn evenly with the given seed

Losses = Callable[[Policy, Trajectories], torch.Tensor]  # one loss a trajectory, [B]


def fine_tuned(
    policy: Policy,
    losses: Losses,
    own: Trajectories,
    moving: Collection[str],
    *,
    steps: int,
    step_size: float,
    pull: float,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Return the moved parameters by name, after `steps` steps of Adam.

    policy: holds the shared parameters, and is left with the moved ones. own: at least one trajectory.
    Raises InvalidParameter without trajectories, or for a parameter that the policy does not have.
    """
    named = dict(policy.named_parameters())
    if not own.count or not set(moving) <= set(named):
        raise InvalidParameter(
            f"expected own trajectories and parameters of {sorted(named)}, got {own.count} and {sorted(moving)}. "
            "Personalise with records, and the names of the policy's form."
        )
    parameters = [named[name] for name in moving]
    shared = [parameter.detach().clone() for parameter in parameters]
    optimiser = torch.optim.Adam(parameters, lr=step_size)
    generator = np.random.default_rng(seed)
    policy.train()
    for _ in range(steps):
        drawn = generator.integers(0, own.count, size=min(BATCH, own.count))
        loss = losses(policy, own.select(np.asarray(drawn, dtype=np.int64))).mean()
        for parameter, anchor in zip(parameters, shared, strict=True):
            loss = loss + 0.5 * pull * ((parameter - anchor) ** 2).sum()
        policy.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
    policy.zero_grad(set_to_none=True)
    return {name: named[name].detach().numpy().astype(np.float64).copy() for name in moving}
