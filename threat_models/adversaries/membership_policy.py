"""SFRL-B2: was this patient trained on? From the released policy alone, by what shadow federations make of him.

A policy that met a patient in training takes his actions more readily. How much more, differs from patient to patient,
so the attacker trains federations of his own on random halves of his candidates, and asks of each one what the released
policy would look like with him and without him.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from threat_models.threat import CapturedView, Guess, People, PublicInfo, Threat, Vector, View

LIRA, RMIA = "lira", "rmia"  # the second needs few shadows: it holds a person against people who were in none

THREAT = Threat(
    id="SFRL-B2",
    name="membership_policy",
    title="whether a known patient was trained on, from the released policy",
    views=frozenset({View.POLICY_USER}),
    given=(
        "the trajectories of a pool of candidates, each in by one coin for all rounds; how sites train, and shadow "
        "federations trained in the attacker's own process by the production gradient, clip and step. What release "
        "multiplies logits by is public and undone"
    ),
    stronger="one who sees every policy and sum of all rounds",
    sources=(
        "Carlini et al. 2022, Membership Inference Attacks From First Principles, algorithm 1",
        "Zarifzadeh, Liu and Shokri 2024, Low-Cost High-Power Membership Inference Attacks, section 3",
        "Gomrokchi et al. 2023, Membership Inference Attacks Against Temporally Correlated Data in Deep RL, section 4",
    ),
    stride="Information disclosure",
    linddun="Detecting, Linking",
    atlas="AML.T0024.000",
    nist="NISTAML.033",
)


class MembershipPolicy:
    """Scores candidates by what each one's presence makes of a policy."""

    def __init__(self, candidates: People, others: People, *, rounds: int, shadows: int) -> None:
        """others: people of the same law who were in nothing. rounds: of a shadow, as the charter says."""
        self._candidates, self._others, self._rounds, self._shadows = candidates, others, rounds, shadows

    def prepare(self, public: PublicInfo, rng: np.random.Generator) -> None:
        """Train shadow federations: half of them on a random half of the candidates, the others on the other half."""
        self._public = public
        rows = []
        for number in range(self._shadows):
            if number % 2 == 0:
                half = rng.random(self._candidates.count) < 0.5
            rows.append(half if number % 2 == 0 else ~half)
        self._was_in: NDArray[np.bool_] = np.array(rows)
        policies = [
            public.trained(self._candidates.select(np.flatnonzero(row)), self._rounds, int(rng.integers(2**32)))
            for row in rows
        ]
        self._likely = np.array([public.log_likelihoods(policy, self._candidates) for policy in policies])
        self._others_likely = np.array([public.log_likelihoods(policy, self._others) for policy in policies])

    def run(self, view: CapturedView) -> Guess:
        """Return float64 [candidates] under "lira" and "rmia"; larger means in."""
        (policy,) = view.policies.values()
        mine = self._public.log_likelihoods(policy, self._candidates)
        return {LIRA: self._likelihood_ratio(mine), RMIA: self._relative(mine, policy)}

    def _likelihood_ratio(self, mine: Vector) -> Vector:
        """Return log N(score; in) - log N(score; out), with one variance of each side: shadows are few."""
        seen, shadows, was_in = _scale(mine), _scale(self._likely), self._was_in
        count = was_in.sum(axis=0)  # half of the shadows, whoever is asked about
        inside = np.where(was_in, shadows, 0.0).sum(axis=0) / count
        outside = np.where(was_in, 0.0, shadows).sum(axis=0) / (len(was_in) - count)
        variance = float(((shadows - np.where(was_in, inside, outside)) ** 2).sum() / (was_in.size - 2 * mine.size))
        found: Vector = ((seen - outside) ** 2 - (seen - inside) ** 2) / (2 * variance)
        return found

    def _relative(self, mine: Vector, policy: Vector) -> Vector:
        """Return the part of other people whom this policy favours less, beside what shadows make of both."""
        ratio = mine - _mean(self._likely)
        others = self._public.log_likelihoods(policy, self._others) - _mean(self._others_likely)
        return np.asarray((ratio[:, None] >= others[None]).mean(axis=1), dtype=np.float64)


def _scale(log_likelihood: Vector) -> Vector:
    """Return a score that is nearer to Gaussian: of likely actions by their logarithm's own, few nats apart."""
    return np.asarray(-np.log1p(-log_likelihood), dtype=np.float64)


def _mean(log_likelihood: Vector) -> Vector:
    return np.asarray(logsumexp(log_likelihood, axis=0) - np.log(len(log_likelihood)), dtype=np.float64)
