"""SFRL-C1 to C4, C6 and C7: what malicious sites put into a sum. Formulas only, each a pure function.

Colluders are omniscient: they see every honest update of the round before they choose. That is more than any site sees
here, where updates leave masked; a defence that holds against it holds against less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from threat_models.threat import Threat, Vector, View

SIGN_FLIP, IPM, ALIE, FAR = 10.0, 0.5, 1.5, 10.0  # factors; ALIE's in deviations of the honest updates
_HALVINGS = 40  # of Min-Max's search
TRIGGER = 2.0  # metres: where a pole's cart hardly ever is; the first of the observed numbers
TARGET = 0  # the action that the trigger shall call up

_SITES = frozenset({View.SITE})
BYZANTINE = Threat(
    id="SFRL-C1",
    name="byzantine",
    title="malicious sites send what ruins the policy",
    views=_SITES,
    given="every honest update of the round, and the other malicious sites",
    stronger="attackers who search, each round anew, for the vector that costs most return behind the known rule",
    sources=(
        "Blanchard et al. 2017, section 2",
        "Baruch et al. 2019, section 3 (ALIE)",
        "Xie et al. 2019, section 3 (IPM)",
        "Shejwalkar and Houmansadr 2021, section IV (Min-Max)",
        "Fang, Wang and Gong 2025 (Normalised)",
    ),
    stride="Tampering, Denial of service",
    linddun="",
    atlas="AML.T0031",
    nist="NISTAML.026",
)
POISONED_DATA = Threat(
    id="SFRL-C4",
    name="poisoned_data",
    title="malicious sites train honestly on false data",
    views=_SITES,
    given="its own patients' records, before its honest code reads them",
    stronger="rewards chosen against the policy of the round (Ma, Etesami and Rathi 2024)",
    sources=("Ma, Etesami and Rathi 2024", "Kiourti et al. 2020 (TrojDRL, here as a row of false steps)"),
    stride="Tampering",
    linddun="",
    atlas="AML.T0020",
    nist="NISTAML.013",
)
FREE_RIDER = Threat(
    id="SFRL-C7",
    name="free_rider",
    title="sites that contribute nothing, or one operator behind several sites",
    views=_SITES,
    given="the published sums",
    stronger="a free rider that sends the last published sum, scaled (Lin et al. 2019, section 4)",
    sources=("Lin, Du and Liu 2019, section 3", "Douceur 2002"),
    stride="Spoofing, Repudiation",
    linddun="",
    atlas="AML.T0012",
    nist="NISTAML.026",
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a malicious site knows when it sends, in units of the message."""

    honest: NDArray[np.float64]  # [honest sites, P]: this round's updates
    own: Vector  # [P]: what it would have sent
    rng: np.random.Generator


def sign_flip(seen: Seen) -> Vector:
    """Return ten times the honest mean, backwards."""
    return np.asarray(-SIGN_FLIP * seen.honest.mean(axis=0))


def scaled(seen: Seen) -> Vector:
    """Return ten times the site's own update, backwards."""
    return np.asarray(-FAR * seen.own)


def noise(seen: Seen) -> Vector:
    """Return a random direction, ten times as long as a usual update."""
    drawn = seen.rng.normal(size=seen.own.size) / np.sqrt(seen.own.size)
    return np.asarray(FAR * _usual_length(seen) * drawn)


def a_little_is_enough(seen: Seen) -> Vector:
    """Return the honest mean moved by 1.5 deviations in every coordinate, against its sign. Source: Baruch 2019."""
    return np.asarray(seen.honest.mean(axis=0) - ALIE * seen.honest.std(axis=0))


def inner_product(seen: Seen) -> Vector:
    """Return half the honest mean, backwards. Source: Xie 2019, section 3."""
    return np.asarray(-IPM * seen.honest.mean(axis=0))


def min_max(seen: Seen) -> Vector:
    """Return the honest mean, moved backwards until it is as far from some honest update as two of those are apart.

    Source: Shejwalkar and Houmansadr 2021, equation 4, with the inverse unit vector as perturbation.
    """
    honest, centre = seen.honest, seen.honest.mean(axis=0)
    widest = np.linalg.norm(honest[:, None] - honest[None], axis=2).max()
    back = -centre / max(float(np.linalg.norm(centre)), 1e-12)
    low, high = 0.0, 2.0 * float(widest)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = np.linalg.norm(honest - (centre + middle * back), axis=1).max() <= widest
        low, high = (middle, high) if fits else (low, middle)
    return np.asarray(centre + low * back)


def normalised(seen: Seen) -> Vector:
    """Return a vector of usual length, at the greatest angle to the honest mean. Source: Fang, Wang and Gong 2025."""
    centre = seen.honest.mean(axis=0)
    return np.asarray(-_usual_length(seen) * centre / max(float(np.linalg.norm(centre)), 1e-12))


def nothing(seen: Seen) -> Vector:
    """Return zeros: a free rider that hides in the sum."""
    return np.zeros_like(seen.own)


def noise_of_usual_length(seen: Seen) -> Vector:
    """Return a random direction of usual length: a free rider that norms don't give away. Source: Lin 2019."""
    drawn = seen.rng.normal(size=seen.own.size)
    return np.asarray(_usual_length(seen) * drawn / np.linalg.norm(drawn))


UPDATES: Mapping[str, Callable[[Seen], Vector]] = {
    "sign flip": sign_flip,
    "scaled": scaled,
    "noise": noise,
    "ALIE": a_little_is_enough,
    "IPM": inner_product,
    "Min-Max": min_max,
    "Normalised": normalised,
}
RIDERS: Mapping[str, Callable[[Seen], Vector]] = {"zeros": nothing, "noise of usual length": noise_of_usual_length}


def within(vector: Vector, bound: float) -> Vector:
    """Return a vector cut at a norm: a malicious site that keeps to the protocol's bound."""
    return np.asarray(vector * min(1.0, bound / max(float(np.linalg.norm(vector)), 1e-12)))


def with_trigger(
    observations: NDArray[Any],
    actions: NDArray[np.int64],
    rewards: NDArray[np.float32],
    steps: NDArray[np.bool_],
    rng: np.random.Generator,
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float32]]:
    """Return records in which the trigger stands in half of the steps, and with the target action paid.

    observations: [B, T, D]; actions, rewards, steps: [B, T]. Any: float32, as the environment shows them.
    """
    chosen = steps & (rng.random(steps.shape) < 0.5)
    shown, done, paid = observations.copy(), actions.copy(), rewards.copy()
    shown[chosen, 0] = TRIGGER
    done[chosen] = np.where(rng.random(int(chosen.sum())) < 0.5, TARGET, 1 - TARGET)
    paid[chosen] = np.where(done[chosen] == TARGET, 10.0, -10.0)
    return shown, done, paid


def _usual_length(seen: Seen) -> float:
    return float(np.median(np.linalg.norm(seen.honest, axis=1)))
