"""SFRL-A1: guess a person's few steps, compute the gradient that they would leave, and move them until it matches.

Nobody tells the attacker which states there are: features are free numbers. Everything else about a step is free too:
how its loss pulls at each logit and at the value. Each parameter's gradient counts in proportion to its own length, for
a head that begins near 0 leaves the lower layers a hundredth of its own.
Source: Zhu, Liu and Han 2019, "Deep leakage from gradients", algorithm 1 (L-BFGS); Geiping et al. 2020, "Inverting
gradients", section 3, for the weight of directions over lengths.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from threat_models.decoding import gradients, sums, uploads
from threat_models.threat import CapturedView, Guess, PublicInfo, Threat, Vector, View

_STARTS = 2  # the better one is kept
_SILENT = 2.0  # deviations of rounding and noise: a parameter's gradient no longer than so many says nothing

THREAT = Threat(
    id="SFRL-A1",
    name="grad_match",
    title="a person's steps, fitted to a message",
    views=frozenset({View.COORDINATOR, View.SITE, View.COALITION}),
    given="how many steps a person has at most; no table of features",
    stronger="the same with the public table of features: see row_space",
    sources=("Zhu, Liu and Han 2019, algorithm 1", "Geiping et al. 2020, section 3"),
    stride="Information disclosure",
    linddun="Data disclosure, Identifying",
    atlas="AML.T0024.001",
    nist="NISTAML.032",
)


class GradMatch:
    """Fits `steps` steps a person to the longest messages of a view: those that rounding blurs least."""

    def __init__(self, steps: int, messages: int, iterations: int) -> None:
        """steps: of a person. messages: how many of a view are attacked. iterations: of the optimiser, a start."""
        self._steps, self._messages, self._iterations = steps, messages, iterations

    def prepare(self, public: PublicInfo, rng: np.random.Generator) -> None:
        """Keep what is public; draw the starts, the same for every view."""
        self._public = public
        self._arrays = {name: torch.from_numpy(array) for name, array in public.arrays(public.first_policy).items()}
        self._seed = int(rng.integers(2**31))

    def run(self, view: CapturedView) -> Guess:
        """Return float64 [steps, D]: of readable uploads under "upload/round/site", else "sum/round"."""
        if self._public.study.protection.method == "unsafe-plain":
            found = {f"upload/{number}/{site}": (one, 1) for (number, site), one in uploads(view, self._public).items()}
        else:
            contributors = {number: len(total.contributors) for number, total in view.sums.items()}
            found = {f"sum/{n}": (one, contributors[n]) for n, one in sums(view, self._public).items()}
        loudest = sorted(found, key=lambda name: (-float(np.linalg.norm(found[name][0])), name))
        return {name: self._fitted(*found[name]) for name in loudest[: self._messages]}

    def _fitted(self, vector: Vector, people: int) -> Vector:
        found = gradients(vector, self._public)
        weights = self._weights(found, people)
        best, least = np.zeros((0, 0)), np.inf
        for start in range(_STARTS):
            generator = torch.Generator().manual_seed(self._seed + start)
            steps, loss = self._descended(found, weights, self._steps * people, generator)
            if loss < least:
                best, least = steps, loss
        return best

    def _weights(self, found: Mapping[str, Vector], people: int) -> dict[str, float]:
        """Return one over the squared length of each parameter's gradient; 0 for one that is rounding and noise."""
        public = self._public
        factor = max(part.factor for part in public.parts)
        deviation = np.sqrt(people / 6 / public.scale**2 + public.noise_deviation**2 * people / public.sites) * factor
        squares = {name: float((one**2).sum()) for name, one in found.items()}
        heard = {name: one > (_SILENT * deviation) ** 2 * found[name].size for name, one in squares.items()}
        some = any(heard.values())
        return {name: 1 / one if one and (heard[name] or not some) else 0.0 for name, one in squares.items()}

    def _descended(
        self, found: Mapping[str, Vector], weights: Mapping[str, float], count: int, generator: torch.Generator
    ) -> tuple[Vector, float]:
        """Return the steps [count, D] at the end of one descent, and how far their gradient is from the message."""
        names = [name for name, weight in weights.items() if weight]
        wanted = {name: torch.from_numpy(found[name]) for name in names}
        policy_outputs = self._arrays["head.bias"].numel()
        width = self._arrays["layers.0.weight"].shape[1]
        scale = sum(float((found[name] ** 2).sum()) for name in names) ** 0.5 / count
        steps = torch.randn(count, width, generator=generator, dtype=torch.float64).requires_grad_()
        pulls = torch.randn(count, policy_outputs + 1, generator=generator, dtype=torch.float64).requires_grad_()

        def distance() -> torch.Tensor:
            made = self._gradient_of(steps, pulls * scale)
            parts = [((made[name] - wanted[name]) ** 2).sum() * weights[name] for name in names]
            return torch.stack(parts).sum()

        optimiser = torch.optim.LBFGS(
            [steps, pulls],
            max_iter=self._iterations,
            history_size=50,
            line_search_fn="strong_wolfe",
            tolerance_grad=1e-13,
            tolerance_change=1e-17,
        )

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            loss = distance()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            return steps.detach().numpy().copy(), float(distance())

    def _gradient_of(self, steps: torch.Tensor, pulls: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return each parameter's gradient of sum over steps of pull times output; the last pull is the value's.

        Written out backwards, so that the optimiser differentiates once and not twice.
        """
        found: dict[str, torch.Tensor] = {}
        for prefix, pull in (("", pulls[:, :-1]), ("value.", pulls[:, -1:])):
            depth = sum(name.startswith(f"{prefix}layers.") and name.endswith(".weight") for name in self._arrays)
            names = [f"{prefix}layers.{number}" for number in range(depth)] + [f"{prefix}head"]
            entered = [steps]
            for name in names[:-1]:
                weight, bias = self._arrays[f"{name}.weight"], self._arrays[f"{name}.bias"]
                entered.append(torch.tanh(entered[-1] @ weight.T + bias))
            delta = pull
            for number in range(len(names) - 1, -1, -1):
                found[f"{names[number]}.weight"] = delta.T @ entered[number]
                found[f"{names[number]}.bias"] = delta.sum(dim=0)
                if number:
                    delta = (delta @ self._arrays[f"{names[number]}.weight"]) * (1 - entered[number] ** 2)
        return found
