"""Behaviour cloning: the likelihood of the logged actions over a constant, and nobody else's trajectory in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions
from secure_frl.learning.objectives.behaviour_cloning import BehaviourCloning
from secure_frl.learning.policies import TablePolicy
from secure_frl.learning.rollout import roll_out_table
from secure_frl.learning.tabular import action_probabilities
from secure_frl.learning.trajectories import Trajectories

pytestmark = pytest.mark.slow


def _logged(count: int = 6) -> Trajectories:
    admissible = admissible_actions().astype(np.float64)
    uniform = admissible / admissible.sum(axis=1, keepdims=True)
    return roll_out_table(uniform, IcuSepsis(count, 12), np.random.default_rng(3), np.arange(count, dtype=np.uint64))


def _policy() -> TablePolicy:
    policy = TablePolicy(admissible_actions(), "none")
    torch.manual_seed(0)
    torch.nn.init.normal_(policy.logits.weight)
    return policy


def test_a_loss_is_minus_the_log_likelihood_over_the_longest_length() -> None:
    batch, policy = _logged(), _policy()
    probabilities = action_probabilities(policy.logits.weight.detach().numpy(), admissible_actions())

    losses = BehaviourCloning(12).losses(policy, batch, BehaviourCloning(12).targets(policy, {}, batch))

    for episode in range(batch.count):
        steps = range(int(batch.lengths[episode]))
        taken = [probabilities[batch.observations[episode, t], batch.actions[episode, t]] for t in steps]
        assert losses[episode].item() == pytest.approx(-np.log(taken).sum() / 12)


def test_another_trajectory_changes_no_bit_of_a_gradient() -> None:
    batch, policy = _logged(), _policy()

    def first_gradient(others: list[int]) -> torch.Tensor:
        losses = BehaviourCloning(12).losses(policy, batch.select(np.array([0, *others])), {})
        (gradient,) = torch.autograd.grad(losses[0], policy.logits.weight)
        return gradient

    alone = first_gradient([])
    assert alone.abs().sum() > 0
    assert torch.equal(alone, first_gradient([1, 2, 3]))
    assert torch.equal(alone, first_gradient([5, 5, 5]))


def test_a_length_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="max_steps"):
        BehaviourCloning(0)
