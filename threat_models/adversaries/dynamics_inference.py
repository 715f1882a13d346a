"""SFRL-B4: in which of some worlds was this policy trained? From the released policy alone.

A policy gradient moves each state's logits by how much better an action is there than the others, as often as somebody
comes by. Whoever can solve a candidate world knows that direction, and looks which of them the policy went.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from threat_models.threat import CapturedView, Guess, PublicInfo, Threat, Vector, View

DIRECTION, GREEDY = "direction", "greedy"  # the first is the attack; the second is read beside it
_SWEEPS = 200  # steps after which hardly anybody is still there

THREAT = Threat(
    id="SFRL-B4",
    name="dynamics_inference",
    title="in which of some worlds a policy was trained, from the released policy",
    views=frozenset({View.POLICY_USER}),
    given="the transition tables of all candidates, one of which is the hospitals' own",
    stronger="one who has no candidates and searches among all tables, or sees every policy of all rounds",
    sources=("Pan et al. 2019, How You Act Tells a Lot: Privacy-Leaking Attack on Deep Reinforcement Learning",),
    stride="Information disclosure",
    linddun="Data disclosure, Linking",
    atlas="AML.T0024",
    nist="NISTAML.034",
)


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """A candidate: what happens to patients, by admissible (state, action) pair in the order of the public table."""

    moves: csr_array  # float64 [pairs, states]: how likely each next state is
    first: Vector  # [live states]: who comes
    worth: Vector  # [states]: the reward of a state in which a stay ends; 0 where it goes on


class DynamicsInference:
    """Scores candidates by how well a policy agrees with what is worth doing in each."""

    def __init__(self, worlds: Sequence[World]) -> None:
        """worlds: the candidates, in any order; the guess has theirs."""
        self._worlds = tuple(worlds)

    def prepare(self, public: PublicInfo, rng: np.random.Generator) -> None:
        """Solve each candidate: advantages under the uniform policy, and the best action of each state."""
        self._public, self._admissible = public, public.admissible()
        self._state = np.nonzero(self._admissible)[0]
        live = len(self._admissible)
        share = 1.0 / self._admissible.sum(axis=1)
        solved = [self._solved(world, live, share) for world in self._worlds]
        self._directions = np.array([direction for direction, _, _ in solved])
        self._best = np.array([best for _, best, _ in solved])
        self._visits = np.array([visits for _, _, visits in solved])

    def run(self, view: CapturedView) -> Guess:
        """Return float64 [worlds] under "direction" and "greedy"; larger means more likely."""
        (policy,) = view.policies.values()
        logits = self._public.arrays(policy)["logits.weight"][: len(self._admissible)]
        moved = self._centred(logits[self._admissible])
        length = max(float(np.linalg.norm(moved)), 1e-300)
        greedy = np.where(self._admissible, logits, -np.inf).argmax(axis=1)
        agree = (self._best == greedy) & (self._admissible.sum(axis=1) > 1)
        return {
            DIRECTION: np.asarray(self._directions @ moved / length, dtype=np.float64),
            GREEDY: np.asarray((agree * self._visits).sum(axis=1), dtype=np.float64),
        }

    def _solved(self, world: World, live: int, share: Vector) -> tuple[Vector, NDArray[np.int64], Vector]:
        """Return the unit direction of a policy gradient [pairs], the best actions [live], and visits [live]."""
        values, best = world.worth.copy(), world.worth.copy()
        reached, visits = world.first.copy(), np.zeros(live)
        for _ in range(_SWEEPS):
            values[:live] = np.bincount(self._state, world.moves @ values) * share
            best[:live] = self._table(world.moves @ best).max(axis=1)
            visits += reached
            reached = (world.moves.T @ (reached * share)[self._state])[:live]
        direction = self._centred(world.moves @ values) * (visits * share)[self._state]
        chosen = self._table(world.moves @ best).argmax(axis=1).astype(np.int64)
        return direction / np.linalg.norm(direction), chosen, visits

    def _table(self, of_pairs: Vector) -> Vector:
        found = np.full(self._admissible.shape, -np.inf)
        found[self._admissible] = of_pairs
        return found

    def _centred(self, of_pairs: Vector) -> Vector:
        """Return a value of each pair less the mean of its state."""
        mean = np.bincount(self._state, of_pairs) / self._admissible.sum(axis=1)
        return np.asarray(of_pairs - mean[self._state], dtype=np.float64)
