"""Double Q-learning: known values of endings and cuts, errors written without autograd, masks, and isolation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_world import ACTIONS, ADMISSIBLE, STATES, episodes, random_policy, table_of

from secure_frl.errors import InvalidParameter
from secure_frl.learning.objectives.dqn import TARGET, DoubleQ
from secure_frl.learning.trajectories import Trajectories

pytestmark = pytest.mark.slow


def _path(length: int, *, terminated: bool) -> Trajectories:
    """Return one episode through states 0, 1, 2 ... that always acts 1 and is paid at its last step; two steps pad."""
    rewards = np.full((1, length + 2), 77.0, dtype=np.float32)  # padding that would be noticed
    rewards[0, :length] = np.arange(1, length + 1) == length
    return Trajectories(
        observations=np.r_[np.arange(length), 5, 5][None, :],
        actions=np.ones((1, length + 2), dtype=np.int64),
        allowed=None,
        rewards=rewards,
        log_behaviour=None,
        steps=(np.arange(length + 2) < length)[None, :],
        terminated=np.array([terminated]),
        final_observations=np.array([length], dtype=np.int64),
        persons=np.zeros(1, dtype=np.uint64),
    )


@pytest.mark.parametrize("ahead", [1, 2, 9])
def test_an_episode_that_terminated_is_worth_its_rewards(ahead: int) -> None:
    """A chain 0 -> 1 -> end that pays 1 at the end: with discount .5 its values are .5 and 1, whatever lies behind."""
    true = np.zeros((STATES, ACTIONS))
    true[:3] = [[0.5], [1.0], [9.0]]
    policy, episode = table_of(true), _path(2, terminated=True)

    objective = DoubleQ(0.5, "squared", 4, ahead)
    targets = objective.targets(policy, {TARGET: policy}, episode)

    assert targets["aims"].tolist() == [[0.5, 1.0, 0.0, 0.0]]
    assert objective.losses(policy, episode, targets).item() == 0


@pytest.mark.parametrize("ahead", [1, 2, 9])
def test_an_episode_that_was_cut_is_worth_its_rewards_and_the_rest(ahead: int) -> None:
    """An endless loop that pays 1 a step: with discount .5 its value is 2 everywhere, also where it was cut."""
    policy = table_of(np.full((STATES, ACTIONS), 2.0))
    episode = replace(_path(3, terminated=False), rewards=np.ones((1, 5), dtype=np.float32))

    objective = DoubleQ(0.5, "squared", 4, ahead)
    targets = objective.targets(policy, {TARGET: policy}, episode)

    assert targets["aims"].tolist() == [[2.0, 2.0, 2.0, 0.0, 0.0]]
    assert objective.losses(policy, episode, targets).item() == 0
    # Control: taken for an ending, the last step is worth 1.
    ended = replace(episode, terminated=np.array([True]))
    assert objective.targets(policy, {TARGET: policy}, ended)["aims"][0, 2] == 1.0


def test_the_policy_chooses_the_following_action_and_the_broadcast_one_values_it() -> None:
    """van Hasselt et al. 2016, equation 4: the argmax of one network, the value of the other."""
    online, broadcast = np.zeros((STATES, ACTIONS)), np.zeros((STATES, ACTIONS))
    online[1], broadcast[1] = [0.0, 3.0, 1.0], [10.0, 20.0, 40.0]

    found = DoubleQ(0.5, "squared", 4).targets(
        table_of(online), {TARGET: table_of(broadcast)}, _path(2, terminated=True)
    )

    assert found["aims"][0, :2].tolist() == [0.5 * 20.0, 1.0]


def test_a_target_looks_so_many_steps_ahead_but_not_beyond_the_end() -> None:
    """By hand: gamma .5, V(1) = 4, V(2) = 8, V(3) = 16, reward 1 at the end of three steps."""
    values = np.zeros((STATES, ACTIONS))
    values[1], values[2], values[3] = 4.0, 8.0, 16.0
    policy, cut = table_of(values), _path(3, terminated=False)
    masks = np.ones((1, 5, ACTIONS), dtype=np.bool_)

    def aims(ahead: int, episode: Trajectories) -> list[float]:
        found = DoubleQ(0.5, "squared", 4, ahead).targets(policy, {TARGET: policy}, episode)["aims"][0, :3]
        return [float(aim) for aim in found]

    assert aims(1, cut) == [2.0, 4.0, 9.0]
    assert aims(2, cut) == [2.0, 4.5, 9.0]  # 0 + .5 (0 + .5 V(2)), 0 + .5 (1 + .5 V(3)), 1 + .5 V(3)
    assert aims(3, cut) == aims(9, cut) == [2.25, 4.5, 9.0]
    assert aims(9, replace(cut, terminated=np.array([True]))) == [0.25, 0.5, 1.0]
    # Where the final observation has no mask, the last observation that has one is the end.
    assert aims(9, replace(cut, allowed=masks)) == [2.0, 4.0, 0.0]


def test_an_action_that_is_not_allowed_is_worth_nothing() -> None:
    """State 2 allows action 1 only, state 1 all of them: by the public table, or by masks of the trajectory's own."""
    values = np.full((STATES, ACTIONS), 1.0)
    values[:, 2] = 50.0
    policy, objective = table_of(values), DoubleQ(1.0, "squared", 4)
    cut = _path(2, terminated=False)
    masks = np.ones((1, 4, ACTIONS), dtype=np.bool_)
    masks[0, 1, 2] = False

    by_table = objective.targets(policy, {TARGET: policy}, cut)
    by_masks = objective.targets(policy, {TARGET: policy}, replace(cut, allowed=masks))

    assert by_table["aims"][0, :2].tolist() == [50.0, 1.0 + 1.0]
    assert by_masks["aims"][0, 0] == 1.0
    final = objective.targets(policy, {TARGET: policy}, replace(cut, allowed=masks, final_allowed=masks[:, 1]))
    assert final["aims"][0, :2].tolist() == [1.0, 1.0 + 1.0]
    assert final["counted"].tolist() == [[True, True, False, False]]
    # Masks of single steps say nothing of the observation after the last one: that step does not count.
    assert by_masks["counted"].tolist() == [[True, False, False, False]]
    assert objective.targets(policy, {TARGET: policy}, replace(cut, allowed=masks, terminated=np.array([True])))[
        "counted"
    ].tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(("error", "slope"), [("squared", lambda e: e), ("huber", lambda e: np.clip(e, -1, 1))])
