"""Intervals and rates of attacks: what may be said from so many decisions.

Source: Clopper and Pearson 1934; Carlini et al. 2022, "Membership inference attacks from first principles", section 4
(true positives at a fixed false positive rate); Holm 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, rankdata, t

from secure_frl.errors import InvalidParameter

Scores = NDArray[np.float64]
LEAST_FALSE_POSITIVES = 5  # expected of all non-members at a false positive rate: 500 of them at 1 %
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
    tail = (1 - level) / 2
    low, high = np.nanquantile(_resampled(scores, is_member, groups, rng, targets), [tail, 1 - tail])
    return float(low), float(high)


def auc_lower_limit(
    scores: Scores,
    is_member: NDArray[np.bool_],
    groups: NDArray[np.int64],
    rng: np.random.Generator,
    level: float = 0.999,
    targets: NDArray[np.int64] | None = None,
) -> float:
    """Return the one-sided lower confidence limit of the area: so far out that a bootstrap's own tail is empty.

    The bootstrap's deviation times Student's t of as many groups as there are: with few, the limit is far below.
    Minus infinity for a single group. Other arguments: as of `auc_interval`.
    """
    count = np.unique(groups).size
    if count < 2:
        return -np.inf
    deviation = float(np.nanstd(_resampled(scores, is_member, groups, rng, targets), ddof=1))
    return auc(scores, is_member) - float(t.ppf(level, count - 1)) * deviation


def _resampled(
    scores: Scores,
    is_member: NDArray[np.bool_],
    groups: NDArray[np.int64],
    rng: np.random.Generator,
    targets: NDArray[np.int64] | None,
) -> Scores:
    order = np.argsort(scores, kind="stable")
    ranked, members = scores[order], is_member[order]
    starts = np.flatnonzero(np.r_[True, np.diff(ranked) != 0])  # of runs of equal scores
    names, at = np.unique(groups[order], return_inverse=True)
    people, person = np.unique((groups if targets is None else targets)[order], return_inverse=True)
    found = np.empty(_BOOTSTRAPS)
    for number in range(_BOOTSTRAPS):
        weight = rng.multinomial(names.size, np.full(names.size, 1 / names.size))[at]
        if targets is not None:
            weight = weight * rng.multinomial(people.size, np.full(people.size, 1 / people.size))[person]
        inside = np.add.reduceat(np.where(members, weight, 0), starts)
        outside = np.add.reduceat(np.where(members, 0, weight), starts)
        pairs = float(inside.sum()) * float(outside.sum())
        below = np.cumsum(outside) - outside / 2  # ties by half
        found[number] = float(inside @ below) / pairs if pairs else np.nan
    return found


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What one threshold does: set on one half of the non-members, its false positives read on the other."""

    true_positives: int
    members: int
    false_positives: int
    others: int  # non-members of the other half

    @property
    def true_positive_rate(self) -> float:
        """Return the part of the members above the threshold."""
        return self.true_positives / self.members

    @property
    def false_positive_rate(self) -> float:
        """Return the part of the other half's non-members above it."""
        return self.false_positives / self.others

    def true_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the Clopper-Pearson interval of the true positive rate."""
        return proportion(self.true_positives, self.members, level)

    def false_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the Clopper-Pearson interval of the false positive rate."""
        return proportion(self.false_positives, self.others, level)


def operating_point(
    scores: Scores, is_member: NDArray[np.bool_], rate: float, rng: np.random.Generator
) -> OperatingPoint:
    """Return what a threshold for a false positive rate does.

    Raises InvalidParameter for too few non-members: 500 at 1 %, 5,000 at 0.1 %.
    """
    others = scores[~is_member]
    needed = int(np.ceil(LEAST_FALSE_POSITIVES / rate))
    if others.size < needed:
        raise InvalidParameter(f"expected {needed} non-members at a rate of {rate:g}, got {others.size}. Run more.")
    others, members = others[rng.permutation(others.size)], scores[is_member]
    setting, reading = others[: others.size // 2], others[others.size // 2 :]
    threshold = float(np.quantile(setting, 1 - rate))
    return OperatingPoint(
        int((members > threshold).sum()), members.size, int((reading > threshold).sum()), reading.size
    )


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
