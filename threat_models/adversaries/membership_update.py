"""SFRL-B1: was this patient in the window? A whitened matched filter on one update, or on the sum of all sites.

A person's message is known to whoever knows the person: the policy is public and the gradient a function of both. What
hides it is the sum of the others, whose law the public simulator gives, and noise, whose law the charter gives. So the
log-likelihood ratio of "in" against "out" is a filter: the message, whitened by the covariance of all that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from threat_models.decoding import sums, uploads
from threat_models.threat import CapturedView, Guess, People, PublicInfo, Threat, Vector, View

ALONE, TOGETHER = "alone", "together"  # the two ways of looking at a pool; whoever reports, reports the better one
_FLOOR = 0.01  # of the others' mean variance a value: what shadow people say of directions that none of them moved

THREAT = Threat(
    id="SFRL-B1",
    name="membership_update",
    title="whether a known patient was in an update, or in the sum",
    views=frozenset({View.COORDINATOR}),
    given=(
        "the trajectories of a pool of candidates at one site, each in by its own coin; of everybody else the law "
        "only, from the public simulator"
    ),
    stronger="one who knows the trajectories of all other sites too, and has nothing but noise between",
    sources=(
        "Carlini et al. 2022, Membership Inference Attacks From First Principles, section 4",
        "Dwork et al. 2015, Robust Traceability from Trace Amounts, section 3 (scores against a noisy sum)",
    ),
    stride="Information disclosure",
    linddun="Detecting, Linking",
    atlas="AML.T0024.000",
    nist="NISTAML.033",
)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Who is asked about, in one window of one site."""

    people: People
    is_swap: bool = False  # they are pairs, and of each pair exactly one is in: then the first of each is asked about


class MembershipUpdate:
    """Scores candidates by what each one's presence would have changed."""

    def __init__(self, pools: Mapping[tuple[int, int], Candidates], *, window: int, shadows: int) -> None:
        """pools: by (round, site). window: slots of each site, each filled by a coin. shadows: people to learn from."""
        self._pools, self._window, self._shadows = pools, window, shadows
        self._factors: dict[tuple[int, int], Any] = {}  # Any: a Cholesky factor as SciPy has it

    def prepare(self, public: PublicInfo, rng: np.random.Generator) -> None:
        """Learn what the messages of ordinary people are like under the first policy."""
        self._public = public
        people = public.people(public.first_policy, self._shadows, int(rng.integers(2**32)))
        rows = public.messages(public.first_policy, people).astype(np.float32)
        self._mean = rows.mean(axis=0)
        # One slot holds a person or nobody: covariance 1/2 of the people's, and 1/4 of their mean's square.
        self._root = np.vstack([(rows - self._mean) / np.sqrt(2 * len(rows)), self._mean / 2])
        self._gram = (self._root @ self._root.T).astype(np.float64)

    def run(self, view: CapturedView) -> Guess:
        """Return float64 [people asked about] under "way/round/site"; larger means in. A swap is looked at together."""
        public, guess = self._public, {}
        is_plain = public.study.protection.method == "unsafe-plain"
        single, summed = (uploads(view, public), {}) if is_plain else ({}, sums(view, public))
        for (number, site), pool in sorted(self._pools.items()):
            seen = single.get((number, site)) if is_plain else summed.get(number)
            if seen is None:
                continue
            parties = 1 if is_plain else len(view.sums[number].contributors)
            known = public.messages(view.policies.get(number, public.first_policy), pool.people)
            if pool.is_swap:  # the second of a pair is in unless the first is: what is asked of is the difference
                seen, known = seen - known[1::2].sum(axis=0), known[::2] - known[1::2]
            others = (parties - 1) * self._window
            rest = seen - others / 2 * self._mean
            together = self._together(rest - known.sum(axis=0) / 2, known, others, parties)
            guess[f"{TOGETHER}/{number}/{site}"] = together
            if not pool.is_swap:
                slots = self._window - 1
                guess[f"{ALONE}/{number}/{site}"] = self._alone(
                    rest - slots / 2 * self._mean, known, slots + others, parties
                )
        return guess

    def _alone(self, rest: Vector, known: Vector, unknown: int, parties: int) -> Vector:
        """Return log-likelihood ratios, each candidate for himself, the other slots unknown."""
        whitened = self._whitened(known, unknown, parties)
        return np.asarray(whitened @ rest - np.einsum("ij,ij->i", whitened, known) / 2, dtype=np.float64)

    def _together(self, rest: Vector, known: Vector, unknown: int, parties: int) -> Vector:
        """Return the same once the pool's other coins are solved for, each as if Gaussian with its variance 1/4."""
        whitened = self._whitened(known, unknown, parties)
        inverse = np.linalg.inv(whitened @ known.T + 4 * np.eye(len(known)))
        return np.asarray(inverse @ (whitened @ rest) / np.diag(inverse), dtype=np.float64)

    def _whitened(self, known: Vector, unknown: int, parties: int) -> Vector:
        """Return known people's messages times the inverse covariance of `unknown` slots and the noise, by Woodbury."""
        public, spread = self._public, float(np.trace(self._gram))
        noise = public.noise_deviation**2 * parties / public.sites
        variance = noise + parties / public.scale**2 + _FLOOR * unknown * spread / public.length
        if not unknown:
            return known / variance
        if (unknown, parties) not in self._factors:
            self._factors[unknown, parties] = cho_factor(self._gram + np.eye(len(self._gram)) * variance / unknown)
        solved = cho_solve(self._factors[unknown, parties], self._root @ known.astype(np.float32).T)
        return np.asarray((known - solved.T.astype(np.float32) @ self._root) / variance)
