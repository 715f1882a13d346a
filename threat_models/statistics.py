"""Intervals and rates of attacks: what may be said from so many decisions.

Source: Clopper and Pearson 1934; Carlini et al. 2022, "Membership inference attacks from first principles", section 4
(true positives at a fixed false positive rate); Holm 1979.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, rankdata, t

from secure_frl.errors import InvalidParameter

Scores = NDArray[np.float64]
LEAST_FALSE_POSITIVES = 5  # at a false positive rate, in the half of the non-members that it is read on
_BOOTSTRAPS = 400


def proportion(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a proportion; trials: above 0."""
    if not 0 <= successes <= trials or not trials:
        raise InvalidParameter(f"expected 0 to {trials} successes of at least one trial, got {successes}. Count again.")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    return low, high


def mean_interval(values: Sequence[float] | Scores, level: float = 0.95) -> tuple[float, float, float]:
    """Return mean and t-interval of independent values; both ends are the mean for one value."""
    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean())
    if found.size < 2:
        return mean, mean, mean
    half = float(t.ppf((1 + level) / 2, found.size - 1) * found.std(ddof=1) / np.sqrt(found.size))
    return mean, mean - half, mean + half


def auc(scores: Scores, is_member: NDArray[np.bool_]) -> float:
    """Return the chance that a member's score is above a non-member's, ties by half. nan without one of either."""
    members = int(is_member.sum())
    others = is_member.size - members
    if not members or not others:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[is_member].sum() - members * (members + 1) / 2) / (members * others))


def auc_interval(
    scores: Scores,
    is_member: NDArray[np.bool_],
    groups: NDArray[np.int64],
    rng: np.random.Generator,
    level: float = 0.95,
    targets: NDArray[np.int64] | None = None,
) -> tuple[float, float]:
    """Return a bootstrap interval of the area, over whole groups: rounds or models that decisions share.

    groups: int64 [decisions]. targets: int64 [decisions], the person of each; resampled too where several groups
    decide about the same ones, for neither is independent alone.
    """
    found = []
    names, at = np.unique(groups, return_inverse=True)
    people, person = np.unique(groups if targets is None else targets, return_inverse=True)
    for _ in range(_BOOTSTRAPS):
        weight = rng.multinomial(names.size, np.full(names.size, 1 / names.size))[at].astype(np.float64)
        if targets is not None:
            weight *= rng.multinomial(people.size, np.full(people.size, 1 / people.size))[person]
        found.append(_weighted_auc(scores, is_member, weight))
    tail = (1 - level) / 2
    low, high = np.nanquantile(found, [tail, 1 - tail])
    return float(low), float(high)


def _weighted_auc(scores: Scores, is_member: NDArray[np.bool_], weight: Scores) -> float:
    order = np.argsort(scores, kind="stable")
    values, members = scores[order], np.where(is_member, weight, 0.0)[order]
    others = np.where(is_member, 0.0, weight)[order]
    starts = np.flatnonzero(np.r_[True, np.diff(values) != 0])
    members, others = np.add.reduceat(members, starts), np.add.reduceat(others, starts)
    below = np.cumsum(others) - others
    total = members.sum() * others.sum()
    return float((members * (below + others / 2)).sum() / total) if total else float("nan")


def true_positive_rate(
    scores: Scores, is_member: NDArray[np.bool_], rate: float, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return the true positive rate at a false positive rate, with its Clopper-Pearson interval.

    The threshold is set on one half of the non-members, and the false positives are read on the other.
    Raises InvalidParameter for too few non-members: 500 at 1 %, 5,000 at 0.1 %.
    """
    others = scores[~is_member]
    needed = int(np.ceil(LEAST_FALSE_POSITIVES / rate))
    if others.size < needed:
        raise InvalidParameter(f"expected {needed} non-members at a rate of {rate:g}, got {others.size}. Run more.")
    setting = others[rng.permutation(others.size)[: others.size // 2]]
    threshold = float(np.quantile(setting, 1 - rate))
    members = scores[is_member]
    above = int((members > threshold).sum())
    return above / members.size, *proportion(above, members.size)


def roc(scores: Scores, is_member: NDArray[np.bool_], rates: Sequence[float]) -> list[float]:
    """Return true positive rates at false positive rates; of all decisions, for a figure."""
    others, members = scores[~is_member], scores[is_member]
    return [float((members > np.quantile(others, 1 - rate)).mean()) for rate in rates]


def predictive_value(true_positives: float, false_positives: float, prior: float) -> float:
    """Return how likely a person whom the attack names is a member: TPR p / (TPR p + FPR (1 - p))."""
    total = true_positives * prior + false_positives * (1 - prior)
    return true_positives * prior / total if total else 0.0


def holm_levels(count: int, level: float = 0.999) -> list[float]:
    """Return the confidence levels of `count` tests of a family, the most extreme first. Source: Holm 1979."""
    return [1 - (1 - level) / (count - number) for number in range(count)]
