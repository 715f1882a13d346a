"""What an attack may reach at most: ceilings on AUC and TPR that follow from the noise, never from a table.

An attack decides whether one person was in. Its figures are measured on a view: what one coalition sees, under the
noise shares that it does not know. A lower confidence limit above a ceiling refutes the claim; a point estimate refutes
nothing. What the rounding bound and the sampler may fail by (1e-12 a release) is far below what any attack measures.
"""

from __future__ import annotations

import math
from dataclasses import replace

from scipy.special import ndtr, ndtri

from secure_frl.errors import InvalidParameter
from secure_frl.privacy.charging import WhatIf, dominating, merge
from secure_frl.privacy.events import GaussianSumEvent
from secure_frl.privacy.unit import ADD_OR_REMOVE_ONE, REPLACE_ONE


def view_mu(event: GaussianSumEvent, unknown_shares: int, *, is_swap: bool = False) -> float:
    """Return mu, the shift of one release over the deviation of the noise that a view does not know.

    unknown_shares: honest shares outside the coalition, h or more; without meaning under local noise.
    is_swap: the game replaces a member by another one, which moves the sum by two clips at most.
    For full batches: raises InvalidParameter under sampling, and for an event without noise.
    """
    if event.sampling_rate < 1:
        raise InvalidParameter(f"expected sampling_rate=1, got {event.sampling_rate}. Attack a study of full batches.")
    game = replace(event, relation=REPLACE_ONE if is_swap else ADD_OR_REMOVE_ONE)
    return 1 / merge((dominating(game, WhatIf(shares=unknown_shares)),))[0][0]


def auc_ceiling(mu: float) -> float:
    """Return the greatest area under the curve of any attack on a mu-Gaussian mechanism: Phi(mu / sqrt 2).

    Source: Dong, Roth and Su 2022, Definition 2.6: the curve of the best test; its area by direct integration.
    """
    return float(ndtr(_checked(mu) / math.sqrt(2)))


def tpr_ceiling(mu: float, false_positive_rate: float) -> float:
    """Return the greatest true positive rate at a false positive rate: Phi(Phi^-1(FPR) + mu).

    Source: Dong, Roth and Su 2022, equation 6.
    """
    return float(ndtr(ndtri(_rate(false_positive_rate)) + _checked(mu)))


def _checked(mu: float) -> float:
    if not (math.isfinite(mu) and mu >= 0):
        raise InvalidParameter(f"expected mu >= 0, got {mu}. Take it from view_mu.")
    return mu


def _rate(value: float) -> float:
    if not 0 <= value <= 1:
        raise InvalidParameter(f"expected a false positive rate in [0, 1], got {value}. Pass 0.01 for 1 %.")
    return value
