"""How much a message looks like each state's gradient: by row space, matched filter and decoding.

For a network over public features. A person of T steps leaves a first layer's gradient whose rows lie in the span of
the T inputs with their 1 of the bias, so a state that the person met lies in it too: exact without noise. Under noise
the whole gradient of each admissible (state, action) is held against the message instead; and of many steps, more than
rounding lets a rank tell, non-negative least squares over those gradients finds the few that are there. All of it is
computed layer by layer, so no matrix of states by parameters is ever made.
Source: Petrov et al. 2024, "DAGER", section 3 (span test); Dimitrov et al. 2024, "SPEAR", section 3 (rank).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from threat_models.decoding import gradients
from threat_models.threat import PublicInfo, Vector

SPAN, FILTER, SPARSE = "span", "filter", "sparse"  # the family, registered beforehand: its maximum is reported
_VALUE = "value."  # before the names of a value network's parameters
_MARGIN = 1.05  # of a singular value above the largest one that rounding and noise alone would give
_MOST_ATOMS = 128  # (state, action) pairs that a decoding takes on its way: a person has at most 48 steps
_RIDGE = 1e-12  # on a diagonal of 1: pairs that look alike make no singular system
_SILENCE = 2.5  # deviations of rounding and noise below which a pair's correlation says nothing

_ROWS = 128  # of the pairs' inner products made at once: all in one go is mostly a matter of fetching memory

Layer = tuple[Vector, Vector]  # [rows, out] of the loss by what the layer gives, [rows, in] of what enters it


class StateScores:
    """Scores of the live states for one policy; prepared once."""

    def __init__(self, public: PublicInfo, policy: Vector) -> None:
        """policy: parameters that the people met."""
        self._public = public
        self._inputs = np.asarray(public.codebook(), dtype=np.float64)
        with_bias = np.c_[self._inputs, np.ones(len(self._inputs))]
        self._directions = with_bias / np.linalg.norm(with_bias, axis=1, keepdims=True)
        arrays = public.arrays(policy)
        self._heads = sorted({name.rsplit("head.weight")[0] for name in arrays if name.endswith("head.weight")})
        states, actions = np.nonzero(public.admissible())
        self._pair_states = states
        self._layers = self._gradients_of(arrays, states, actions)
        self._gram: Vector | None = None
        self._lengths = np.sqrt(sum(_squares(delta) * (1 + _squares(entered)) for delta, entered in self._flat()))

    def scores(self, vector: Vector, noised: int, rounded: int = 0) -> dict[str, Vector]:
        """Return float64 [states] by method. vector: a message, a sum or a difference of sums.

        noised: in how many messages of it there is unknown noise; rounded: how many were rounded, as many when 0.
        """
        found, deviation = gradients(vector, self._public), self._deviation(noised, rounded or noised)
        matched = self._matched(found)
        return {
            SPAN: self._span(found, deviation),
            FILTER: self._by_state(np.abs(matched)),
            SPARSE: self._by_weight(*self._decoded(matched, deviation)),
        }

    def unexplained(self, vector: Vector, noised: int, rounded: int = 0) -> float:
        """Return the squared length of what no person's steps explain, 1 for rounding and noise; see `scores`."""
        found, deviation = gradients(vector, self._public), self._deviation(noised, rounded or noised)
        weights, _ = self._decoded(self._matched(found), deviation)
        length = sum(float((part**2).sum()) for part in found.values())
        expected = deviation**2 * sum(part.size for part in found.values())
        return (length - _explained(self._inner_products, weights)) / expected

    def _deviation(self, noised: int, rounded: int) -> float:
        """Return the deviation of one value: dithered rounding, and noise where there is some."""
        public = self._public
        noise = public.noise_deviation**2 * noised / public.sites
        factor = max(part.factor for part in public.parts)
        return float(np.sqrt(rounded / 6 / public.scale**2 + noise) * factor)

    def _span(self, found: Mapping[str, Vector], deviation: float) -> Vector:
        rows = np.vstack(
            [np.c_[found[f"{head}layers.0.weight"], found[f"{head}layers.0.bias"]] for head in self._heads]
        )
        _, singular, right = np.linalg.svd(rows, full_matrices=False)
        edge = _MARGIN * deviation * (np.sqrt(rows.shape[0]) + np.sqrt(rows.shape[1]))
        rank = min(max(1, int((singular > edge).sum())), rows.shape[1] - 1)
        return np.asarray(((self._directions @ right[:rank].T) ** 2).sum(axis=1))

    def _matched(self, found: Mapping[str, Vector]) -> Vector:
        """Return the inner product of a message with each pair's gradient of length 1, float64 [pairs]."""
        matched = np.zeros(len(self._pair_states))
        for name, (delta, entered) in self._layers.items():
            matched += ((delta @ found[f"{name}.weight"]) * entered).sum(axis=1) + delta @ found[f"{name}.bias"]
        return np.asarray(matched / self._lengths)

    def _by_state(self, pairs: Vector) -> Vector:
        scores = np.zeros(len(self._inputs))
        np.maximum.at(scores, self._pair_states, pairs)
        return scores

    def _decoded(self, matched: Vector, deviation: float) -> tuple[Vector, Vector]:
        """Return non-negative least squares over the pairs, and what each has in common with the rest [pairs].

        One person's steps have advantages of one sign, so the better of both signs counts.
        """
        tried = [_nonnegative(self._inner_products, sign * matched, _SILENCE * deviation) for sign in (1.0, -1.0)]
        return max(tried, key=lambda one: _explained(self._inner_products, one[0]))

    def _by_weight(self, weights: Vector, rest: Vector) -> Vector:
        """Return a score a state: what is in no solution is ranked by what it has in common with the rest."""
        return self._by_state(np.where(weights > 0, weights + 1.0, 0.0)) + 1e-3 * self._by_state(np.abs(rest))

    @property
    def _inner_products(self) -> Vector:
        """Return the inner product of every two pairs' gradients of length 1, float64 [pairs, pairs]."""
        if self._gram is None:
            pairs = self._lengths.size
            self._gram = np.zeros((pairs, pairs))
            layers = [(delta / self._lengths[:, None], entered) for delta, entered in self._flat()]
            for start in range(0, pairs, _ROWS):
                at = slice(start, start + _ROWS)
                for delta, entered in layers:
                    self._gram[at] += (delta[at] @ delta.T) * (entered[at] @ entered.T + 1)
        return self._gram

    # --- gradients of single steps ------------------------------------------------------------------------------------

    def _gradients_of(
        self, arrays: Mapping[str, Vector], states: NDArray[np.int64], actions: NDArray[np.int64]
    ) -> dict[str, Layer]:
        """Return each layer's gradient of one step's log-probability, and of its value, for every pair."""
        found: dict[str, Layer] = {}
        for head in self._heads:
            widths = sum(name.startswith(f"{head}layers.") and name.endswith("weight") for name in arrays)
            names = [f"{head}layers.{number}" for number in range(widths)] + [f"{head}head"]
            entered = [self._inputs]
            for name in names[:-1]:
                entered.append(np.tanh(entered[-1] @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]))
            given = entered[-1] @ arrays[f"{names[-1]}.weight"].T + arrays[f"{names[-1]}.bias"]
            delta = self._of_value(states) if head == _VALUE else self._of_policy(given, states, actions)
            for number in range(len(names) - 1, -1, -1):
                here = entered[number][states]
                found[names[number]] = (delta, here)
                if number:
                    delta = (delta @ arrays[f"{names[number]}.weight"]) * (1 - here**2)
        return found

    def _of_value(self, states: NDArray[np.int64]) -> Vector:
        return np.full((len(states), 1), self._public.study.training.value_weight)

    def _of_policy(self, logits: Vector, states: NDArray[np.int64], actions: NDArray[np.int64]) -> Vector:
        allowed = np.where(self._public.admissible(), logits, -np.inf)
        chances = np.exp(allowed - allowed.max(axis=1, keepdims=True))
        delta = -(chances / chances.sum(axis=1, keepdims=True))[states]
        delta[np.arange(len(states)), actions] += 1.0
        return np.asarray(delta)

    def _flat(self) -> list[Layer]:
        return list(self._layers.values())


