"""One step at each of 100 simulated sites, in one call beside a loop over the sites.

64 rows of one step a site, a network of 47-64-64-25, the loss of REINFORCE, plain steps; what each way ends with is
compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from figures import Figure, at_least, at_most, show
from ratios import median_ratio

from secure_frl.learning.batched_sites import SitesOptimiser, SitesPolicy, SiteSteps
from secure_frl.learning.networks import Network, first_parameters
from secure_frl.learning.objectives.reinforce import Reinforce
from secure_frl.learning.policies import NetworkPolicy
from secure_frl.learning.trajectories import Trajectories

SITES, ROWS, STEP_SIZE = 100, 64, 0.01
NETWORK = Network("mlp", (64, 64), 47, 25, embeds=False)
OBJECTIVE = Reinforce(1.0, 0.5, "none")


def rows() -> Trajectories:
    """Return the rows of all sites, site by site."""
    generator, count = np.random.default_rng(0), SITES * ROWS
    return Trajectories(
        observations=generator.normal(size=(count, 1, 47)).astype(np.float32),
        actions=generator.integers(0, 25, (count, 1)),
        allowed=None,
        rewards=np.zeros((count, 1), dtype=np.float32),
        log_behaviour=None,
        steps=np.ones((count, 1), dtype=np.bool_),
        terminated=np.ones(count, dtype=np.bool_),
        final_observations=np.zeros((count, 47), dtype=np.float32),
        persons=np.arange(count, dtype=np.uint64),
    )


class Bench:
    """The sites, together and one by one."""

    def __init__(self) -> None:
        first = first_parameters(NETWORK, 0)
        self._together = SitesPolicy(SITES, NETWORK, dtype=torch.float32)
        self._together.load(first)
        self._optimiser = SitesOptimiser(self._together, SiteSteps("sgd", STEP_SIZE))
        self._policies = [NetworkPolicy(NETWORK, None, "none", dtype=torch.float32) for _ in range(SITES)]
        for policy in self._policies:
            policy.load(first)
        self._rows = rows()
        self._advantages = np.random.default_rng(1).normal(size=(SITES * ROWS, 1))
        self._own = [slice(site * ROWS, (site + 1) * ROWS) for site in range(SITES)]
        self._batches = [self._rows.select(np.arange(own.start, own.stop)) for own in self._own]

    def batched(self) -> None:
        """Step at every site in one call."""
        self._optimiser.step(OBJECTIVE.losses(self._together, self._rows, {"advantages": self._advantages}))

    def looped(self) -> None:
        """Step at one site after another."""
        for policy, batch, own in zip(self._policies, self._batches, self._own, strict=True):
            loss = OBJECTIVE.losses(policy, batch, {"advantages": self._advantages[own]}).mean()
            weights = list(policy.parameters())
            found = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                torch._foreach_sub_(weights, list(found), alpha=STEP_SIZE)

    def difference(self) -> float:
        """Return how far the two ways are apart, at most over all sites and parameters."""
        worst = 0.0
        for site, policy in enumerate(self._policies):
            mine = self._together.of_site(site)
            for name, weight in policy.named_parameters():
                worst = max(worst, float(np.abs(mine[name] - weight.detach().double().numpy()).max()))
        return worst


def figures(turns: int) -> Iterator[Figure]:
    """Yield the ratio of the loop to the one call, and how far they are apart after as many steps."""
    bench = Bench()
    ratio, looped, batched = median_ratio(bench.looped, bench.batched, turns)
    show(f"{SITES} sites: loop {1e3 * looped:.1f} ms, one call {1e3 * batched:.1f} ms at best")
    yield at_least("sites_over_loop", ratio, 3.5, "x loop")
    yield at_most("sites_difference", bench.difference() / 2**-23, 100, "x 2^-23")
