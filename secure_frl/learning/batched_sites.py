"""Own training of many simulated sites in one call: their networks stand side by side, and a batch holds rows of all.

A batched product costs little more than one site's where each has few rows. Any Objective works as it is: rows are
trajectories, those of a site together, the same number at each; since no row's loss depends on another site's
parameters, one backward pass gives each site's gradient. A simulation's tool: a real hospital knows no other's policy.

Same source as `local_training`: McMahan et al. 2017, Algorithm 1 (ClientUpdate); Kingma and Ba 2015, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_frl.errors import InvalidParameter
from secure_frl.learning.networks import EMBEDDING, HEAD, VALUE, Network
from secure_frl.learning.policies import Policy

_TINY = 1e-8
_BETA_1, _BETA_2 = 0.9, 0.999


class SitesPolicy(Policy):
    """The networks of several sites, called like one site's policy with the rows of all of them, site by site."""

    def __init__(
        self,
        sites: int,
        network: Network,
        admissible: NDArray[np.bool_] | None = None,
        value: Network | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """sites: at least 1. value: a value network beside each. Raises InvalidParameter for networks with a memory."""
        super().__init__()
        if sites < 1 or network.is_recurrent:
            raise InvalidParameter(
                f"expected a site or more with networks without a memory, got {sites} with {network.kind}. "
                "Train recurrent policies one site at a time."
            )
        self.sites = sites
        self.value = None  # the base's value network is one site's; here `value_of` stands for it
        self._networks = {"": network} | ({} if value is None else {VALUE: value})
        shapes = {prefix + name: s for prefix, one in self._networks.items() for name, s in one.shapes.items()}
        self.stacked = {
            name: torch.zeros((sites, *shape), dtype=dtype, requires_grad=True) for name, shape in shapes.items()
        }
        self._add_critic(admissible, "none", dtype)

    @torch.no_grad()
    def load(self, arrays: Mapping[str, NDArray[np.float64]]) -> None:
        """Give every site the same parameters, by name."""
        for name, array in arrays.items():
            self.stacked[name].copy_(torch.from_numpy(array))

    def of_site(self, site: int) -> dict[str, NDArray[np.float64]]:
        """Return one site's parameters, by name."""
        return {name: whole.detach()[site].double().numpy() for name, whole in self.stacked.items()}

    def logits_of(self, observations: Tensor) -> Tensor:
        """Return logits [sites * rows, T, A]. observations: int64 [sites * rows, T] or float32 [.., T, D]."""
        return self._outputs("", observations)

    def value_of(self, observations: Tensor) -> Tensor:
        """Return values [sites * rows, T]. Raises InvalidParameter without value networks."""
        if VALUE not in self._networks:
            raise InvalidParameter("expected value networks, got policies without. Pass value.")
        return self._outputs(VALUE, observations)[..., 0]

    def _outputs(self, prefix: str, observations: Tensor) -> Tensor:
        network, steps = self._networks[prefix], observations.shape[:2]
        if network.embeds:
            table = self.stacked[f"{prefix}{EMBEDDING}.weight"]
            first = torch.arange(self.sites) * table.shape[1]
            rows = observations.reshape(self.sites, -1) + first[:, None]
            values = torch.tanh(nn.functional.embedding(rows, table.flatten(0, 1)))
        else:
            seen = observations.to(self.stacked[f"{prefix}{HEAD}.weight"].dtype)
            values = seen.reshape(self.sites, -1, observations.shape[-1])
        for number in range(len(network.linear_widths)):
            values = torch.tanh(self._linear(f"{prefix}layers.{number}", values))
        return self._linear(prefix + HEAD, values).reshape(*steps, network.outputs)

    def _linear(self, name: str, values: Tensor) -> Tensor:
        return torch.baddbmm(self.stacked[f"{name}.bias"][:, None], values, self.stacked[f"{name}.weight"].mT)


@dataclass(frozen=True, slots=True)
class SiteSteps:
    """How every site steps; see `local_training.LocalSettings`."""

    optimiser: str  # sgd | adam
    step_size: float
    max_gradient_norm: float = 0.0  # L2 of a site's gradient; 0: not cut
    proximal: float = 0.0  # mu of FedProx


class SitesOptimiser:
    """One step at each site at a time. A site whose gradient is not finite takes none, and the others do not notice."""

    def __init__(self, policy: SitesPolicy, settings: SiteSteps) -> None:
        """policy: holds the broadcast parameters, from which the proximal term counts."""
        self._policy = policy
        self._settings = settings
        self._names = list(policy.stacked)
        self._weights = [policy.stacked[name] for name in self._names]
        self._first = [weight.detach().clone() for weight in self._weights]
        self._means = [torch.zeros_like(weight) for weight in self._weights]
        self._squares = [torch.zeros_like(weight) for weight in self._weights]
        self._taken = torch.zeros(policy.sites, dtype=torch.float64)

    def step(self, losses: Tensor) -> None:
        """Take one step on each site's mean loss. losses: [sites * rows], of the policy as it is.

        Raises InvalidParameter unless every site has the same number of rows.
        """
        sites, settings = self._policy.sites, self._settings
        if losses.ndim != 1 or losses.shape[0] % sites:
            raise InvalidParameter(
                f"expected losses of the same number of rows at each of {sites} sites, got {tuple(losses.shape)}. "
                "Pad each site's batch to the longest."
            )
        total = losses.reshape(sites, -1).mean(dim=1).sum()
        found = [part.contiguous() for part in torch.autograd.grad(total, self._weights)]
        with torch.no_grad():
            norms = torch.stack([part.flatten(1).square().sum(dim=1) for part in found]).sum(dim=0).sqrt()
            fine = torch.isfinite(norms)
            if not bool(fine.all()):
                found = [torch.where(_each(fine, part), part, 0.0) for part in found]
            if settings.max_gradient_norm:
                factors = (settings.max_gradient_norm / (norms + _TINY)).clamp(max=1.0).nan_to_num()
                found = [part * _each(factors, part) for part in found]
            if settings.proximal:
                for part, weight, first in zip(found, self._weights, self._first, strict=True):
                    part.add_((weight - first) * _each(fine.to(part.dtype), part), alpha=settings.proximal)
            if settings.optimiser == "adam":
                found = self._adapted(found, fine)
            torch._foreach_sub_(self._weights, found, alpha=settings.step_size)

    def _adapted(self, gradients: list[Tensor], fine: Tensor) -> list[Tensor]:
        """Return Adam's directions, and remember; a site that takes no step remembers nothing of it."""
        self._taken += fine
        moves = []
        for mean, square, part in zip(self._means, self._squares, gradients, strict=True):
            here = _each(fine.to(part.dtype), part)
            mean += (1 - _BETA_1) * here * (part - mean)
            square += (1 - _BETA_2) * here * (part * part - square)
            taken = self._taken.clamp(min=1).to(part.dtype)
            corrected = (square / _each(1 - _BETA_2**taken, part)).sqrt() + _TINY
            moves.append(here * (mean / _each(1 - _BETA_1**taken, part)) / corrected)
        return moves


def _each(values: Tensor, beside: Tensor) -> Tensor:
    """Return one value a site, [sites], in the shape that multiplies stacked parameters."""
    return values.reshape(-1, *([1] * (beside.ndim - 1)))
