"""The conservative part: its gradient by hand, over allowed actions only, and nobody else's trajectory in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_world import ADMISSIBLE, STATES, episodes, random_policy

from secure_frl.errors import InvalidParameter
from secure_frl.learning.objectives.cql import ConservativeQ
from secure_frl.learning.objectives.dqn import TARGET, DoubleQ
from secure_frl.learning.trajectories import Trajectories

pytestmark = pytest.mark.slow

Q = DoubleQ(0.9, "squared", 5)


def test_without_a_conservative_part_it_is_double_q_learning() -> None:
    policy, batch = random_policy("table", 1), episodes()
    targets = Q.targets(policy, {TARGET: policy}, batch)

    assert torch.equal(ConservativeQ(Q, 0.0).losses(policy, batch, targets), Q.losses(policy, batch, targets))


def test_the_conservative_part_pulls_towards_the_actions_taken() -> None:
    """Kumar et al. 2020, equation 4: the gradient a step is alpha times (softmax over allowed actions - action)."""
    policy, batch = random_policy("table", 1), episodes()
    values = policy.logits.weight.detach().numpy()
    weights = np.where(ADMISSIBLE, np.exp(values), 0.0)
    softmax = weights / weights.sum(axis=1, keepdims=True)
    nothing = {"aims": np.zeros(batch.steps.shape), "counted": np.zeros(batch.steps.shape, dtype=np.bool_)}

    losses = ConservativeQ(Q, 0.7).losses(policy, batch, nothing)

    for episode in range(batch.count):
        (found,) = torch.autograd.grad(losses[episode], [policy.logits.weight], retain_graph=True)
        expected = np.zeros_like(values)
        for t in range(int(batch.lengths[episode])):
            state, action = batch.observations[episode, t], batch.actions[episode, t]
            expected[state] += 0.7 * softmax[state] / 5
            expected[state, action] -= 0.7 / 5
        assert np.abs(expected).sum() > 0
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-15)
        assert (found.numpy()[~ADMISSIBLE] == 0).all()


def test_masks_of_the_trajectory_come_before_the_public_table() -> None:
    policy, batch = random_policy("table", 1), episodes()
    only_taken = np.zeros((*batch.steps.shape, 3), dtype=np.bool_)
    np.put_along_axis(only_taken, batch.actions[..., None], True, axis=2)
    nothing = {"aims": np.zeros(batch.steps.shape), "counted": np.zeros(batch.steps.shape, dtype=np.bool_)}

    found = ConservativeQ(Q, 1.0).losses(policy, replace(batch, allowed=only_taken), nothing)

    np.testing.assert_allclose(found.detach().numpy(), 0.0, atol=1e-12)


@pytest.mark.parametrize("kind", ["table", "mlp", "lstm"])
def test_another_trajectory_changes_no_bit_of_a_gradient(kind: str) -> None:
    policy, broadcast, batch = random_policy(kind, 1), random_policy(kind, 2), episodes()
    objective = ConservativeQ(Q, 0.5)
    first = np.arange(batch.count)[:, None] == 0
    changed = replace(
        batch,
        rewards=np.where(first, batch.rewards, 9.0).astype(np.float32),
        observations=np.where(first, batch.observations, (batch.observations + 1) % STATES),
    )

    def first_gradients(batch: Trajectories) -> list[torch.Tensor]:
        loss = objective.losses(policy, batch, objective.targets(policy, {TARGET: broadcast}, batch))[0]
        return list(torch.autograd.grad(loss, list(policy.parameters())))

    for found, expected in zip(first_gradients(changed), first_gradients(batch), strict=True):
        assert torch.equal(found, expected)


def test_a_weight_that_is_none_is_refused() -> None:
    for alpha in (-0.1, float("inf"), float("nan")):
        with pytest.raises(InvalidParameter, match="conservatism"):
            ConservativeQ(Q, alpha)
