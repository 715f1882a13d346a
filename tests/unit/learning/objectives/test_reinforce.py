"""Targets against known values, losses against a formula written without autograd, and isolation of trajectories."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions
from secure_frl.learning.environments.icu_sepsis_features import IcuSepsisFeatures
from secure_frl.learning.forms import PolicyForm
from secure_frl.learning.objectives.reinforce import CRITIC, Reinforce
from secure_frl.learning.policies import Policy, TablePolicy, build_policy
from secure_frl.learning.rollout import roll_out, roll_out_table
from secure_frl.learning.tabular import action_probabilities
from secure_frl.learning.trajectories import Trajectories

pytestmark = pytest.mark.slow

NO_POLICY = None  # targets do not look at it


def _episode(
    rewards: list[float], values: list[float], final: float, *, terminated: bool, pad: int = 2
) -> tuple[Trajectories, dict[str, Any]]:
    """Return one episode that visits states 0, 1, 2 ... and ends in the state after the last, with its critic."""
    length = len(rewards)
    observations = np.zeros((1, length + pad), dtype=np.int64)
    observations[0, :length] = np.arange(length)
    padded = np.full((1, length + pad), 77.0, dtype=np.float32)  # padding that would be noticed
    padded[0, :length] = rewards
    episode = Trajectories(
        observations=observations,
        actions=np.zeros((1, length + pad), dtype=np.int64),
        allowed=None,
        rewards=padded,
        log_behaviour=None,
        steps=(np.arange(length + pad) < length)[None, :],
        terminated=np.array([terminated]),
        final_observations=np.array([length], dtype=np.int64),
        persons=np.zeros(1, dtype=np.uint64),
    )
    return episode, {CRITIC: np.array([*values, final])}


def test_an_episode_that_terminated_is_worth_its_rewards() -> None:
    """A chain 0 -> 1 -> end that pays 1 at the end: with discount .5 its values are .5 and 1, residuals 0."""
    episode, public = _episode([0.0, 1.0], [0.5, 1.0], final=9.0, terminated=True)

    targets = Reinforce(0.5, 1.0, "none").targets(NO_POLICY, public, episode)

    assert targets["residuals"].tolist() == [[0.0, 0.0, 0.0, 0.0]]
    assert targets["advantages"].tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_an_episode_that_was_cut_is_worth_its_rewards_and_the_rest() -> None:
    """An endless loop that pays 1 a step: with discount .5 its value is 2 in every state, also where it was cut."""
    episode, public = _episode([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], final=2.0, terminated=False)

    cut = Reinforce(0.5, 0.7, "none").targets(NO_POLICY, public, episode)

    assert cut["residuals"].tolist() == [[0.0] * 5]
    assert cut["advantages"].tolist() == [[0.0] * 5]
    # Control: taken for an ending, the same three steps are worth 1.75, 1.5 and 1 instead of 2.
    ended, _ = _episode([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], final=2.0, terminated=True)
    wrong = Reinforce(0.5, 0.7, "none").targets(NO_POLICY, public, ended)
    assert wrong["residuals"].tolist() == [[-0.25, -0.5, -1.0, 0.0, 0.0]]


def test_advantages_are_the_discounted_sum_of_temporal_differences() -> None:
    """Schulman et al. 2016, equation 16, by hand: gamma .9, lambda .5, deltas -.1, .17 and 1.6."""
    episode, public = _episode([0.0, 0.25, 2.0], [1.0, 1.0, 0.4], final=5.0, terminated=True, pad=0)
    deltas = [0.9 * 1.0 - 1.0, 0.25 + 0.9 * 0.4 - 1.0, 2.0 - 0.4]

    found = Reinforce(0.9, 0.5, "none").targets(NO_POLICY, public, episode)["advantages"][0]

    assert found[2] == pytest.approx(deltas[2])
    assert found[1] == pytest.approx(deltas[1] + 0.45 * deltas[2])
    assert found[0] == pytest.approx(deltas[0] + 0.45 * deltas[1] + 0.45**2 * deltas[2])


def _learned_policy(seed: int) -> TablePolicy:
    policy = TablePolicy(admissible_actions(), "private")
    with torch.no_grad():
        policy.logits.weight.copy_(torch.from_numpy(np.random.default_rng(seed).normal(size=(716, 25))))
    return policy


def _acting(policy: TablePolicy) -> NDArray[np.float64]:
    return action_probabilities(policy.logits.weight.detach().numpy(), admissible_actions())


def _batch(policy: TablePolicy, count: int, max_steps: int = 48) -> tuple[Trajectories, dict[str, Any]]:
    public = {CRITIC: np.r_[np.random.default_rng(2).uniform(0.3, 0.95, 713), np.zeros(3)]}
    persons = np.arange(count, dtype=np.uint64)
    environment = IcuSepsis(count, max_steps)
    return roll_out_table(_acting(policy), environment, np.random.default_rng(3), persons), public


def _gradients(policy: TablePolicy, batch: Trajectories, public: dict[str, Any], index: int) -> list[torch.Tensor]:
    """Return one trajectory's gradients, computed by autograd with the whole batch beside it."""
    objective = Reinforce(1.0, 0.5, "private")
    losses = objective.losses(policy, batch, objective.targets(policy, public, batch))
    assert losses.shape == (batch.count,)
    return list(torch.autograd.grad(losses[index], list(policy.parameters())))


