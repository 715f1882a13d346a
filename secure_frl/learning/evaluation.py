"""The exact value of a table policy on ICU-Sepsis, by one linear solve. Only evaluation reads the published tables.

Nothing here may feed training: the score of a simulated study is computed after the fact from what was released.
`gap_recovered` is (J - J_expert) / (J_optimal - J_expert), J the exact expected return of the policy as it acts; it
is not clamped, so a policy that learned nothing scores about -.02.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import ACTIONS, LIVE_STATES, STATES, SURVIVAL, load_tables

SOLVER_STEPS = 100  # policy iteration ends in fewer than ten here; more means broken tables


@dataclass(frozen=True, slots=True)
class References:
    """Exact expected returns of four policies, for comparison only."""

    random: float  # uniform over admissible actions
    expert: float  # the clinicians' policy of the tables
    optimal: float
    worst: float


@cache
def _admissible_rows() -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Return next-state rows [pairs, 716], the first pair of each live state [713], and admissible counts [713]."""
    tables = load_tables()
    pairs = tables.row_starts.size - 1
    rows = np.zeros((pairs, STATES))
    rows[np.repeat(np.arange(pairs), np.diff(tables.row_starts)), tables.next_states] = tables.probabilities
    counts = tables.admissible[:LIVE_STATES].sum(axis=1)
    first = np.concatenate(([0], np.cumsum(counts)))[:-1].astype(np.int64)
    return rows, first, counts.astype(np.float64)


def _values(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve (I - P) v = r over live states; probabilities [>= 713, 25]."""
    rows, first, counts = _admissible_rows()
    admissible = load_tables().admissible[:LIVE_STATES]
    acting = probabilities[:LIVE_STATES]
    # An inadmissible action has the mean row of the admissible ones: its probability spreads evenly over them.
    spill = np.where(admissible, 0.0, acting).sum(axis=1) / counts
    weights = (acting + spill[:, None])[admissible]
    mixed = np.add.reduceat(rows * weights[:, None], first, axis=0)
    solved = np.linalg.solve(np.eye(LIVE_STATES) - mixed[:, :LIVE_STATES], mixed[:, SURVIVAL])
    return np.asarray(solved, dtype=np.float64)


def exact_return(probabilities: NDArray[np.float64]) -> float:
    """Return the exact expected return of a policy, without a step limit.

    probabilities: float64 [716, 25] (or the 713 live rows), each row summing to 1. Raises InvalidParameter otherwise.
    """
    if probabilities.ndim != 2 or probabilities.shape[0] < LIVE_STATES or probabilities.shape[1] != ACTIONS:
        raise InvalidParameter(
            f"probabilities must be [{STATES}, {ACTIONS}], not {list(probabilities.shape)}. Pass the whole table."
        )
    live = probabilities[:LIVE_STATES]
    if not np.isfinite(live).all() or (live < 0).any() or np.abs(live.sum(axis=1) - 1).max() > 1e-9:
        raise InvalidParameter("each row must be a probability vector, but one is not. Normalise the policy first.")
    return float(load_tables().initial[:LIVE_STATES] @ _values(probabilities))


def _best_return(sign: float) -> float:
    """Return the largest (sign 1) or smallest (sign -1) exact return, by policy iteration."""
    rows = _admissible_rows()[0]
    admissible = load_tables().admissible
    state, action = np.nonzero(admissible[:LIVE_STATES])
    policy = admissible / admissible.sum(axis=1, keepdims=True)
    for _ in range(SOLVER_STEPS):
        values = np.zeros(STATES)
        values[:LIVE_STATES] = _values(policy)
        values[SURVIVAL] = 1.0
        worth = np.full((STATES, ACTIONS), -np.inf)
        worth[state, action] = sign * (rows @ values)
        improved = np.zeros_like(policy)
        improved[np.arange(STATES), worth.argmax(axis=1)] = 1.0
        if np.array_equal(improved[:LIVE_STATES], policy[:LIVE_STATES]):
            break
        policy = improved
    return exact_return(policy)


@cache
def references() -> References:
    """Compute the four references from the tables, once."""
    tables = load_tables()
    uniform = tables.admissible / tables.admissible.sum(axis=1, keepdims=True)
    return References(exact_return(uniform), exact_return(tables.expert), _best_return(1.0), _best_return(-1.0))


def gap_recovered(probabilities: NDArray[np.float64]) -> float:
    """Return the share of the distance from the clinicians' policy to the optimal one that a policy covers.

    probabilities: as in `exact_return`. Unclamped. Raises InvalidParameter as `exact_return` does.
    """
    return gap_of(exact_return(probabilities))


def gap_of(value: float) -> float:
    """Return the gap that a policy of this expected return recovers; see `gap_recovered`."""
    known = references()
    return (value - known.expert) / (known.optimal - known.expert)
