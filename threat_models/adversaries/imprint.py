"""SFRL-A5: a policy whose first layer sorts steps into bins, so that a sum's gradients are single steps again.

All rows of the first layer are one direction, each steep at its own place: tanh is flat elsewhere, so a row's gradient
is of the steps that fall there, and weight over bias gives their features. With a value network there are two such
layers, along two directions; it is set far below every return, so no step's residual is near zero and all have the same
sign. The signs of the heads alternate, so that logits and values stay small although every unit is saturated.
Source: Fowl et al. 2022, "Robbing the Fed", section 3, whose ReLU rows need differences of neighbours; tanh needs none.
"""

from __future__ import annotations

import numpy as np

from threat_models.decoding import gradients, sums, uploads
from threat_models.threat import CapturedView, Guess, PublicInfo, Threat, Vector, View

LAYER, HEAD, VALUE = "layers.0", "head", "value."
STEEPNESS = 4.0  # of a row between its neighbours: half way to the next one its slope is 1 / cosh(2)^2, there 1/750
_POLICY_HEAD = 0.5  # logits of one action differ by 2 at most, so that no action's gradient vanishes
_VALUE_HEAD, _VALUE_BIAS = 2.0, -6.0  # values are in [-6, -2], returns in [0, 1]
_ROUNDING = 8.0  # deviations of rounding below which a row says nothing
_SHADOWS = 1500  # simulated people who say where the bins are

THREAT = Threat(
    id="SFRL-A5",
    name="imprint",
    title="single steps read off a sum, under a policy that the coordinator planted",
    views=frozenset({View.COORDINATOR}),
    given="what everybody knows, how far people's features lie from their state's, and sites that take any policy",
    stronger="a joint fit of all rows, which separates steps that share a bin",
    sources=("Fowl et al. 2022, Robbing the Fed, section 3",),
    stride="Tampering, Information disclosure",
    linddun="Data disclosure, Unawareness",
    atlas="AML.T0018.001, AML.T0024.001",
    nist="NISTAML.032, NISTAML.051",
)
MISSED = Threat(
    id="SFRL-A5m",
    name="imprint_missed_steps",
    title="the same, where the policy is said to be of a step that the sites missed",
    views=frozenset({View.COORDINATOR}),
    given="what everybody knows, and how far people's features lie from their state's; sites check as they do",
    stronger=THREAT.stronger,
    sources=THREAT.sources,
    stride=THREAT.stride,
    linddun=THREAT.linddun,
    atlas=THREAT.atlas,
    nist=THREAT.nist,
)


class Imprint:
    """Makes the policy, and reads steps off sums and uploads that were made under it."""

    def __init__(self, spread: float, steepness: float = STEEPNESS) -> None:
        """spread: deviation of a person's features around those of the state; public knowledge about people."""
        self._spread, self._steepness = spread, steepness

    def prepare(self, public: PublicInfo, rng: np.random.Generator) -> None:
        """Make the policy from simulated people. Raises InvalidParameter for states without features."""
        self._public = public
        people = public.people(public.first_policy, _SHADOWS, int(rng.integers(2**32)))
        seen = people.observations[people.steps].astype(np.float64)
        seen += self._spread * rng.standard_normal(seen.shape)
        arrays = {name: np.zeros_like(array) for name, array in public.arrays(public.first_policy).items()}
        for prefix in (VALUE, "") if f"{VALUE}{LAYER}.weight" in arrays else ("",):
            weight, bias = self._rows(seen, len(arrays[f"{prefix}{LAYER}.bias"]), rng)
            arrays[f"{prefix}{LAYER}.weight"], arrays[f"{prefix}{LAYER}.bias"] = weight, bias
            outputs = len(arrays[f"{prefix}{HEAD}.bias"])
            signs = np.where(np.arange(outputs) % 2, 1.0, -1.0)[:, None] * np.where(np.arange(len(bias)) % 2, 1.0, -1.0)
            arrays[f"{prefix}{HEAD}.weight"] = (_VALUE_HEAD if prefix else _POLICY_HEAD) * signs
            arrays[f"{prefix}{HEAD}.bias"] = np.full(outputs, _VALUE_BIAS if prefix else 0.0)
        numbers = public.arrays(np.arange(public.first_policy.size, dtype=np.float64))
        self.policy = np.zeros(public.first_policy.size)
        for name, at in numbers.items():
            self.policy[at.astype(np.int64)] = arrays[name]

    def _rows(self, seen: Vector, units: int, rng: np.random.Generator) -> tuple[Vector, Vector]:
        """Return weights [units, D] and biases [units]: a bin a unit, as many people's steps in each."""
        drawn = rng.standard_normal(seen.shape[1])
        direction = drawn / np.linalg.norm(drawn)
        places = np.quantile(seen @ direction, (np.arange(units) + 0.5) / units)
        slopes = self._steepness / np.maximum(np.gradient(places), 1e-3)
        return np.outer(slopes, direction), -slopes * places

    def run(self, view: CapturedView) -> Guess:
        """Return float64 [guesses, D] a sum under "sum/round", and an upload under "upload/round/site"."""
        guess = {}
        for number, vector in sums(view, self._public).items():
            guess[f"sum/{number}"] = self._steps(vector, len(view.sums[number].contributors))
        for (number, site), vector in uploads(view, self._public).items():
            guess[f"upload/{number}/{site}"] = self._steps(vector, 1)
        return guess

    def _steps(self, vector: Vector, sites: int) -> Vector:
        """Return what each row says that its step was: the gradient of its weights over that of its bias."""
        found = gradients(vector, self._public)
        factor = self._public.parts[0].factor
        silence = _ROUNDING * factor * np.sqrt(sites) / self._public.scale
        guesses = []
        for name, bias in found.items():
            if name.endswith(f"{LAYER}.bias"):
                heard = np.abs(bias) > silence
                guesses.append(found[name.replace("bias", "weight")][heard] / bias[heard, None])
        return np.concatenate(guesses)
