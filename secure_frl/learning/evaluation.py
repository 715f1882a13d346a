"""The exact value of a table policy on ICU-Sepsis, by one linear solve. Only evaluation reads the published tables.

Nothing here may feed training: the score of a simulated study is computed after the fact from what was released.
`gap_recovered` is (J - J_expert) / (J_optimal - J_expert), J the exact expected return of the policy as it acts; it
is not clamped, so a policy that learned nothing scores about -.02. At a site whose dynamics differ all three are taken
there: the clinicians' published policy has its own value at each site, and so has the best possible one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import (
    ACTIONS,
    LIVE_STATES,
    SAMPLERS_KEPT,
    STATES,
    SURVIVAL,
    IcuSepsisTables,
    load_tables,
)
from secure_frl.learning.environments.site_shift import SiteDynamics

SOLVER_STEPS = 100  # policy iteration ends in fewer than ten here; more means broken tables
SEVERITY_GROUPS = ("mild", "middle", "severe")  # thirds of the patients who come, by the SOFA score of the first state


@dataclass(frozen=True, slots=True)
class References:
    """Exact expected returns of four policies, for comparison only."""

    random: float  # uniform over admissible actions
    expert: float  # the clinicians' policy of the tables
    optimal: float
    worst: float


@dataclass(frozen=True, slots=True)
class Score:
    """What a policy is worth at one site, beside the clinicians' policy and the best possible one there."""

    mean_return: float
    expert: float
    optimal: float

    @property
    def gap_recovered(self) -> float:
        """Return the share of the distance from clinicians to optimum that is covered; unclamped."""
        return (self.mean_return - self.expert) / (self.optimal - self.expert)


