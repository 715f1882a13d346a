"""SFRL-A8: every site but the victim is sent a policy whose gradient vanishes, so that the sum is the victim's."""

from __future__ import annotations

import numpy as np

from threat_models.adversaries.state_scores import StateScores
from threat_models.decoding import sums
from threat_models.threat import CapturedView, Guess, PublicInfo, Threat, Vector, View

_STEP = 1000.0  # between two logits: exp(-1000) is 0 in float64, so a chance is 1 or 0 and its gradient is 0
_VALUE = 1e6  # of every state by the planted value network: an error beyond every clip, so its message is the clip
_VALUE_BIAS = "value.head.bias"
_CUT_SITES = 3  # at most, whose person was cut at the last step: such a person has no error, and so no message
_EXPLAINED = 2.0  # of a squared length, times what rounding leaves: then the others are out

THREAT = Threat(
    id="SFRL-A8",
    name="model_inconsistency",
    title="another policy for all but one site, so that the sum is that site's",
    views=frozenset({View.COORDINATOR}),
    given="a coordinator that plants policies, and the public features of every state",
    stronger="several victims a round, told apart by disjoint parts of the network that stay alive",
    sources=("Pasquini, Francati and Ateniese 2022, sections 4 and 5",),
    stride="Tampering, Information disclosure",
    linddun="Data disclosure, Unawareness",
    atlas="AML.T0018.001",
    nist="NISTAML.032",
)


def silent_policy(public: PublicInfo) -> Vector:
    """Return parameters under which a message says nothing of its people, float64 [P of the policy block].

    All weights are 0, so only biases of the last layers have gradients. Logits are so far apart that the first allowed
    action is taken for certain. The bias of a value network is so far off that its gradient is cut to the clip, the
    same for everybody.
    """
    silent = np.zeros_like(public.first_policy)
    for part in public.parts:
        if part.parameter == "head.bias":
            silent[part.start : part.stop] = -_STEP * part.coordinates
        elif part.parameter == _VALUE_BIAS:
            silent[part.start : part.stop] = _VALUE
    return silent


class ModelInconsistency:
    """Takes the known messages of the other sites out of a sum, and scores states by what is left."""

    def prepare(self, public: PublicInfo, rng: np.random.Generator) -> None:
        """Compute the gradients of every state and action under the policy that the victim meets."""
        self._public = public
        self._scores = StateScores(public, public.first_policy)
        self._silent = np.zeros(public.length)
        for part in public.parts:
            if part.parameter == _VALUE_BIAS:
                clip = max(one.factor for one in public.parts)
                self._silent[part.start : part.stop] = clip / part.factor

    def run(self, view: CapturedView) -> Guess:
        """Return float64 [states] a sum and method under "method/round"."""
        guess: dict[str, Vector] = {}
        for number, vector in sums(view, self._public).items():
            noised = len(view.sums[number].contributors)
            for method, scores in self._scores.scores(self._alone(vector, noised), noised, rounded=1).items():
                guess[f"{method}/{number}"] = scores
        return guess

    def _alone(self, vector: Vector, sites: int) -> Vector:
        """Return a sum less the others' messages, of as many others as leave the least unexplained."""
        fewest = sites - 1 if self._public.noise_deviation else sites - 1 - _CUT_SITES  # under noise nothing tells them
        best, least = vector, np.inf
        for others in range(sites - 1, max(fewest, 0) - 1, -1):
            tried = vector - others * self._silent
            left = self._scores.unexplained(tried, sites, 1)
            if left < least:
                best, least = tried, left
            if least < _EXPLAINED:
                break
        return best
