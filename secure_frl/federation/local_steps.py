"""Several noised steps inside a site, and what leaves it: federated averaging whose privacy is that of its noise.

    theta_1      the broadcast policy
    n_k          noised integers: the clipped sum at theta_k, rounded, plus discrete Gaussian noise;  k = 1 .. K
    theta_k+1    theta_k + eta mean(n_k),  mean: block factors undone, over the declared batch
    message      n_1 + ... + n_K

Each theta after the first, and the message, are functions of the broadcast policy and of n_1 .. n_K alone: they
post-process K Gaussian releases, and the event of the round says `noised_sums` = K. A step is plain SGD, so a site's
move theta_K+1 - theta_1 is eta times mean(message): the mean of the moves over the sites follows from the one secure
sum of integers, and the global step is `global.step_size` times that mean (1 with no momentum: parameters are
averaged). Each n_k lies in [-B, B] before its noise, so the message in [-K B, K B], which is the bound of the charter.

FedProx adds to each step a pull of -eta mu (theta_k - theta_1), which post-processes noised sums too. Then the move is

    theta_K+1 - theta_1 = eta mean(a^(K-1) n_1 + ... + a n_(K-1) + n_K),    a = 1 - eta mu, in (0, 1)

so the policy's block of the message is that combination with public weights, rounded to the nearest integer; the other
blocks are sums as ever. No weight is above 1 and rounding to integers keeps an order, so what bounds the plain message,
its noise and the ring bounds this one too.

Source: McMahan et al. 2017, Algorithm 1 (FederatedAveraging); Abadi et al. 2016, Algorithm 1, inside each site; Li et
al. 2020, Federated Optimization in Heterogeneous Networks, equation 2 (its gradient, taken without noise).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.federation.optimisers import OptimiserRule, descent_sums
from secure_frl.secure_sum import Block, SiteId, Sum, SumConstants


def constants_of_one_sum(constants: SumConstants, noised_sums: int) -> SumConstants:
    """Return the constants of each of a message's noised sums: the same, with their part of the bound.

    Raises InvalidParameter unless the charter's bound is a multiple of `noised_sums`.
    """
    if constants.bound % noised_sums:
        raise InvalidParameter(
            f"expected a bound that {noised_sums} noised sums share, got {constants.bound}. Derive it with the plan."
        )
    return replace(constants, bound=constants.bound // noised_sums)


@dataclass(frozen=True, slots=True, eq=False)
class Pull:
    """Back to where a round began, in every step of FedProx."""

    origin: NDArray[np.float64]  # theta_1
    proximal: float  # mu > 0


def moved(
    parameters: NDArray[np.float64],
    noised: NDArray[np.int64],
    scale: float,
    rule: OptimiserRule,
    step_size: float,
    pull: Pull | None = None,
) -> NDArray[np.float64]:
    """Return theta_k+1, float64, as many as the policy's block has.

    parameters: theta_k. noised: int64 [P], n_k with its noise: nothing else of the site's data comes in here.
    scale: kappa. step_size: eta > 0, `training.local.step_size`. pull: of FedProx.
    """
    sums = descent_sums(Sum(noised, scale, (SiteId(0),)), rule)
    policy = rule.blocks[0]
    following = parameters + step_size * sums[policy.start : policy.stop] / rule.declared_batch
    return following if pull is None else following - step_size * pull.proximal * (parameters - pull.origin)


class Message:
    """What a site sends of its noised sums, which come one after the other."""

    def __init__(self, length: int, policy: Block, kept: float) -> None:
        """policy: the block of what is moved. kept: a, in (0, 1], what a step leaves of the moves before it.

        Raises InvalidParameter for another: a pull that overshoots, by weights of which no bound holds.
        """
        if not 0 < kept <= 1:
            raise InvalidParameter(
                f"expected local.step_size x proximal below 1, got {1 - kept:g}. Lower training.local.proximal."
            )
        self._policy, self._kept = slice(policy.start, policy.stop), kept
        self._sum = np.zeros(length, dtype=np.int64)
        self._weighted = np.zeros(policy.stop - policy.start)

    def add(self, noised: NDArray[np.int64]) -> None:
        """Take n_k, int64 [P]."""
        self._sum = self._sum + noised
        self._weighted = self._kept * self._weighted + noised[self._policy]

    @property
    def integers(self) -> NDArray[np.int64]:
        """Return the message, int64 [P]."""
        if self._kept == 1:
            return self._sum
        message = self._sum.copy()
        message[self._policy] = np.rint(self._weighted).astype(np.int64)
        return message