def test_gradients_equal_the_policy_gradient_written_by_hand() -> None:
    """Sum of (1[a] - pi(s)) A a step, the residual sum and .1 a visit: no autograd, episodes cut at 8 included."""
    policy = _learned_policy(1)
    batch, public = _batch(policy, 20, max_steps=8)
    assert 0 < batch.terminated.sum() < 20
    probabilities, values = _acting(policy), public[CRITIC]

    for index in range(20):
        logits, residual, visits = np.zeros((716, 25)), np.zeros(716), np.zeros(716)
        length = int(batch.lengths[index])
        states = [*batch.observations[index, :length].tolist(), int(batch.final_observations[index])]
        beyond = 0.0 if batch.terminated[index] else values[states[-1]]
        after = [*values[states[1:-1]], beyond]
        deltas = [float(batch.rewards[index, t]) + after[t] - values[states[t]] for t in range(length)]
        for t in range(length):
            advantage = sum(0.5**k * delta for k, delta in enumerate(deltas[t:]))
            indicator = np.eye(25)[batch.actions[index, t]]
            logits[states[t]] += advantage * (indicator - probabilities[states[t]])
            residual[states[t]] += float(batch.rewards[index, t:length].sum()) + beyond - values[states[t]]
            visits[states[t]] += 0.1

        found = [-gradient.numpy() for gradient in _gradients(policy, batch, public, index)]

        assert np.abs(found[0] - logits).max() < 1e-13
        assert np.abs(found[1][:, 0] - residual).max() < 1e-13
        assert np.abs(found[2][:, 0] - visits).max() < 1e-13


def test_inadmissible_actions_get_no_gradient() -> None:
    policy = _learned_policy(1)
    batch, public = _batch(policy, 50)

    for index in range(50):
        assert not _gradients(policy, batch, public, index)[0][~torch.from_numpy(admissible_actions().copy())].any()


def test_another_trajectory_changes_no_bit_of_a_gradient() -> None:
    policy = _learned_policy(4)
    batch, public = _batch(policy, 30)
    mine = _gradients(policy, batch, public, 7)
    rewards, actions = batch.rewards.copy(), batch.actions.copy()
    others = np.arange(30) != 7
    rewards[others] = 1e6
    actions[others] = actions[others][::-1]
    fields = {name: getattr(batch, name) for name in Trajectories.__slots__}

    perturbed = _gradients(policy, Trajectories(**{**fields, "rewards": rewards, "actions": actions}), public, 7)
    alone = _gradients(policy, batch.select(np.array([7])), public, 0)
    without_first = _gradients(policy, batch.select(np.arange(1, 30)), public, 6)

    for changed in (perturbed, alone, without_first):
        assert all(torch.equal(one, two) for one, two in zip(mine, changed, strict=True))


def test_the_isolation_test_sees_advantages_normalised_over_the_batch() -> None:
    """Control: the common trick of policy gradients couples people, and the comparison above notices."""
    policy = _learned_policy(4)
    batch, public = _batch(policy, 30)
    objective = Reinforce(1.0, 0.5, "private")

    def normalised(episodes: Trajectories, index: int) -> torch.Tensor:
        targets = dict(objective.targets(policy, public, episodes))
        targets["advantages"] = targets["advantages"] / targets["advantages"].std()
        losses = objective.losses(policy, episodes, targets)
        return torch.autograd.grad(losses[index], [policy.logits.weight])[0]

    assert not torch.equal(normalised(batch, 7), normalised(batch.select(np.array([7])), 0))


def test_padding_that_holds_garbage_changes_nothing() -> None:
    policy = _learned_policy(5)
    batch, public = _batch(policy, 10)
    fields = {name: getattr(batch, name) for name in Trajectories.__slots__}
    fields["rewards"] = np.where(batch.steps, batch.rewards, np.float32(np.nan))
    fields["observations"] = np.where(batch.steps, batch.observations, 10**9)
    fields["actions"] = np.where(batch.steps, batch.actions, -5)

    for index in range(10):
        clean = _gradients(policy, batch, public, index)
        dirty = _gradients(policy, Trajectories(**fields), public, index)
        assert all(torch.equal(one, two) for one, two in zip(clean, dirty, strict=True))


