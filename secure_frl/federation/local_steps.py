"""Several noised steps inside a site, and what leaves it: federated averaging whose privacy is that of its noise.

    theta_1      the broadcast policy
    n_k          noised integers: the clipped sum at theta_k, rounded, plus discrete Gaussian noise;  k = 1 .. K
    theta_k+1    theta_k + eta mean(n_k),  mean: block factors undone, over the declared batch
    message      n_1 + ... + n_K

Each theta after the first, and the message, are functions of the broadcast policy and of n_1 .. n_K alone: they
post-process K Gaussian releases, and the event of the round says `noised_sums` = K. A step is plain SGD, so a site's
move theta_K+1 - theta_1 is eta times mean(message): the mean of the moves over the sites follows from the one secure
sum of integers, and the server's step is `global.step_size` times that mean (1 with no momentum: parameters are
averaged). Each n_k lies in [-B, B] before its noise, so the message in [-K B, K B], which is the bound of the charter.

Source: McMahan et al. 2017, Algorithm 1 (FederatedAveraging); Abadi et al. 2016, Algorithm 1, inside each site.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.federation.optimisers import OptimiserRule, descent_sums
from secure_frl.secure_sum import SiteId, Sum, SumConstants


def constants_of_one_sum(constants: SumConstants, noised_sums: int) -> SumConstants:
    """Return the constants of each of a message's noised sums: the same, with their part of the bound.

    Raises InvalidParameter unless the charter's bound is a multiple of `noised_sums`.
    """
    if constants.bound % noised_sums:
        raise InvalidParameter(
            f"expected a bound that {noised_sums} noised sums share, got {constants.bound}. Derive it with the plan."
        )
    return replace(constants, bound=constants.bound // noised_sums)


def moved(
    parameters: NDArray[np.float64], noised: NDArray[np.int64], scale: float, rule: OptimiserRule, step_size: float
) -> NDArray[np.float64]:
    """Return theta_k+1, float64, as many as the policy's block has.

    parameters: theta_k. noised: int64 [P], n_k with its noise: nothing else of the site's data comes in here.
    scale: kappa. step_size: eta > 0, `training.local.step_size`.
    """
    sums = descent_sums(Sum(noised, scale, (SiteId(0),)), rule)
    policy = rule.blocks[0]
    return parameters + step_size * sums[policy.start : policy.stop] / rule.declared_batch