def _squares(rows: Vector) -> Vector:
    return np.asarray((rows**2).sum(axis=1))


def _explained(gram: Vector, weights: Vector) -> float:
    """Return the squared length of a sum of pairs' gradients; few weights are not 0."""
    at = np.flatnonzero(weights)
    return float(weights[at] @ gram[np.ix_(at, at)] @ weights[at])


def _nonnegative(gram: Vector, matched: Vector, silence: float) -> tuple[Vector, Vector]:
    """Return the non-negative weights of least squares, and what each pair has in common with the rest [pairs].

    gram: inner products of pairs; matched: of pairs with the message; silence: where to stop.
    Source: Lawson and Hanson 1974, chapter 23, in its form for inner products (Bro and de Jong 1997).
    """
    weights, rest, chosen = np.zeros(matched.size), matched.copy(), np.zeros(matched.size, dtype=np.bool_)
    for _ in range(4 * _MOST_ATOMS):
        best = int(np.argmax(np.where(chosen, -np.inf, rest)))
        if rest[best] < silence or chosen.sum() >= _MOST_ATOMS:
            break
        chosen[best] = True
        while True:
            at = np.flatnonzero(chosen)
            wanted = np.linalg.solve(gram[np.ix_(at, at)] + _RIDGE * np.eye(at.size), matched[at])
            if (wanted > 0).all():
                break
            falling = wanted <= 0
            part = (weights[at] / np.maximum(weights[at] - wanted, 1e-300))[falling].min()
            weights[at] += part * (wanted - weights[at])
            gone = at[falling & (weights[at] <= 1e-14)]
            if not gone.size:
                gone = at[falling][:1]
            weights[gone], chosen[gone] = 0.0, False
            if not chosen.any():
                break
        at = np.flatnonzero(chosen)
        weights[:] = 0.0
        if at.size:
            weights[at] = wanted
        rest = matched - weights[at] @ gram[at]
        if best not in at:
            rest[best] = -np.inf  # it left at once: round-off
    return weights, np.where(np.isfinite(rest), rest, 0.0)
