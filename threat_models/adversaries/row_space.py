"""SFRL-A3: a dense network's message is a sum over steps of few known directions; which of them are in it?

The family, registered beforehand, of which the maximum is reported: the row space of the first layer, a matched filter
on the whole message, non-negative least squares over states and actions (of one person only), and least squares over
all states at once (best for a sum of many). The last one needs a value network: what a step adds to that network's
gradient depends on its state alone, up to a factor, so there are no more unknowns than states, and far fewer than
parameters.
Source of the last: Verdu 1998, "Multiuser detection", chapters 5 and 6 (decorrelating and linear minimum mean square
error detectors against the matched filter); of its prior: MacKay 1992, "Bayesian interpolation", section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from threat_models.adversaries.state_scores import FILTER, SPAN, SPARSE, StateScores
from threat_models.decoding import gradients, sums, uploads
from threat_models.threat import CapturedView, Guess, PublicInfo, Threat, Vector, View

JOINT = "joint"
OF_ONE, OF_MANY = (SPAN, FILTER, SPARSE, JOINT), (SPAN, FILTER, JOINT)  # families, by whose message is judged
_VALUE = "value."  # before the names of a value network's parameters
_PRIORS = 10.0 ** np.arange(-6.0, 2.0, 0.5)  # variances of a state's weight among which the message chooses
_LEAST = 1e-10  # of an eigenvalue that double precision can tell from 0

THREAT = Threat(
    id="SFRL-A3",
    name="row_space",
    title="which states were visited, read off the gradients of a dense network",
    views=frozenset({View.COORDINATOR, View.SITE, View.COALITION}),
    given="the public features of every state, and which actions each allows",
    stronger="one decoder over all rounds that knows which states follow each other",
    sources=(
        "Petrov et al. 2024, DAGER, section 3",
        "Dimitrov et al. 2024, SPEAR, section 3",
        "Verdu 1998, chapters 5 and 6 (joint detection)",
    ),
    stride="Information disclosure",
    linddun="Data disclosure, Identifying",
    atlas="AML.T0024.001",
    nist="NISTAML.032",
)


class RowSpace:
    """Scores states by each method of the family, for each upload and each sum."""

    def prepare(self, public: PublicInfo, rng: np.random.Generator) -> None:
        """Compute the gradients of every state and action under the first policy."""
        self._public = public
        self._scores = JointScores(public, public.first_policy)

    def run(self, view: CapturedView) -> Guess:
        """Return float64 [states]: of readable uploads under "method/upload/round/site", else "method/sum/round"."""
        guess: dict[str, Vector] = {}
        if self._public.study.protection.method == "unsafe-plain":
            for (number, site), vector in uploads(view, self._public).items():
                guess |= self._named(vector, 1, f"upload/{number}/{site}")
            return guess
        for number, vector in sums(view, self._public).items():
            count = len(view.sums[number].contributors)
            guess |= self._named(vector, count, f"sum/{number}")
        return guess

    def _named(self, vector: Vector, messages: int, name: str) -> dict[str, Vector]:
        return {f"{method}/{name}": found for method, found in self._scores.scores(vector, messages).items()}


class JointScores(StateScores):
    """Scores of the live states, those of all states together among them; for policies beside a value network."""

    def scores(self, vector: Vector, noised: int, rounded: int = 0) -> dict[str, Vector]:
        """Return float64 [states] by method; see `StateScores.scores`. Of many messages, none by the sparse method."""
        found, deviation = gradients(vector, self._public), self._deviation(noised, rounded or noised)
        if noised == 1:
            scores = super().scores(vector, noised, rounded)
        else:
            scores = {SPAN: self._span(found, deviation), FILTER: self._by_state(np.abs(self._matched(found)))}
        return {**scores, JOINT: self._joint(found, deviation)}

    def _joint(self, found: Mapping[str, Vector], deviation: float) -> Vector:
        """Return each state's weight, over the deviation that it would have if nobody had been there.

        Weights are a priori independent around 0, with the variance under which the message is likeliest.
        """
        values, vectors, lengths = self._axes
        matched = np.zeros(lengths.size)
        for name, (delta, entered) in self._directions_of_values.items():
            matched += ((delta @ found[f"{name}.weight"]) * entered).sum(axis=1) + delta @ found[f"{name}.bias"]
        along = (matched / lengths) @ vectors
        ratio = max(
            (deviation**2 / prior for prior in _PRIORS), key=lambda one: _likelihood(along, values, deviation, one)
        )
        weights = vectors @ (along / (values + ratio))
        alone = np.sqrt(vectors**2 @ (values / (values + ratio) ** 2))
        return np.asarray(np.abs(weights) / alone)

    @cached_property
    def _directions_of_values(self) -> dict[str, tuple[Vector, Vector]]:
        """Return the value network's layers, a row a state instead of one a state and action."""
        first = np.unique(self._pair_states, return_index=True)[1]
        return {
            name: (delta[first], entered[first])
            for name, (delta, entered) in self._layers.items()
            if name.startswith(_VALUE)
        }

    @cached_property
    def _axes(self) -> tuple[Vector, Vector, Vector]:
        """Return eigenvalues and vectors of the states' inner products, and lengths of their gradients."""
        layers = self._directions_of_values.values()
        gram = sum(((delta @ delta.T) * (entered @ entered.T + 1) for delta, entered in layers), np.zeros(()))
        lengths = np.sqrt(np.diagonal(gram))
        values, vectors = np.linalg.eigh(gram / lengths / lengths[:, None])
        kept = values > _LEAST
        return values[kept], vectors[:, kept], lengths


def _likelihood(along: Vector, values: Vector, deviation: float, ratio: float) -> float:
    """Return the logarithm of how likely a message is, but for a constant. ratio: noise over prior, of variances."""
    variance = values * (values / ratio + 1) * deviation**2
    return float(-0.5 * (np.log(variance) + along**2 / variance).sum())
