"""A small made-up world that tests of objectives share: six states, three actions, some of them allowed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from secure_frl.learning.networks import Network
from secure_frl.learning.policies import NetworkPolicy, Policy, TablePolicy
from secure_frl.learning.trajectories import Trajectories

STATES, ACTIONS = 6, 3
ADMISSIBLE = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 0], [1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=np.bool_)


def table_of(values: NDArray[np.float64], admissible: NDArray[np.bool_] = ADMISSIBLE) -> TablePolicy:
    """Return a policy whose Q values are a table, float64 [STATES, ACTIONS]."""
    policy = TablePolicy(admissible, "none")
    policy.load({"logits.weight": values})
    return policy


def random_policy(kind: str, seed: int) -> Policy:
    """Return a policy of some Q values: a table or a network."""
    torch.manual_seed(seed)
    if kind == "table":
        return table_of(torch.randn(STATES, ACTIONS, dtype=torch.float64).numpy())
    policy = NetworkPolicy(Network(kind, (4, 5), STATES, ACTIONS), ADMISSIBLE, "none")
    for weight in policy.parameters():
        torch.nn.init.normal_(weight)
    return policy


def episodes(count: int = 7, length: int = 5) -> Trajectories:
    """Return made-up episodes of 1 to `length` steps with allowed actions only; some ended, some were cut."""
    random = np.random.default_rng(4)
    states = random.integers(0, STATES, (count, length))
    actions = np.array([[random.choice(np.flatnonzero(ADMISSIBLE[state])) for state in row] for row in states])
    return Trajectories(
        observations=states,
        actions=actions,
        allowed=None,
        rewards=random.normal(size=(count, length)).astype(np.float32),
        log_behaviour=None,
        steps=np.arange(length)[None, :] < random.integers(1, length + 1, count)[:, None],
        terminated=np.arange(count) % 2 == 0,
        final_observations=random.integers(0, STATES, count),
        persons=np.arange(count, dtype=np.uint64),
    )
