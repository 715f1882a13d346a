"""SFRL-B3: is this hospital's case mix a severe one? A linear discriminant on one update, or on the sum of all sites.

A message is a sum over people, so people of two kinds move it in two directions, and more of one kind is visible in the
whole. Both directions, and how people scatter about them, come from simulated people. Nobody in particular is asked
about: what is learned is of the site.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

from threat_models.decoding import sums, uploads
from threat_models.threat import CapturedView, Guess, PublicInfo, Threat, Vector, View

_FLOOR = 0.1  # of the people's mean variance a value: few shadow people say too little of most directions

THREAT = Threat(
    id="SFRL-B3",
    name="property_inference",
    title="whether a hospital's patients are severely ill more often than elsewhere, from its update or the sum",
    views=frozenset({View.COORDINATOR}),
    given=(
        "the public simulator, from which it makes shadow people; the public severity of each state; how many people "
        "a site meets"
    ),
    stronger="one who follows a site over many rounds, or trains a network on shadow sites",
    sources=(
        "Ganju et al. 2018, Property Inference Attacks on Fully Connected Neural Networks",
        "Melis et al. 2019, Exploiting Unintended Feature Leakage in Collaborative Learning",
    ),
    stride="Information disclosure",
    linddun="Data disclosure, Linking",
    atlas="AML.T0024",
    nist="NISTAML.034",
)


class PropertyInference:
    """Scores each update by how far it lies in the direction of people who have a property."""

    def __init__(self, has_property: NDArray[np.bool_], *, window: int, shadows: int) -> None:
        """has_property: bool [live states], of the state in which a person comes. window: people of a site and round.

        shadows: simulated people to learn from.
        """
        self._has, self._window, self._shadows = has_property, window, shadows

    def prepare(self, public: PublicInfo, rng: np.random.Generator) -> None:
        """Learn from shadow people how those with the property move an update, and how all of them scatter."""
        people = public.people(public.first_policy, self._shadows, int(rng.integers(2**32)))
        rows = public.messages(public.first_policy, people).astype(np.float32)
        has = self._has[people.observations[:, 0]]
        means = {side: rows[has == side].mean(axis=0) for side in (False, True)}
        for side, mean in means.items():
            rows[has == side] -= mean
        self._public = public
        self._direction = (means[True] - means[False]).astype(np.float64)
        self._scatter = (rows.T @ rows).astype(np.float64) / self._shadows
        self._filters: dict[int, Vector] = {}

    def run(self, view: CapturedView) -> Guess:
        """Return float64 [1] under "round/site" of single updates, else under "round"; larger means severe."""
        public = self._public
        if public.study.protection.method == "unsafe-plain":
            single = sorted(uploads(view, public).items())
            return {f"{number}/{site}": np.array([seen @ self._filter(1)]) for (number, site), seen in single}
        summed = sorted(sums(view, public).items())
        return {
            str(number): np.array([seen @ self._filter(len(view.sums[number].contributors))]) for number, seen in summed
        }

    def _filter(self, parties: int) -> Vector:
        """Return the direction, whitened by people's scatter and the noise of so many sites."""
        if parties not in self._filters:
            public, people = self._public, parties * self._window
            noise = public.noise_deviation**2 * parties / public.sites + parties / public.scale**2
            floor = noise + _FLOOR * people * float(np.trace(self._scatter)) / public.length
            whole = people * self._scatter
            whole[np.diag_indices(public.length)] += floor
            self._filters[parties] = solve(whole, self._direction, assume_a="pos", overwrite_a=True)
        return self._filters[parties]
