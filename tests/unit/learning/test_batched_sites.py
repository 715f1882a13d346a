"""Many simulated sites in one call, against one policy and one of torch's optimisers a site."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.batched_sites import SitesOptimiser, SitesPolicy, SiteSteps
from secure_frl.learning.networks import VALUE, Network, first_parameters, value_network
from secure_frl.learning.objectives.ppo import ProximalPolicy
from secure_frl.learning.objectives.reinforce import Reinforce
from secure_frl.learning.policies import NetworkPolicy
from secure_frl.learning.trajectories import Trajectories

SITES, ROWS, STEPS = 4, 6, 5
OBJECTIVE = ProximalPolicy(Reinforce(0.9, 0.8, "network", 0.7), 0.2)
NETWORKS = {
    "features": Network("mlp", (8, 6), 5, 4, embeds=False),
    "states": Network("mlp", (8, 6), 9, 4),
}


def batch(network: Network, seed: int = 0) -> Trajectories:
    """Rows of all sites, site by site."""
    generator, count = np.random.default_rng(seed), SITES * ROWS
    shape = (count, STEPS + 1) if network.embeds else (count, STEPS + 1, network.inputs)
    vectors = generator.normal(size=shape).astype(np.float32)
    seen = generator.integers(0, network.inputs, shape) if network.embeds else vectors
    steps = np.arange(STEPS) < generator.integers(1, STEPS + 1, count)[:, None]
    return Trajectories(
        observations=seen[:, :-1],
        actions=generator.integers(0, 4, steps.shape),
        allowed=None,
        rewards=generator.normal(size=steps.shape).astype(np.float32),
        log_behaviour=-generator.uniform(0.5, 2, steps.shape).astype(np.float32),
        steps=steps,
        terminated=generator.random(count) < 0.5,
        final_observations=seen[:, -1],
        persons=np.arange(count, dtype=np.uint64),
    )


def parameters(network: Network) -> dict[str, NDArray[np.float64]]:
    return first_parameters(network, 1) | first_parameters(value_network(network), 1, VALUE)


def one_by_one(
    network: Network, batches: list[Trajectories], settings: SiteSteps
) -> list[dict[str, NDArray[np.float64]]]:
    found = []
    for site in range(SITES):
        policy = NetworkPolicy(network, None, "network", value_network(network))
        policy.load(parameters(network))
        first = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
        kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.SGD
        optimiser = kind(policy.parameters(), lr=settings.step_size)
        for whole in batches:
            own = whole.select(np.arange(site * ROWS, (site + 1) * ROWS))
            loss = OBJECTIVE.losses(policy, own, OBJECTIVE.targets(policy, {}, own)).mean()
            if not torch.isfinite(loss):
                continue
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            norm = float(torch.nn.utils.clip_grad_norm_(policy.parameters(), torch.inf))
            limit = settings.max_gradient_norm or torch.inf
            for name, weight in policy.named_parameters():
                assert weight.grad is not None
                weight.grad *= min(1.0, limit / (norm + 1e-8))
                weight.grad += settings.proximal * (weight.detach() - first[name])
            optimiser.step()
        found.append({name: weight.detach().numpy() for name, weight in policy.named_parameters()})
    return found


def together(
    network: Network, batches: list[Trajectories], settings: SiteSteps
) -> list[dict[str, NDArray[np.float64]]]:
    policy = SitesPolicy(SITES, network, value=value_network(network))
    policy.load(parameters(network))
    optimiser = SitesOptimiser(policy, settings)
    for whole in batches:
        optimiser.step(OBJECTIVE.losses(policy, whole, OBJECTIVE.targets(policy, {}, whole)))
    return [policy.of_site(site) for site in range(SITES)]


@pytest.mark.parametrize("kind", list(NETWORKS))
@pytest.mark.parametrize(
    "settings",
    [
        SiteSteps("sgd", 0.1),
        SiteSteps("adam", 0.05, proximal=0.3),
        SiteSteps("sgd", 0.1, max_gradient_norm=0.5, proximal=0.3),
    ],
)
def test_all_sites_together_end_where_each_does_alone(kind: str, settings: SiteSteps) -> None:
    network = NETWORKS[kind]
    batches = [batch(network, seed) for seed in range(4)]

    found, expected = together(network, batches, settings), one_by_one(network, batches, settings)

    for site in range(SITES):
        for name, array in expected[site].items():
            assert found[site][name] == pytest.approx(array, rel=1e-7, abs=1e-10), (site, name)
    assert not np.allclose(found[0]["head.weight"], found[1]["head.weight"], atol=1e-4)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_site_that_is_not_finite_takes_no_step_and_no_other_notices(optimiser: str) -> None:
    network, settings = NETWORKS["features"], SiteSteps(optimiser, 0.05)
    batches = [batch(network, seed) for seed in range(3)]
    poisoned = batches[1].rewards.copy()
    poisoned[ROWS, 0] = np.nan  # of the second site
    batches[1] = dataclasses.replace(batches[1], rewards=poisoned)

    found, expected = together(network, batches, settings), one_by_one(network, batches, settings)

    for site in range(SITES):
        for name, array in expected[site].items():
            assert found[site][name] == pytest.approx(array, rel=1e-7, abs=1e-10), (site, name)


def test_misuse_is_refused() -> None:
    policy = SitesPolicy(3, NETWORKS["features"])

    with pytest.raises(InvalidParameter, match="one site at a time"):
        SitesPolicy(3, Network("gru", (8, 6), 5, 4, embeds=False))
    with pytest.raises(InvalidParameter, match="same number of rows"):
        SitesOptimiser(policy, SiteSteps("sgd", 0.1)).step(torch.zeros(4))
    with pytest.raises(InvalidParameter, match="value networks"):
        policy.value_of(torch.zeros(3, 1, 5))
