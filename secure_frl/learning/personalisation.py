"""One hospital's own values of actions, with what a shared policy prefers as their prior. For tables of states.

    Q(s, a)  =  (sum of targets at (s, a)  +  k (L(s) + t G(s, a))) / (n(s, a) + k)
    target   =  reward + discount max_b Q(s', b);  0 after an end
    L(s)     =  how much s is worth beside the preference: mean of target - t G over the own visits of s, and 20 more
                visits' worth of a public constant

G are the shared policy's logits, centred in each state. Their scale t and the pseudo-counts k come from the own records
by the method of moments: t is the least-squares slope of own advantages on G, and k = w v / u with v the variance of
targets about their pair's mean, u the variance of advantages about t G that v does not explain. So a shared policy
that says nothing of this hospital gets a slope near 0, and G = 0 is the same learner without one. w, `prior_weight`,
is below 1 because hospitals differ in few states and much: a normal prior holds those back.

Everything here is computed from raw records: it belongs inside the hospital and behind the last shared round.
Source: Efron and Morris 1973, Stein's estimation rule and its competitors, section 2 (estimated shrinkage); Sutton and
Barto 2018, section 4.4 (value iteration), on the model of the own counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.trajectories import Trajectories

LEVEL_VISITS = 20.0  # visits' worth of trust in the public first value of a state
LEAST_PSEUDO_COUNTS = 5.0  # a pair that was met once or twice is never taken at its word
MOST_PSEUDO_COUNTS = 5000.0  # and hardly any hospital meets a pair so often
_SWEEPS = 400  # of value iteration; with k of 5 or more and some hundred visits a pair a tenth of them is enough
_MOMENTS_UNTIL = 60  # sweeps, every fifth; then slope and pseudo-counts stay, so that the iteration settles
_SETTLED = 1e-6


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class OwnValues:
    """What a hospital makes of its own records. Stays there."""

    values: NDArray[np.float64]  # [states, actions]; -inf where not admissible
    slope: float  # t; 0 without a shared policy
    pseudo_counts: float  # k

    def greedy(self) -> NDArray[np.float64]:
        """Return the best action of each state as probabilities [states, actions]."""
        found = np.zeros(self.values.shape)
        found[np.arange(len(found)), self.values.argmax(axis=1)] = 1.0
        return found


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Counts:
    """Own records as counts. Pairs are state * actions + action."""

    shape: tuple[int, int]
    visits: NDArray[np.float64]  # [states, actions]
    rewards: NDArray[np.float64]  # [states, actions], sums
    squares: NDArray[np.float64]  # [states, actions], sums of squared rewards
    pair: NDArray[np.int64]  # [m] of each kind of transition that does not end an episode
    following: NDArray[np.int64]  # [m] the state behind it
    times: NDArray[np.float64]  # [m] how often
    with_reward: NDArray[np.float64]  # [m] sum of the rewards on the way

    def summed(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return weight [m] added up by pair, [states, actions]."""
        return _by_key(self.pair, weight, self.shape[0] * self.shape[1]).reshape(self.shape)


