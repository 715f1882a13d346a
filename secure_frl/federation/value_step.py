"""From published sums of records to values: the step of fitted value iteration. Pure NumPy float64 in a fixed order.

Like every step it is taken by whoever may read the sum, and all must get the same bytes: sums here run in the order of
the pairs, and nothing is drawn or looked up. The policy is greedy in `parameters`, one value a pair; `critic` has one
a state, `visits` and `momentum` the released counts by state and by pair.

Round 1 gives counts and the mean return from each state, shrunk towards the public first value by what noise and
chance make of it. Values then start part of the way between these and the best return: one backup carries a better
choice one step back, and that the choices ahead will be better than the clinicians' is put in beforehand. Each later
round gives the mean error of each pair, the posterior mean of its advantage given the known noise, and the next values.

Source: shrinkage as the posterior mean of normal means (Efron and Morris 1973); subtraction of posterior deviations
for records that never saw an action often (Jin, Yang and Wang 2021, pessimistic value iteration).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.federation.training_state import TrainingState
from secure_frl.privacy.round_shares import blocks_in_round
from secure_frl.secure_sum import PAIR_COUNTS, RETURNS, Block, Sum

# Tuned on ICU-Sepsis, seeds 10 to 12, never on patients.
OUTCOME_VARIANCE = 0.17  # of a return in [0, 1] that is 1 or 0 with the odds of survival
ERROR_VARIANCE = 0.02  # of one step's error
VALUE_RANGE = (0.05, 0.99)  # as of every critic: a return is certain in no live state
_LEAST_COUNT = 0.1  # of a pair, as a part of what it would be if all actions of its state were taken alike
_FEWEST_VISITS = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class ValueRule:
    """Charter constants of the step."""

    blocks: tuple[Block, ...]  # of the charter
    rounds: int
    state_of: NDArray[np.int64]  # [pairs], ascending
    action_of: NDArray[np.int64]  # [pairs]
    first_value: float
    site_noise: float  # deviation of one site's noise in units of the clip
    optimism: float
    pessimism: float
    advantage_deviation: float
    value_deviation: float
    count_spread: float

    @property
    def states(self) -> int:
        """Return how many states are live."""
        return int(self.state_of[-1]) + 1


@dataclass(frozen=True, slots=True)
class _Part:
    """One block of a sum in its own units, and the deviation of the noise in each value."""

    values: NDArray[np.float64]
    deviation: float


def value_step(state: TrainingState, total: Sum, rule: ValueRule) -> TrainingState:
    """Apply one published sum: the value start after no round, else a backup.

    Raises InvalidParameter when the sum's length is not the message's or nobody contributed.
    """
    if total.integers.shape != (rule.blocks[-1].stop,) or not total.contributors:
        raise InvalidParameter(
            f"a sum of {rule.blocks[-1].stop} values by at least one site is needed, not {total.integers.shape} "
            f"by {len(total.contributors)}. Pass the sum of this study's round."
        )
    parts = _parts(state, total, rule)
    if state.round == 0:
        counts, visits = _counts(parts[PAIR_COUNTS], rule)
        values, worth = _first_values(parts[RETURNS], visits, rule), None
    else:
        counts, visits = state.momentum, state.visits
        worth = state.critic[rule.state_of] + _advantages(parts[rule.blocks[0].name], counts, rule)
        values = np.clip(np.maximum.reduceat(worth, _first_pairs(rule)), *VALUE_RANGE)
    return TrainingState(
        parameters=values[rule.state_of] if worth is None else worth,
        momentum=counts,
        critic=values,
        visits=visits,
        round=state.round + 1,
        predecessor=hashlib.sha256(state.to_bytes()).digest(),
    )


def _parts(state: TrainingState, total: Sum, rule: ValueRule) -> dict[str, _Part]:
    """Undo the public factors of the blocks that this round fills."""
    found = {}
    for block in blocks_in_round(rule.blocks, rule.rounds, state.round + 1):
        if block.noise_share > 0:
            unit = block.clip_norm / math.sqrt(block.noise_share)
            values = total.integers[block.start : block.stop].astype(np.float64) / total.scale * unit
            found[block.name] = _Part(values, rule.site_noise * math.sqrt(len(total.contributors)) * unit)
    return found


def _counts(counted: _Part, rule: ValueRule) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the posterior mean of each pair's count, around equal counts in its state, and the visits of states."""
    actions = np.bincount(rule.state_of, minlength=rule.states).astype(np.float64)
    noise = np.sqrt(actions) * counted.deviation
    visits = np.maximum(np.bincount(rule.state_of, counted.values, rule.states), np.maximum(noise, _FEWEST_VISITS))
    equal = (visits / actions)[rule.state_of]
    spread = rule.count_spread * equal
    trust = spread * spread / (spread * spread + counted.deviation * counted.deviation)
    counts = np.maximum(equal + trust * (counted.values - equal), _LEAST_COUNT * equal)
    return counts, visits


def _first_values(returns: _Part, visits: NDArray[np.float64], rule: ValueRule) -> NDArray[np.float64]:
    chance = OUTCOME_VARIANCE / visits
    noise = returns.deviation / visits
    prior = rule.value_deviation * rule.value_deviation
    means = rule.first_value + returns.values / visits * (prior / (prior + chance + noise * noise))
    means = np.clip(means, *VALUE_RANGE)
    return np.clip(1.0 - (1.0 - rule.optimism) * (1.0 - means), *VALUE_RANGE)


def _advantages(errors: _Part, counts: NDArray[np.float64], rule: ValueRule) -> NDArray[np.float64]:
    """Return the posterior mean of each pair's advantage, less `pessimism` posterior deviations.

    Around the mean of its action over all states, which is known well where single pairs are not.
    """
    noise = errors.deviation / counts
    variance = ERROR_VARIANCE / counts + noise * noise
    prior = rule.advantage_deviation * rule.advantage_deviation
    trust = prior / (prior + variance)
    found = errors.values / counts
    weights = np.bincount(rule.action_of, trust)
    means = np.bincount(rule.action_of, trust * found) / np.where(weights > 0, weights, 1.0)
    usual = means[rule.action_of]
    doubt = rule.pessimism * rule.advantage_deviation * np.sqrt(1.0 - trust)
    return usual + (found - usual) * trust - doubt


def _first_pairs(rule: ValueRule) -> NDArray[np.int64]:
    return np.flatnonzero(np.diff(rule.state_of, prepend=-1))
