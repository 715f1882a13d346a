"""PPO's steps with the gradient written out, against autograd and torch's optimisers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.networks import VALUE, Network, first_parameters, value_network
from secure_frl.learning.objectives.ppo import ProximalPolicy
from secure_frl.learning.objectives.reinforce import Reinforce
from secure_frl.learning.policies import NetworkPolicy
from secure_frl.learning.proximal_steps import ProximalSteps, Valued, is_offered, moved_by_ppo
from secure_frl.learning.trajectories import Trajectories

NETWORK = Network("mlp", (8, 6), 5, 4, embeds=False)
CRITIC = value_network(NETWORK)
OBJECTIVE = ProximalPolicy(Reinforce(0.9, 0.8, "network", 0.7), 0.2)
SETTINGS = ProximalSteps(0.2, 0.7, "adam", 0.02, 3, 16)

Parameters = dict[str, NDArray[np.float64]]


def parameters() -> Parameters:
    generator = np.random.default_rng(0)
    first = first_parameters(NETWORK, 1) | first_parameters(CRITIC, 1, VALUE)
    return {name: array + 0.3 * generator.normal(size=array.shape) for name, array in first.items()}


def episodes(masked: bool = True, seed: int = 3) -> Trajectories:
    generator = np.random.default_rng(seed)
    steps = np.arange(7) < generator.integers(1, 8, 12)[:, None]
    actions = generator.integers(0, 4, steps.shape)
    allowed = generator.random((*steps.shape, 4)) < 0.6
    np.put_along_axis(allowed, actions[..., None], True, axis=2)
    return Trajectories(
        observations=generator.normal(size=(12, 7, 5)).astype(np.float32),
        actions=actions,
        allowed=allowed if masked else None,
        rewards=generator.normal(size=steps.shape).astype(np.float32),
        log_behaviour=-generator.uniform(0.5, 2, steps.shape).astype(np.float32),
        steps=steps,
        terminated=generator.random(12) < 0.5,
        final_observations=generator.normal(size=(12, 5)).astype(np.float32),
        persons=np.arange(12, dtype=np.uint64),
    )


def targets(seen: Trajectories) -> dict[str, NDArray[np.float64]]:
    return dict(OBJECTIVE.targets(Valued(CRITIC, parameters()), {}, seen))


def by_autograd(seen: Trajectories, settings: ProximalSteps) -> Parameters:
    policy = NetworkPolicy(NETWORK, None, "network", CRITIC)
    policy.load(parameters())
    first = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.SGD
    optimiser = kind(policy.parameters(), lr=settings.step_size)
    objective = dataclasses.replace(OBJECTIVE, entropy_weight=settings.entropy_weight)
    aims, generator = targets(seen), np.random.default_rng(9)
    which, times = np.nonzero(seen.steps)
    for _ in range(settings.passes):
        order = generator.permutation(which.size)
        for start in range(0, order.size, settings.minibatch):
            b, t = which[order[start : start + settings.minibatch]], times[order[start : start + settings.minibatch]]
            one = Trajectories(
                seen.observations[b, t][:, None], seen.actions[b, t][:, None],
                None if seen.allowed is None else seen.allowed[b, t][:, None], seen.rewards[b, t][:, None],
                None if seen.log_behaviour is None else seen.log_behaviour[b, t][:, None],
                np.ones((b.size, 1), dtype=np.bool_), seen.terminated[b], seen.observations[b, t], seen.persons[b],
            )  # fmt: skip
            own = {name: values[b, t][:, None] for name, values in aims.items()}
            if b.size > 1:
                mean, deviation = own["advantages"].mean(), own["advantages"].std()
                own["advantages"] = (own["advantages"] - mean) / (deviation + 1e-8)
            optimiser.zero_grad()
            torch.autograd.backward(objective.losses(policy, one, own).mean())
            if settings.max_gradient_norm:
                limit = settings.max_gradient_norm  # torch adds 1e-6 to the norm, here it is 1e-8
                norm = float(torch.nn.utils.clip_grad_norm_(policy.parameters(), torch.inf))
                torch.nn.utils.clip_grads_with_norm_(policy.parameters(), limit, torch.tensor(norm - 1e-6 + 1e-8))
            if settings.proximal:
                for name, weight in policy.named_parameters():
                    assert weight.grad is not None
                    weight.grad += settings.proximal * (weight.detach() - first[name])
            optimiser.step()
    return {name: weight.detach().numpy() for name, weight in policy.named_parameters()}


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimiser": "sgd", "step_size": 0.3, "proximal": 0.2},
        {"max_gradient_norm": 0.05, "optimiser": "sgd", "step_size": 0.3},
        {"minibatch": 47, "passes": 6, "step_size": 0.1},
        {"entropy_weight": 0.7},
    ],
)
def test_steps_are_those_of_autograd(masked: bool, changes: dict[str, float | str]) -> None:
    seen, settings = episodes(masked), dataclasses.replace(SETTINGS, **changes)  # type: ignore[arg-type]  # by name

    found = moved_by_ppo(
        NETWORK, CRITIC, parameters(), seen, targets(seen), np.random.default_rng(9), settings, np.float64
    )

    expected = by_autograd(seen, settings)
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name] == pytest.approx(array, rel=1e-7, abs=1e-9), name
        assert not np.allclose(found[name], parameters()[name], atol=1e-4)  # they moved


def test_single_precision_follows_double_precision() -> None:
    seen = episodes()

    found = moved_by_ppo(NETWORK, CRITIC, parameters(), seen, targets(seen), np.random.default_rng(9), SETTINGS)

    expected = by_autograd(seen, SETTINGS)
    assert all(np.abs(found[name] - array).max() < 1e-3 for name, array in expected.items())


def test_values_are_those_of_the_policy_also_of_padding() -> None:
    policy = NetworkPolicy(NETWORK, None, "network", CRITIC)
    policy.load(parameters())
    seen = torch.from_numpy(np.where(episodes().steps[..., None], episodes().observations, 0).astype(np.float32))

    expected = policy.value_of(seen).detach().numpy()

    assert Valued(CRITIC, parameters()).value_of(seen).numpy() == pytest.approx(expected, rel=1e-12)


def test_a_minibatch_that_is_not_finite_is_passed_over() -> None:
    seen = episodes()
    poisoned = targets(seen)
    poisoned["outcomes"] = np.full_like(poisoned["outcomes"], np.nan)

    found = moved_by_ppo(NETWORK, CRITIC, parameters(), seen, poisoned, np.random.default_rng(9), SETTINGS, np.float64)

    assert all(np.array_equal(found[name], array) for name, array in parameters().items())


def test_other_networks_and_logged_episodes_are_refused() -> None:
    recurrent = Network("gru", (8, 6), 5, 4, embeds=False)
    seen = dataclasses.replace(episodes(), log_behaviour=None)

    assert is_offered(NETWORK, CRITIC)
    assert not is_offered(NETWORK, None)
    assert not is_offered(recurrent, value_network(recurrent))
    assert not is_offered(Network("mlp", (8,), 5, 4), CRITIC)
    with pytest.raises(InvalidParameter, match="log_behaviour"):
        moved_by_ppo(NETWORK, CRITIC, parameters(), seen, targets(episodes()), np.random.default_rng(0), SETTINGS)
