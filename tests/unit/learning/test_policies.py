"""The table policy acts as its arrays say, and stays a module whose gradients can be separated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from opacus import GradSampleModule

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import LIVE_STATES, IcuSepsis, admissible_actions
from secure_frl.learning.objectives.reinforce import CRITIC, Reinforce
from secure_frl.learning.policies import TablePolicy, table_policy
from secure_frl.learning.rollout import roll_out_table

pytestmark = pytest.mark.slow

SMALL = np.array([[True, True, False], [False, True, False], [True, True, True]])


def test_a_new_policy_is_uniform_over_admissible_actions() -> None:
    found = TablePolicy(SMALL, "none").action_probabilities()

    assert found == pytest.approx(np.array([[0.5, 0.5, 0], [0, 1, 0], [1 / 3, 1 / 3, 1 / 3]]))


def test_forward_and_the_table_agree() -> None:
    policy, layout = table_policy(admissible_actions(), LIVE_STATES, "private")
    policy.load_free(np.random.default_rng(0).normal(size=2001), layout)

    log_probabilities, _, _ = policy(torch.arange(716)[None, :])

    assert np.abs(log_probabilities[0].exp().detach().numpy() - policy.action_probabilities()).max() < 1e-15


def test_free_logits_arrive_in_the_order_of_the_layout() -> None:
    policy, layout = table_policy(SMALL, 3, "none")

    policy.load_free(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), layout)

    assert policy.logits.weight.tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5]]


def test_critic_tables_carry_gradients_and_no_values() -> None:
    policy = TablePolicy(SMALL, "private")

    _, residual, visits = policy(torch.tensor([[0, 2]]))

    assert residual is not None
    assert visits is not None
    assert not residual.any()
    assert not visits.any()
    assert {name for name, _ in policy.named_parameters()} == {"logits.weight", "residual.weight", "visits.weight"}
    assert {name for name, _ in TablePolicy(SMALL, "none").named_parameters()} == {"logits.weight"}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_per_trajectory_gradients_through_hooks_equal_autograd() -> None:
    policy, layout = table_policy(admissible_actions(), LIVE_STATES, "private")
    policy.load_free(np.random.default_rng(1).normal(size=2001), layout)
    persons = np.arange(12, dtype=np.uint64)
    batch = roll_out_table(policy.action_probabilities(), IcuSepsis(12), np.random.default_rng(2), persons)
    objective = Reinforce(1.0, 0.2, "private")
    targets = objective.targets(policy, {CRITIC: np.r_[np.full(713, 0.78), np.zeros(3)]}, batch)
    expected = [
        torch.autograd.grad(objective.losses(policy, batch, targets)[index], list(policy.parameters()))
        for index in range(12)
    ]

    hooked = GradSampleModule(policy, loss_reduction="sum")
    objective.losses(hooked, batch, targets).sum().backward()

    for position, parameter in enumerate(policy.parameters()):
        one_by_one = torch.stack([gradients[position] for gradients in expected])
        assert (parameter.grad_sample - one_by_one).abs().max() < 1e-15


def test_an_unknown_critic_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="private or none"):
        TablePolicy(SMALL, "shared")