@pytest.mark.parametrize(
    ("discount", "gae_lambda", "critic"), [(0.0, 0.5, "none"), (1.1, 0.5, "none"), (1.0, -0.1, "none"), (1.0, 0.5, "x")]
)
def test_settings_out_of_range_are_refused(discount: float, gae_lambda: float, critic: str) -> None:
    with pytest.raises(InvalidParameter):
        Reinforce(discount, gae_lambda, critic)


def _feature_form(kind: str = "mlp", hidden: tuple[int, ...] = (6, 5)) -> PolicyForm:
    return PolicyForm(kind, hidden, None, 0, "network", features=47, actions=25, critic_start=0.4, seed=2)


def _feature_batch(form: PolicyForm, count: int = 12, max_steps: int = 7) -> tuple[Policy, Trajectories]:
    parameters = form.first_vector() + 0.3 * np.random.default_rng(0).normal(size=form.first_vector().size)
    policy = build_policy(form)
    policy.load(form.arrays(parameters))
    environment, persons = IcuSepsisFeatures(count, max_steps), np.arange(count, dtype=np.uint64)
    return policy, roll_out(form.acting(parameters), environment, np.random.default_rng(3), persons)


@pytest.mark.parametrize(("kind", "hidden"), [("mlp", (6, 5)), ("gru", (6, 5))])
def test_a_value_network_is_bootstrapped_where_an_episode_was_cut_and_nowhere_else(
    kind: str, hidden: tuple[int, ...]
) -> None:
    """Outcomes by hand, from values of each episode read alone at its own length with its final observation."""
    policy, batch = _feature_batch(_feature_form(kind, hidden))
    assert 0 < batch.terminated.sum() < batch.count

    found = Reinforce(0.9, 0.0, "network").targets(policy, {}, batch)

    for row, length in enumerate(batch.lengths.tolist()):
        seen = np.concatenate([batch.observations[row, :length], batch.final_observations[row][None]])[None]
        values = policy.value_of(torch.from_numpy(seen))[0].detach().numpy()
        outcome = 0.0 if batch.terminated[row] else float(values[-1])
        after = outcome
        for t in range(length - 1, -1, -1):
            outcome = float(batch.rewards[row, t]) + 0.9 * outcome
            assert found["outcomes"][row, t] == pytest.approx(outcome, abs=1e-12)
            advantage = float(batch.rewards[row, t]) + 0.9 * after - values[t]
            assert found["advantages"][row, t] == pytest.approx(advantage, abs=1e-12)
            after = values[t]
    assert not found["outcomes"][~batch.steps].any()


def test_a_value_networks_error_is_a_term_of_its_own_trajectorys_loss() -> None:
    policy, batch = _feature_batch(_feature_form())
    light, heavy = (Reinforce(1.0, 0.2, "network", weight) for weight in (0.5, 2.0))
    targets = light.targets(policy, {}, batch)
    values = policy.value_of(torch.from_numpy(batch.observations)).detach().numpy()
    errors = (0.5 * (values - targets["outcomes"]) ** 2 * batch.steps).sum(axis=1)

    added = (heavy.losses(policy, batch, targets) - light.losses(policy, batch, targets)).detach().numpy()

    assert added == pytest.approx(1.5 * errors, abs=1e-12)
    assert errors.min() > 1e-4


def test_another_trajectory_changes_no_bit_of_a_gradient_through_a_value_network() -> None:
    policy, batch = _feature_batch(_feature_form())
    objective = Reinforce(1.0, 0.2, "network")

    def mine(seen: Trajectories) -> list[torch.Tensor]:
        losses = objective.losses(policy, seen, objective.targets(policy, {}, seen))
        return list(torch.autograd.grad(losses[7], list(policy.parameters())))

    others = (np.arange(batch.count) != 7)[:, None]
    changed = dataclasses.replace(
        batch,
        rewards=np.where(others, np.float32(1e6), batch.rewards),
        observations=np.where(others[..., None], -batch.observations, batch.observations),
        final_observations=np.where(others, np.float32(9), batch.final_observations),
    )

    assert all(torch.equal(one, other) for one, other in zip(mine(batch), mine(changed), strict=True))


def test_without_a_critic_every_vector_has_the_public_constant_value() -> None:
    _, batch = _feature_batch(_feature_form())

    found = Reinforce(1.0, 1.0, "none").targets(NO_POLICY, {CRITIC: np.array([0.4])}, batch)

    outcome = batch.rewards.sum(axis=1) + np.where(batch.terminated, 0.0, 0.4)
    assert found["advantages"][:, 0] == pytest.approx(outcome - 0.4, abs=1e-7)