def test_a_gradient_is_the_sum_of_errors_of_a_pair(error: str, slope: Any) -> None:  # Any: a function of an array
    policy, broadcast, batch = random_policy("table", 1), random_policy("table", 2), episodes()
    objective = DoubleQ(0.9, error, 5)
    targets = objective.targets(policy, {TARGET: broadcast}, batch)

    for episode in range(batch.count):
        (found,) = torch.autograd.grad(objective.losses(policy, batch, targets)[episode], [policy.logits.weight])
        expected = np.zeros((STATES, ACTIONS))
        for t in range(int(batch.lengths[episode])):
            pair = batch.observations[episode, t], batch.actions[episode, t]
            expected[pair] += slope(policy.logits.weight.detach().numpy()[pair] - targets["aims"][episode, t]) / 5
        assert np.abs(expected).sum() > 0
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", ["mlp", "gru", "lstm"])
def test_a_memory_sees_the_steps_before_and_no_padding(kind: str) -> None:
    """Each value of a whole batch is what the policy says at the end of that episode's own beginning."""
    policy, broadcast, batch = random_policy(kind, 1), random_policy(kind, 2), episodes()
    aims = DoubleQ(0.9, "squared", 5).targets(policy, {TARGET: broadcast}, batch)["aims"]

    for episode in range(batch.count):
        length = int(batch.lengths[episode])
        seen = np.r_[batch.observations[episode, :length], batch.final_observations[episode]]
        for t in range(length):
            beginning = torch.from_numpy(seen[None, : t + 2])
            chosen = policy.logits_of(beginning)[0, -1].masked_fill(~torch.from_numpy(ADMISSIBLE[seen[t + 1]]), -1e9)
            value = broadcast.logits_of(beginning)[0, -1, int(chosen.argmax())].item()
            is_end = t + 1 == length and batch.terminated[episode]
            assert aims[episode, t] == pytest.approx(batch.rewards[episode, t] + (0 if is_end else 0.9 * value))


@pytest.mark.parametrize("kind", ["table", "mlp", "gru"])
def test_another_trajectory_changes_no_bit_of_a_gradient(kind: str) -> None:
    policy, broadcast, batch = random_policy(kind, 1), random_policy(kind, 2), episodes()
    objective = DoubleQ(0.9, "huber", 5, 2)
    changed = replace(batch, rewards=np.where(np.arange(7)[:, None] == 0, batch.rewards, 9.0).astype(np.float32))

    def first_gradients(batch: Trajectories) -> list[torch.Tensor]:
        loss = objective.losses(policy, batch, objective.targets(policy, {TARGET: broadcast}, batch))[0]
        return list(torch.autograd.grad(loss, list(policy.parameters())))

    alone = first_gradients(batch)
    assert sum(float(gradient.abs().sum()) for gradient in alone) > 0
    for other in (changed, replace(batch, actions=np.where(np.arange(7)[:, None] == 0, batch.actions, 1))):
        for found, expected in zip(first_gradients(other), alone, strict=True):
            assert torch.equal(found, expected)


def test_targets_are_made_without_gradients() -> None:
    """A forward pass with gradients would be a second one for the hooks that collect a unit's gradient."""
    policy = random_policy("mlp", 1)

    class Watched:
        allowed_at = policy.allowed_at

        def logits_of(self, observations: torch.Tensor) -> torch.Tensor:
            assert not torch.is_grad_enabled()
            return policy.logits_of(observations)

    DoubleQ(0.9, "huber", 5).targets(Watched(), {TARGET: Watched()}, episodes())


def test_padding_of_any_value_adds_nothing() -> None:
    policy, batch = random_policy("table", 1), episodes()
    objective = DoubleQ(0.9, "huber", 5, 3)
    garbage = replace(
        batch,
        rewards=np.where(batch.steps, batch.rewards, np.nan).astype(np.float32),
        observations=np.where(batch.steps, batch.observations, -7),
        actions=np.where(batch.steps, batch.actions, 99),
    )

    def losses(batch: Trajectories) -> torch.Tensor:
        return objective.losses(policy, batch, objective.targets(policy, {TARGET: policy}, batch))

    assert torch.equal(losses(garbage), losses(batch))


@pytest.mark.parametrize(
    "wrong", [(0.0, "huber", 5, 1), (1.1, "huber", 5, 1), (0.9, "l1", 5, 1), (0.9, "huber", 0, 1), (0.9, "huber", 5, 0)]
)
def test_numbers_that_make_no_objective_are_refused(wrong: tuple[float, str, int, int]) -> None:
    with pytest.raises(InvalidParameter, match="training"):
        DoubleQ(*wrong)
