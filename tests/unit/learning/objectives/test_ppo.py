"""The clipped surrogate: REINFORCE at first, no pull beyond the clip, and nobody else's trajectory in a loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions
from secure_frl.learning.objectives.ppo import ProximalPolicy
from secure_frl.learning.objectives.reinforce import CRITIC, Reinforce
from secure_frl.learning.policies import TablePolicy
from secure_frl.learning.rollout import roll_out_table
from secure_frl.learning.tabular import action_probabilities
from secure_frl.learning.trajectories import Trajectories

pytestmark = pytest.mark.slow

REINFORCE = Reinforce(1.0, 0.3, "private")
PPO = ProximalPolicy(REINFORCE, 0.2)
PUBLIC = {CRITIC: np.where(np.arange(716) < 713, 0.7, 0.0)}


def _policy(spread: float) -> TablePolicy:
    policy = TablePolicy(admissible_actions(), "private")
    torch.manual_seed(1)
    torch.nn.init.normal_(policy.logits.weight, std=spread)
    return policy


def _window(policy: TablePolicy) -> Trajectories:
    names = np.arange(8, dtype=np.uint64)
    probabilities = action_probabilities(policy.logits.weight.detach().numpy(), admissible_actions())
    return roll_out_table(probabilities, IcuSepsis(8, 12), np.random.default_rng(5), names)


def _gradients(objective: Any, policy: TablePolicy, batch: Trajectories) -> list[torch.Tensor]:
    losses = objective.losses(policy, batch, objective.targets(policy, PUBLIC, batch))
    return list(torch.autograd.grad(losses.sum(), list(policy.parameters())))


def test_where_the_episodes_were_collected_it_is_reinforce() -> None:
    policy = _policy(1.0)
    batch = _window(policy)

    for found, expected in zip(_gradients(PPO, policy, batch), _gradients(REINFORCE, policy, batch), strict=True):
        assert expected.abs().sum() > 0
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # log_behaviour is float32


def test_beyond_the_clip_a_step_pulls_no_further_but_may_come_back() -> None:
    """Schulman et al. 2017, figure 1: with A > 0 the surrogate is flat above 1.2, with A < 0 below .8."""
    policy = _policy(1.0)
    batch = _window(policy)
    taken = np.zeros((batch.count, batch.steps.shape[1]))

    def pull(ratio: float, advantage: float) -> float:
        shifted = replace(batch, log_behaviour=(batch.log_behaviour - np.log(ratio)).astype(np.float32))
        targets = {**PPO.targets(policy, PUBLIC, shifted), "advantages": taken + advantage, "residuals": taken}
        (gradient,) = torch.autograd.grad(PPO.losses(policy, shifted, targets).sum(), [policy.logits.weight])
        return float(gradient.abs().sum())

    assert pull(1.3, 1.0) == 0
    assert pull(0.7, -1.0) == 0
    assert pull(1.3, -1.0) > 0
    assert pull(0.7, 1.0) > 0
    assert pull(1.1, 1.0) > 0


def test_each_step_gains_the_entropy_of_its_actions() -> None:
    """Of a uniform policy it is the logarithm of how many actions a state admits."""
    policy = _policy(0.0)
    batch = _window(policy)
    targets = PPO.targets(policy, PUBLIC, batch)

    gained = PPO.losses(policy, batch, targets) - replace(PPO, entropy_weight=0.5).losses(policy, batch, targets)

    admitted = admissible_actions().sum(axis=1)[np.where(batch.steps, batch.observations, 0)]
    expected = 0.5 * (np.log(admitted) * batch.steps).sum(axis=1)
    assert gained.detach().numpy() == pytest.approx(expected, rel=1e-5)
    assert expected.max() > 0


@pytest.mark.parametrize("entropy_weight", [0.0, 0.3])
def test_another_trajectory_changes_no_bit_of_a_gradient(entropy_weight: float) -> None:
    policy, ppo = _policy(1.0), replace(PPO, entropy_weight=entropy_weight)
    batch = _window(policy)
    policy.logits.weight.data += 0.1 * torch.sin(torch.arange(716 * 25).reshape(716, 25))  # a later epoch

    def first_gradient(others: list[int]) -> torch.Tensor:
        chosen = batch.select(np.array([0, *others]))
        losses = ppo.losses(policy, chosen, ppo.targets(policy, PUBLIC, chosen))
        (gradient,) = torch.autograd.grad(losses[0], [policy.logits.weight])
        return gradient

    assert torch.equal(first_gradient([]), first_gradient([1, 2, 3]))
    assert torch.equal(first_gradient([]), first_gradient([7, 7]))


def test_padding_of_any_value_adds_nothing() -> None:
    policy = _policy(1.0)
    batch = _window(policy)
    garbage = np.where(batch.steps, batch.log_behaviour, np.nan).astype(np.float32)

    for found, expected in zip(
        _gradients(PPO, policy, replace(batch, log_behaviour=garbage)), _gradients(PPO, policy, batch), strict=True
    ):
        assert torch.equal(found, expected)


def test_episodes_of_unknown_behaviour_and_clips_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="log_behaviour"):
        PPO.targets(None, PUBLIC, replace(_window(_policy(0.0)), log_behaviour=None))
    for clip_ratio in (0.0, 1.0, float("nan")):
        with pytest.raises(InvalidParameter, match="clip_ratio"):
            ProximalPolicy(REINFORCE, clip_ratio)
    for entropy_weight in (-0.1, float("inf"), float("nan")):
        with pytest.raises(InvalidParameter, match="entropy_weight"):
            ProximalPolicy(REINFORCE, 0.2, entropy_weight)