class ExactValues:
    """ICU-Sepsis at one site, solved. Make one with `exact_values`, which keeps them."""

    def __init__(self, dynamics: SiteDynamics) -> None:
        """Solve nothing yet."""
        self._tables, self._effect = dynamics.tables, dynamics.effect

    def values(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the exact value of each live state, float64 [713], without a step limit.

        probabilities: float64 [716, 25] (or the 713 live rows), each row summing to 1. Raises InvalidParameter
        otherwise.
        """
        _check(probabilities)
        return _solve(self._tables, _as_published(probabilities[:LIVE_STATES], self._effect))

    def mean_return(self, probabilities: NDArray[np.float64]) -> float:
        """Return the exact expected return over who comes to this site; see `values`."""
        return float(self._tables.initial[:LIVE_STATES] @ self.values(probabilities))

    def score(self, probabilities: NDArray[np.float64]) -> Score:
        """Return the return beside those of clinicians and optimum; see `values`."""
        first = self._tables.initial[:LIVE_STATES]
        return self._scored(first, self.values(probabilities))

    def gap_of(self, value: float) -> float:
        """Return the gap that a policy of this expected return recovers."""
        known = self._scored(self._tables.initial[:LIVE_STATES], self._expert)
        return Score(value, known.expert, known.optimal).gap_recovered

    def by_severity(self, probabilities: NDArray[np.float64]) -> dict[str, Score]:
        """Return the score among patients of each third, by the SOFA score of their first state."""
        values, groups = self.values(probabilities), severity_groups()
        found: dict[str, Score] = {}
        for number, name in enumerate(SEVERITY_GROUPS):
            first = np.where(groups[:LIVE_STATES] == number, self._tables.initial[:LIVE_STATES], 0.0)
            found[name] = self._scored(first / first.sum(), values)
        return found

    @cached_property
    def references(self) -> References:
        """Return the four references at this site."""
        first = self._tables.initial[:LIVE_STATES]
        uniform = self._tables.admissible / self._tables.admissible.sum(axis=1, keepdims=True)
        named = (self.values(uniform), self._expert, self._optimal, _best_values(self._tables, -1.0))
        return References(*(float(first @ values) for values in named))

    @cached_property
    def _expert(self) -> NDArray[np.float64]:
        return self.values(self._tables.expert)

    @property
    def _optimal(self) -> NDArray[np.float64]:
        return _best_values(self._tables, 1.0)  # under other names of the actions the best is as good

    def _scored(self, first: NDArray[np.float64], values: NDArray[np.float64]) -> Score:
        return Score(float(first @ values), float(first @ self._expert), float(first @ self._optimal))


@lru_cache(maxsize=SAMPLERS_KEPT)
def exact_values(dynamics: SiteDynamics) -> ExactValues:
    """Return the solved site; the same object for the same dynamics."""
    return ExactValues(dynamics)


@cache
def published() -> ExactValues:
    """Return ICU-Sepsis as published, solved."""
    return ExactValues(SiteDynamics(load_tables(), None))


@cache
def severity_groups() -> NDArray[np.int64]:
    """Return the third of each state, int64 [716], 0 for the mildest; -1 where nobody lives.

    Live states are ordered by SOFA; a state belongs to the third in which the middle of its weight among the published
    first states lies. A public function, the same at every site.
    """
    tables = load_tables()
    order = np.argsort(tables.sofa[:LIVE_STATES], kind="stable")
    weight = tables.initial[order] / tables.initial[:LIVE_STATES].sum()
    middle = np.cumsum(weight) - weight / 2
    groups = np.full(STATES, -1, dtype=np.int64)
    groups[order] = np.minimum(middle * len(SEVERITY_GROUPS), len(SEVERITY_GROUPS) - 1).astype(np.int64)
    groups.setflags(write=False)
    return groups


@cache
def _places() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return of each non-zero its pair, and its cell in [713, 716]; of each pair its live state.

    The same for every site's tables: shifts change how likely a step is, never whether it can happen.
    """
    tables = load_tables()
    state = np.nonzero(tables.admissible[:LIVE_STATES])[0].astype(np.int64)
    pair = np.repeat(np.arange(state.size), np.diff(tables.row_starts))
    return pair, state[pair] * STATES + tables.next_states, state


def _check(probabilities: NDArray[np.float64]) -> None:
    if probabilities.ndim != 2 or probabilities.shape[0] < LIVE_STATES or probabilities.shape[1] != ACTIONS:
        raise InvalidParameter(
            f"probabilities must be [{STATES}, {ACTIONS}], not {list(probabilities.shape)}. Pass the whole table."
        )
    live = probabilities[:LIVE_STATES]
    if not np.isfinite(live).all() or (live < 0).any() or np.abs(live.sum(axis=1) - 1).max() > 1e-9:
        raise InvalidParameter("each row must be a probability vector, but one is not. Normalise the policy first.")


def _as_published(acting: NDArray[np.float64], effect: NDArray[np.int64] | None) -> NDArray[np.float64]:
    """Return how the tables' own actions are taken, [713, 25], when a site's actions are taken so."""
    if effect is None:
        return acting
    found = np.empty_like(acting)
    np.put_along_axis(found, effect[:LIVE_STATES], acting, axis=1)  # effects of a state are a permutation
    return found


def _solve(tables: IcuSepsisTables, acting: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve (I - P) v = r over live states; acting [713, 25]."""
    pair, cell, state = _places()
    admissible = tables.admissible[:LIVE_STATES]
    # An inadmissible action has the mean row of the admissible ones: its probability spreads evenly over them.
    spill = np.where(admissible, 0.0, acting).sum(axis=1) / admissible.sum(axis=1)
    weights = acting[admissible] + spill[state]
    mixed = np.bincount(cell, weights[pair] * tables.probabilities, LIVE_STATES * STATES).reshape(LIVE_STATES, STATES)
    solved = np.linalg.solve(np.eye(LIVE_STATES) - mixed[:, :LIVE_STATES], mixed[:, SURVIVAL])
    return np.asarray(solved, dtype=np.float64)


@lru_cache(maxsize=2 * SAMPLERS_KEPT)
def _best_values(tables: IcuSepsisTables, sign: float) -> NDArray[np.float64]:
    """Return the largest (sign 1) or smallest (sign -1) exact values [713], by policy iteration."""
    admissible = tables.admissible[:LIVE_STATES]
    policy = admissible / admissible.sum(axis=1, keepdims=True)
    for _ in range(SOLVER_STEPS):
        values = np.zeros(STATES)
        values[:LIVE_STATES] = _solve(tables, policy)
        values[SURVIVAL] = 1.0
        worth = np.full((LIVE_STATES, ACTIONS), -np.inf)
        expected = np.add.reduceat(tables.probabilities * values[tables.next_states], tables.row_starts[:-1])
        worth[admissible] = sign * expected
        improved = np.zeros_like(policy)
        improved[np.arange(LIVE_STATES), worth.argmax(axis=1)] = 1.0
        if np.array_equal(improved, policy):
            break
        policy = improved
    return _solve(tables, policy)


def exact_return(probabilities: NDArray[np.float64]) -> float:
    """Return the exact expected return of a policy as published; see `ExactValues.values`."""
    return published().mean_return(probabilities)


def references() -> References:
    """Return the four references of the published tables."""
    return published().references


def gap_recovered(probabilities: NDArray[np.float64]) -> float:
    """Return the share of the distance from the clinicians' policy to the optimal one that a policy covers.

    probabilities: as in `exact_return`. Unclamped. Raises InvalidParameter as `exact_return` does.
    """
    return gap_of(exact_return(probabilities))


def gap_of(value: float) -> float:
    """Return the gap that a policy of this expected return recovers; see `gap_recovered`."""
    return published().gap_of(value)
