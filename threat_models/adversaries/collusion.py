"""SFRL-A10: the coordinator pools with sites, which subtract their own messages, noise included, from the sum."""

from __future__ import annotations

import numpy as np

from threat_models.adversaries.state_scores import StateScores
from threat_models.decoding import without_own
from threat_models.threat import CapturedView, Guess, PublicInfo, Threat, Vector, View

THREAT = Threat(
    id="SFRL-A10",
    name="collusion",
    title="sites that subtract their own messages from the sum",
    views=frozenset({View.COALITION}),
    given="the messages of its sites before masks, and the public features of every state",
    stronger="colluding sites that lie about their messages to shape later policies",
    sources=("Bonawitz et al. 2017, section 6.2", "Kairouz, Liu and Steinke 2021, section 3.3"),
    stride="Information disclosure",
    linddun="Data disclosure, Identifying",
    atlas="AML.T0024.001",
    nist="NISTAML.032",
)


class Collusion:
    """Scores states by what is left of each sum."""

    def prepare(self, public: PublicInfo, rng: np.random.Generator) -> None:
        """Compute the gradients of every state and action under the first policy."""
        self._public = public
        self._scores = StateScores(public, public.first_policy)

    def run(self, view: CapturedView) -> Guess:
        """Return float64 [states] a sum and method under "method/round"."""
        guess: dict[str, Vector] = {}
        for number, vector in without_own(view, self._public).items():
            others = set(view.sums[number].contributors) - set(view.controlled)
            for method, scores in self._scores.scores(vector, len(others)).items():
                guess[f"{method}/{number}"] = scores
        return guess
