"""Robust rules: one vector of several, some of which may be anything. Pure NumPy float64.

Rows are updates where somebody may read them, or sums of groups. Under one sum there is nothing to choose between, so
a rule needs `unsafe-plain` or groups, and more rows than twice the bad ones.
Sources: Yin et al. 2018 (median, trimmed mean); Pillutla et al. 2022, Algorithm 2 (geometric median by Weiszfeld);
Blanchard et al. 2017, section 4 (multi-Krum, here over n - f - 1 neighbours as in Guerraoui et al. 2024, where
Blanchard's has n - f - 2); Karimireddy et al. 2021, section 3 (centred clipping).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter

Rows = NDArray[np.float64]  # [rows, P]
Vector = NDArray[np.float64]  # [P]
Rule = Callable[[Rows, int, Vector], Vector]  # (rows, how many may be bad, what the rule said last) -> aggregate

_PASSES = 500  # of Weiszfeld's, at most; it converges linearly
_STILL = 1e-12  # a relative move that ends it
_NEAR = 1e-9  # a row so near to the median counts as if it were this far away


def mean(rows: Rows) -> Vector:
    """Return the mean, float64 [P]: what a plain sum gives."""
    return np.asarray(rows.mean(axis=0))


def median(rows: Rows) -> Vector:
    """Return the median of each coordinate, float64 [P]; the mean of both middle ones of an even number."""
    return np.asarray(np.median(rows, axis=0))


def trimmed_mean(rows: Rows, bad: int) -> Vector:
    """Return each coordinate's mean without its `bad` smallest and largest values. Raises InvalidParameter."""
    check_rows(len(rows), bad)
    return np.asarray(np.sort(rows, axis=0)[bad : len(rows) - bad].mean(axis=0))


def geometric_median(rows: Rows) -> Vector:
    """Return the point with the least sum of distances to the rows, float64 [P]."""
    point = median(rows)
    for _ in range(_PASSES):
        weights = 1 / np.maximum(np.linalg.norm(rows - point, axis=1), _NEAR)
        following = weights @ rows / weights.sum()
        if np.linalg.norm(following - point) <= _STILL * max(1.0, float(np.linalg.norm(point))):
            return np.asarray(following)
        point = following
    return np.asarray(point)


def multi_krum(rows: Rows, bad: int) -> Vector:
    """Return the mean of the n - f rows that are nearest to their n - f - 1 neighbours. Raises InvalidParameter."""
    check_rows(len(rows), bad)
    kept = len(rows) - bad
    squares = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    scores = np.sort(squares, axis=1)[:, 1:kept].mean(axis=1)
    return np.asarray(rows[np.argsort(scores, kind="stable")[:kept]].mean(axis=0))


def centred_clipping(rows: Rows, radius: float, start: Vector, passes: int = 3) -> Vector:
    """Return `start` moved by the mean of the differences to it, each cut at `radius`, `passes` times over."""
    point = start
    for _ in range(passes):
        away = rows - point
        lengths = np.linalg.norm(away, axis=1)
        factors = np.minimum(1.0, radius / np.maximum(lengths, np.finfo(np.float64).tiny))
        point = point + (away * factors[:, None]).mean(axis=0)
    return np.asarray(point)


def check_rows(count: int, bad: int) -> None:
    """Refuse a number of rows among which the bad ones may be half. Raises InvalidParameter."""
    if bad < 0 or count <= 2 * bad:
        raise InvalidParameter(
            f"expected more than {2 * max(bad, 0)} rows where {bad} may be anything, got {count}. Make more and "
            "smaller groups, or count on fewer bad sites."
        )


def _centred(rows: Rows, bad: int, last: Vector) -> Vector:
    """Cut at the median distance from the last aggregate: a radius that needs no tuning while f < n / 2."""
    return centred_clipping(rows, float(np.median(np.linalg.norm(rows - last, axis=1))), last)


RULES: Mapping[str, Rule] = {
    "mean": lambda rows, bad, last: mean(rows),
    "median": lambda rows, bad, last: median(rows),
    "trimmed mean": lambda rows, bad, last: trimmed_mean(rows, bad),
    "geometric median": lambda rows, bad, last: geometric_median(rows),
    "centred clipping": _centred,
    "multi-Krum": lambda rows, bad, last: multi_krum(rows, bad),
}
