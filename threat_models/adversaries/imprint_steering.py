"""SFRL-A5s: the same imprint, where every site checks that the policy follows from the sum: the coordinator states it.

It keeps the real sums to itself and states others, each as far towards its policy as the range of a sum allows. Rows
are less steep than those of a planted policy, for a steep row is a long way from the first one.
"""

from __future__ import annotations

from threat_models.adversaries.imprint import THREAT as PLANTED
from threat_models.adversaries.imprint import Imprint
from threat_models.threat import Threat, View

STEEPNESS = 3.0  # of a row between its neighbours; the way to it is as long

THREAT = Threat(
    id="SFRL-A5s",
    name="imprint_steering",
    title="single steps read off a sum, under a policy that the coordinator steered to by sums it made up",
    views=frozenset({View.COORDINATOR}),
    given="what everybody knows, and how far people's features lie from their state's; sites check as they do",
    stronger="rows that serve while they are still under way, and a joint fit of all of them",
    sources=(*PLANTED.sources, "Boenisch et al. 2023, When the Curious Abandon Honesty, section 4"),
    stride=PLANTED.stride,
    linddun=PLANTED.linddun,
    atlas=PLANTED.atlas,
    nist=PLANTED.nist,
)


class SteeredImprint(Imprint):
    """An imprint near enough to be steered to."""

    def __init__(self, spread: float) -> None:
        """See Imprint."""
        super().__init__(spread, STEEPNESS)