def own_values(
    own: Trajectories,
    preference: NDArray[np.float64],
    admissible: NDArray[np.bool_],
    *,
    first_value: float,
    discount: float = 1.0,
    prior_weight: float = 0.3,
) -> OwnValues:
    """Fit a hospital's values of actions to its own trajectories.

    own: observations int64 [B,T]; may be empty, which leaves the prior. preference: float64 [states, actions], logits
    of the shared policy, zeros without one. admissible: bool [states, actions]. first_value: public. discount: in
    (0, 1]. prior_weight: above 0. Raises InvalidParameter for other shapes or numbers.
    """
    if preference.shape != admissible.shape or own.observations.ndim != 2:
        raise InvalidParameter(
            f"expected a preference {list(admissible.shape)} and numbered states, got {list(preference.shape)} and "
            f"observations of {own.observations.ndim} axes. Personalise features by fine-tuning."
        )
    if not 0 < discount <= 1 or not 0 < prior_weight < np.inf:
        raise InvalidParameter(
            f"expected a discount in (0, 1] and a prior weight above 0, got {discount} and {prior_weight}. "
            "Correct training.discount and training.personal."
        )
    counts = _counted(own, admissible.shape)
    allowed = admissible | ~admissible.any(axis=1, keepdims=True)
    is_free = allowed.sum(axis=1) > 1
    centre = np.where(allowed, preference, 0.0).sum(axis=1, keepdims=True) / allowed.sum(axis=1, keepdims=True)
    shared = np.where(allowed, preference - centre, 0.0)
    slope, pseudo_counts = 0.0, LEAST_PSEUDO_COUNTS
    here = counts.visits.sum(axis=1)
    best = np.full(len(allowed), first_value)
    values = np.zeros(allowed.shape)
    for sweep in range(_SWEEPS):
        sums = counts.rewards + discount * counts.summed(counts.times * best[counts.following])
        if sweep % 5 == 0 and sweep <= _MOMENTS_UNTIL:
            slope, pseudo_counts = _moments(counts, sums, discount * best, shared, allowed & is_free[:, None])
            pseudo_counts = float(np.clip(prior_weight * pseudo_counts, LEAST_PSEUDO_COUNTS, MOST_PSEUDO_COUNTS))
        prior = slope * shared
        known = np.where(allowed, sums - counts.visits * prior, 0.0).sum(axis=1)
        level = (known + LEVEL_VISITS * first_value) / (here + LEVEL_VISITS)
        values = (sums + pseudo_counts * (level[:, None] + prior)) / (counts.visits + pseudo_counts)
        values[~allowed] = -np.inf
        before, best = best, values.max(axis=1)
        if sweep > _MOMENTS_UNTIL and np.abs(best - before).max() < _SETTLED:
            break
    return OwnValues(values, slope, pseudo_counts)


def _by_key(key: NDArray[np.int64], weight: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    return np.asarray(np.bincount(key, weight, size), dtype=np.float64)


def _counted(own: Trajectories, shape: tuple[int, int]) -> _Counts:
    states, actions = shape
    exists = own.steps
    following = np.zeros(own.observations.shape, dtype=np.int64)
    following[:, :-1] = own.observations[:, 1:]
    last = np.maximum(own.lengths - 1, 0)
    everybody = np.arange(own.count)
    goes_on = exists.copy()
    if own.count:
        following[everybody, last] = own.final_observations
        goes_on[everybody, last] &= ~own.terminated
    pair = own.observations * actions + own.actions
    size = states * actions
    rewards = own.rewards.astype(np.float64)
    kinds, kind = np.unique(pair[goes_on] * states + following[goes_on], return_inverse=True)
    return _Counts(
        shape,
        _by_key(pair[exists], np.ones(int(exists.sum())), size).reshape(shape),
        _by_key(pair[exists], rewards[exists], size).reshape(shape),
        _by_key(pair[exists], rewards[exists] ** 2, size).reshape(shape),
        kinds // states,
        kinds % states,
        _by_key(kind, np.ones(kind.size), kinds.size),
        _by_key(kind, rewards[goes_on], kinds.size),
    )


def _moments(
    counts: _Counts,
    sums: NDArray[np.float64],
    worth: NDArray[np.float64],
    shared: NDArray[np.float64],
    compared: NDArray[np.bool_],
) -> tuple[float, float]:
    """Return the slope t and v / u, the pseudo-counts of a normal prior.

    sums: of targets [states, actions]. worth: discounted value of each state. compared: pairs of states with a choice.
    """
    visits = counts.visits
    means = sums / np.maximum(visits, 1.0)
    following = worth[counts.following]
    squares = counts.squares + counts.summed(2 * following * counts.with_reward + following**2 * counts.times)
    often = visits >= 2
    if not often.any():
        return 0.0, MOST_PSEUDO_COUNTS
    noise = float((squares - visits * means**2)[often].sum() / (visits[often] - 1).sum())
    weight = np.where(compared, visits, 0.0)
    here = np.maximum(weight.sum(axis=1, keepdims=True), 1.0)

    def centred(found: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(found - (weight * found).sum(axis=1, keepdims=True) / here)

    own, theirs = centred(means), centred(shared)
    scale = float((weight * theirs**2).sum())
    slope = max(0.0, float((weight * own * theirs).sum()) / scale) if scale > 0 else 0.0
    # E[sum n r^2] = (pairs - states) v + u sum (n - n^2 / N): what is left of the own means about t G.
    met = weight > 0
    freedom = float(met.sum() - met.any(axis=1).sum())
    spread = float((weight - weight**2 / here).sum())
    left = float((weight * (own - slope * theirs) ** 2).sum()) - freedom * noise
    if left <= 0 or spread <= 0 or noise <= 0:
        return slope, MOST_PSEUDO_COUNTS
    return slope, noise * spread / left
