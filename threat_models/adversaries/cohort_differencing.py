"""SFRL-A9: two sums of nearly the same people, one of them without the victim; their difference is the victim's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from threat_models.adversaries.state_scores import StateScores
from threat_models.threat import CapturedView, Guess, PublicInfo, Summed, Threat, Vector, View

THREAT = Threat(
    id="SFRL-A9",
    name="cohort_differencing",
    title="the same round without one site, and the difference of both sums",
    views=frozenset({View.COORDINATOR}),
    given="a coordinator that asks twice, and the public features of every state",
    stronger="many cohorts that differ in several sites, solved together",
    sources=("Lam et al. 2021, section 4", "Pasquini, Francati and Ateniese 2022, section 6"),
    stride="Information disclosure",
    linddun="Data disclosure, Linking",
    atlas="AML.T0024.001",
    nist="NISTAML.032",
)


class CohortDifferencing:
    """Subtracts every two sums of which one has a single site more, in one round or in the next."""

    def prepare(self, public: PublicInfo, rng: np.random.Generator) -> None:
        """Compute the gradients of every state and action under the first policy."""
        self._public = public
        self._scores = StateScores(public, public.first_policy)

    def run(self, view: CapturedView) -> Guess:
        """Return float64 [states] a difference and method under "method/round/site"."""
        guess: dict[str, Vector] = {}
        for number, larger, smaller in _pairs(view):
            (victim,) = set(larger.contributors) - set(smaller.contributors)
            vector = (larger.integers - smaller.integers) / self._public.scale
            messages = len(larger.contributors) + len(smaller.contributors)
            for method, scores in self._scores.scores(vector, messages).items():
                guess[f"{method}/{number}/{victim}"] = scores
        return guess


def _pairs(view: CapturedView) -> Iterator[tuple[int, Summed, Summed]]:
    """Yield the round of the larger sum, and both."""
    for number, one in sorted(view.sums.items()):
        for other in (view.asked_again.get(number), view.sums.get(number + 1)):
            if other is None:
                continue
            larger, smaller = sorted((one, other), key=lambda found: -len(found.contributors))
            if set(smaller.contributors) < set(larger.contributors) and len(larger.contributors) == 1 + len(
                smaller.contributors
            ):
                yield number, larger, smaller
