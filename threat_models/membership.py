"""Scoring of membership: areas, operating points and intervals, and what the noise lets any attack reach.

Several ways of looking at the same people are a family: the best one is reported, and each is held to the ceiling at a
level that counts all of them. A violation is a lower confidence limit above a ceiling, never a point estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.privacy.ceilings import auc_ceiling, tpr_ceiling
from threat_models.results import Bar
from threat_models.statistics import (
    OperatingPoint,
    auc,
    auc_interval,
    auc_lower_limit,
    holm_levels,
    operating_point,
    predictive_value,
    proportion,
    roc,
)

RATE = 0.01  # the false positive rate that is always looked at
PRIORS = (0.01, 0.001)  # how many of the people asked about are members, outside of a game
_CURVE = tuple(float(f"{rate:.4g}") for rate in np.logspace(-3, 0, 25))
INCLUDE_OMIT, SWAP = "include/omit", "swap"


@dataclass(frozen=True, slots=True)
class Decisions:
    """What one way of looking said of everybody who was asked about."""

    scores: NDArray[np.float64]  # [decisions], larger means in
    is_member: NDArray[np.bool_]
    groups: NDArray[np.int64]  # windows or models that decisions share
    targets: NDArray[np.int64] | None = None  # the person of each, where several models decide about the same ones


def scored(family: Mapping[str, Decisions], mu: float | None, rng: np.random.Generator) -> dict[str, Any]:
    """Return the fields of a `Cell` that a family of ways gives; of several, the best one counts.

    mu: of the view and game, None without noise. Any: fields of `Cell` have types of their own.
    "lowest" among the figures is the largest lower confidence limit of the family, at 99.9 % by Holm; "tpr_excess" the
    lower limit of the true positive rate over what the ceiling allows at the upper limit of the false positive rate.
    """
    areas = {name: auc(one.scores, one.is_member) for name, one in family.items()}
    name = max(areas, key=lambda one: areas[one])
    best, level = family[name], holm_levels(len(family))[0]
    low, high = auc_interval(best.scores, best.is_member, best.groups, rng, targets=best.targets)
    limits = [
        auc_lower_limit(one.scores, one.is_member, one.groups, rng, level, one.targets) for one in family.values()
    ]
    shifted = np.roll(best.is_member, best.is_member.size // 2)
    figures = {f"auc_{one}": area for one, area in areas.items()} if len(family) > 1 else {}
    figures["lowest"] = max(limits)
    curves = _curve(best, mu)
    point = _point(best, rng)
    if point is not None:
        figures |= _at_rate(point, mu, level)
    return {
        "metric": "AUC",
        "value": areas[name],
        "low": low,
        "high": high,
        "n": int(best.is_member.size),
        "nulls": {"swapped": auc(best.scores, shifted), "uniform": 0.5},
        "ceiling": None if mu is None else auc_ceiling(mu),
        "figures": figures,
        "curves": curves,
    }


def ceiling_bars(fields: Mapping[str, Any], mu: float) -> tuple[Bar, ...]:  # Any: as `scored` returns them
    """Return what no attack may break: the area's lower limit under its ceiling, and the operating point's."""
    bars: tuple[Bar, ...] = (Bar("lowest", at_most=auc_ceiling(mu)),)
    return (*bars, Bar("tpr_excess", at_most=0.0)) if "tpr_excess" in fields["figures"] else bars


def _point(one: Decisions, rng: np.random.Generator) -> OperatingPoint | None:
    try:
        return operating_point(one.scores, one.is_member, RATE, rng)
    except InvalidParameter:  # too few non-members: nothing is said at such a rate
        return None


def _at_rate(point: OperatingPoint, mu: float | None, level: float) -> dict[str, float]:
    low, high = point.true_interval()
    found = {
        "tpr_at_1_percent": point.true_positive_rate,
        "tpr_low": low,
        "tpr_high": high,
        "false_positive_rate": point.false_positive_rate,
    }
    wrong = max(point.false_positive_rate, RATE)  # none of few non-members is not none of all
    for prior in PRIORS:
        value = predictive_value(point.true_positive_rate, wrong, prior)
        found[f"ppv_at_prior_{prior:g}"] = value
    if mu is not None:
        allowed = tpr_ceiling(mu, point.false_interval(level)[1])  # two-sided: half of the error on each of the rates
        found["tpr_ceiling"] = tpr_ceiling(mu, RATE)
        found["tpr_excess"] = point.true_interval(level)[0] - allowed
    return found


def _curve(one: Decisions, mu: float | None) -> dict[str, list[float]]:
    """Return points of the ROC for a log-log figure: no rate below what the non-members can show."""
    others = int((~one.is_member).sum())
    rates = [rate for rate in _CURVE if rate * others >= 1]
    curves = {"fpr": rates, "tpr": roc(one.scores, one.is_member, rates)}
    members = int(one.is_member.sum())
    ends = [proportion(round(value * members), members) for value in curves["tpr"]]
    curves["tpr_low"], curves["tpr_high"] = [end[0] for end in ends], [end[1] for end in ends]
    if mu is not None:
        curves["tpr_ceiling"] = [tpr_ceiling(mu, rate) for rate in rates]
    return curves
