"""What everybody knows of a study: its charter's constants, the code, the public simulator. Built for adversaries."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.federation.optimisers import OptimiserRule, initial_state, step
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training import Trainer
from secure_frl.learning.forms import policy_form
from secure_frl.learning.policies import Policy, build_policy, observed
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.settings import FEATURES, ICU_SEPSIS, setting_of
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.planning import sum_constants
from secure_frl.secure_sum import SiteId, Sum, SumConstants
from secure_frl.study import Study
from secure_frl.study_file import parse_study
from threat_models.defences import WIDE, changed
from threat_models.threat import Part, Vector


@dataclass(frozen=True, eq=False)
class Public:
    """A `threat.PublicInfo`."""

    study: Study
    constants: SumConstants = field(repr=False)
    parts: tuple[Part, ...] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)

    @property
    def sites(self) -> int:
        """Return n."""
        return self.constants.sites

    @property
    def length(self) -> int:
        """Return P."""
        return self.constants.length

    @property
    def scale(self) -> float:
        """Return how many steps of the grid make one unit of the message."""
        return self.constants.scale

    @property
    def modulus_bits(self) -> int:
        """Return w."""
        return self.constants.modulus_bits

    @property
    def noise_deviation(self) -> float:
        """Return the deviation of the noise in a sum of all sites, in units of the message; 0 without noise."""
        per_site = self.constants.integer_noise_scale / self.constants.scale
        return per_site * math.sqrt(self.constants.sites)

    @property
    def first_policy(self) -> Vector:
        """Return the parameters before the first round."""
        return policy_form(self.study).first_vector()

    def arrays(self, policy: Vector) -> Mapping[str, Vector]:
        """Return a policy's parameters by name, in their own shapes."""
        return policy_form(self.study).arrays(policy)

    def codebook(self) -> NDArray[np.float32]:
        """Return the public features of every live state, float32 [states, D]. Raises InvalidParameter without one."""
        if self.study.data.environment != ICU_SEPSIS or self.study.data.observation != FEATURES:
            raise InvalidParameter("expected states that a table describes, got others. Choose another attack.")
        shown = setting_of(self.study).shown
        assert shown is not None
        return np.asarray(shown[:-3], dtype=np.float32)  # terminal states are last

    def admissible(self) -> NDArray[np.bool_]:
        """Return which actions each live state allows, bool [states, A]. Raises InvalidParameter without a table."""
        allowed = setting_of(self.study).shown_allowed
        if allowed is None:
            raise InvalidParameter("expected states that a table describes, got others. Choose another attack.")
        return np.asarray(allowed[:-3], dtype=np.bool_)

    def people(self, policy: Vector, count: int, seed: int) -> Trajectories:
        """Return simulated people whom a policy treated; anybody can make them."""
        environment = setting_of(self.study).make(count, self.study.data.max_steps)
        acting = self._trainer.acting(replace(self._state, parameters=policy))
        return roll_out(acting, environment, np.random.default_rng(seed), np.arange(count, dtype=np.uint64))

    def messages(self, policy: Vector, people: Trajectories) -> Vector:
        """Return each one's clipped message before rounding, float64 [people, P], under the first critic."""
        return self._trainer.unit_messages(replace(self._state, parameters=policy), people)

    def log_likelihoods(self, policy: Vector, people: Trajectories) -> Vector:
        """Return how likely a policy takes each one's actions where he was, in nats, float64 [people]."""
        model = self._policy
        model.load(policy_form(self.study).arrays(policy))
        with torch.no_grad():
            found = model(*observed(people))[0].double().numpy()
        taken = np.take_along_axis(found, np.where(people.steps, people.actions, 0)[..., None], axis=-1)[..., 0]
        return np.asarray(np.where(people.steps, taken, 0.0).sum(axis=1))

    def trained(self, people: Trajectories, rounds: int, seed: int) -> Vector:
        """Return the policy after rounds with the same people at all sites: the production gradient, clip and step.

        The noise of all sites is drawn from NumPy, for a federation of nobody's data needs no secure one.
        """
        rng, state, constants = np.random.default_rng(seed), self._state, self.constants
        everybody = tuple(SiteId(site) for site in range(self.sites))
        for _ in range(rounds):
            total = self._trainer.unit_messages(state, people).sum(axis=0)
            noised = total + rng.normal(0.0, self.noise_deviation, total.size)
            integers = np.rint(noised * constants.scale).astype(np.int64)
            state = step(state, Sum(integers, constants.scale, everybody), self._rule)
        return np.asarray(state.parameters)

    def rows(self, policy: Vector, count: int, seed: int) -> Vector:
        """Return clipped messages of `count` simulated people under a policy, float64 [count, P]."""
        return self.messages(policy, self.people(policy, count, seed))

    @cached_property
    def _trainer(self) -> Trainer:
        return Trainer(self.study, self.constants)

    @cached_property
    def _state(self):  # type: ignore[no-untyped-def]  # the optimiser's state, which stays in here
        return initial_state(self._rule)

    @cached_property
    def _rule(self) -> OptimiserRule:
        return optimiser_rule(self.study, self.constants)

    @cached_property
    def _policy(self) -> Policy:
        return build_policy(policy_form(self.study))


def public_of(study: Study) -> Public:
    """Return what is public of a study. Raises CharterRefused, BitBudget for constants that no site may sign."""
    constants, form = sum_constants(study), policy_form(study)
    factors = {block.name: block.clip_norm / math.sqrt(block.noise_share) for block in constants.blocks}
    parts, start = [], 0
    for segment in form.layout.segments:
        stop = start + segment.coordinates.size
        parts.append(Part(segment.parameter, start, stop, segment.coordinates, factors[segment.block]))
        start = stop
    shapes = {name: array.shape for name, array in form.arrays(form.first_vector()).items()}
    for part in parts:
        shapes.setdefault(part.parameter, (int(part.coordinates.max()) + 1,))
    return Public(study, constants, tuple(parts), shapes)


def typical_norm(study: Study, people: int = 200) -> float:
    """Return the median length of a simulated person's gradient at the first policy: a clip that cuts half of them."""
    wide = changed(study, {"privacy.noise": "unsafe-none", "privacy.clip_norm": WIDE})
    return _median_norm(json.dumps(wide.plain(), sort_keys=True), people)


@cache  # columns of one attack share their reference
def _median_norm(text: str, people: int) -> float:
    wide = parse_study(json.loads(text), source="a study under attack")
    public = public_of(wide)
    rows = public.rows(public.first_policy, people, seed=wide.study.seed)
    block = public.constants.blocks[0]
    norms = np.linalg.norm(rows[:, block.start : block.stop], axis=1) * WIDE / math.sqrt(block.noise_share)
    return float(np.median(norms[norms > 0]))  # whoever has no gradient is not cut whatever the clip
