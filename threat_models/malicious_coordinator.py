"""A coordinator that chooses the policy that people meet: it plants one, or steers there by sums that it makes up.

Everything else is the production code's: sites see what anybody who holds the coordinator's keys could send them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.encoding.lanes import attach
from secure_frl.encoding.ring import word_type
from secure_frl.errors import UnexpectedState
from secure_frl.federation.optimisers import OptimiserRule
from secure_frl.federation.policy_keepers import Concluded, Drive, OpenKeeper
from secure_frl.federation.site import StudySite
from secure_frl.federation.training_state import TrainingState
from secure_frl.masking.contexts import model_tag, survivors_hash, transcript_hash
from secure_frl.masking.coordinator_epoch import CoordinatorEpoch
from secure_frl.masking.coordinator_memory import AskingShares, Summed
from secure_frl.masking.coordinator_states import MaskedSum, SumMachine
from secure_frl.secure_sum import SiteId, Sum, SumConstants
from threat_models.threat import Summed as SeenSum
from threat_models.threat import Vector

SUCCESSOR, MISSED = 1, 2  # a planted policy says that it is the next step's, or one that the site missed


class TrustingSite(StudySite):
    """A site without the checks of policies: it holds whatever it is sent. For controls."""

    def policy_tag(self, announced_tag: bytes, model: bytes | None) -> bytes:
        """Take what came, and return its tag."""
        if model is not None:
            self._held.state = TrainingState.from_bytes(model)
        return self._held.tag()


class PlantingEverywhereKeeper(OpenKeeper):
    """Sends every site a policy of its own making, and goes on from there as an honest coordinator would."""

    def __init__(self, *own: Any, planted: Vector, claims: Mapping[int, int]) -> None:
        """own: an OpenKeeper's. planted: parameters. claims: by round, how many steps after the first it says to be."""
        super().__init__(*own)
        self._planted, self._claims = planted, dict(claims)

    def machine(self, epoch: CoordinatorEpoch, number: int, attempt: int, cohort: tuple[SiteId, ...]) -> SumMachine:
        """Return one attempt at a sum under the planted policy."""
        if number in self._claims:
            self._state = replace(self._state, parameters=self._planted, round=self._claims[number])
            self._up_to_date = frozenset()
        return super().machine(epoch, number, attempt, cohort)


class StatedSum(MaskedSum):
    """A masked sum whose outcome is replaced before it is published, its transcript with it."""

    _ctx2 = b""

    def close_stage(self) -> None:
        """End the stage, and keep what a transcript is made of."""
        before = self._state
        super().close_stage()
        if isinstance(before, AskingShares):
            self._ctx2 = before.ctx2

    def state_instead(self, integers: NDArray[np.int64]) -> None:
        """State another sum of the same sites, int64 [P]. Raises UnexpectedState before there is one."""
        state = self._state
        if not isinstance(state, Summed):
            raise UnexpectedState(f"expected a sum, got {self.state_name}. Close the stages first.")
        constants, survivors = state.view.terms.constants, state.survivors
        lanes = attach(integers, constants.weight * len(survivors))
        lanes[0] = len(survivors)
        content = lanes.astype(f"<i{word_type(constants.modulus_bits).itemsize}").tobytes()
        named = survivors_hash(self._ctx2, survivors)
        transcript = transcript_hash(self._ctx2, named, hashlib.sha256(content).digest())
        self._state = Summed(state.view, survivors, Sum(integers, constants.scale, survivors), content, transcript)


class SteeringKeeper(OpenKeeper):
    """Keeps each real sum to itself, and states the one whose step goes furthest towards its target."""

    def __init__(self, *own: Any, target: Vector, knows: dict[int, SeenSum]) -> None:
        """own: an OpenKeeper's. target: parameters. knows: where the real sums are put, by round."""
        super().__init__(*own)
        self._target, self._knows = target, knows

    def machine(self, epoch: CoordinatorEpoch, number: int, attempt: int, cohort: tuple[SiteId, ...]) -> SumMachine:
        """Return one attempt at a sum that will not be stated."""
        ties, content = self._ties, self._state.to_bytes()
        models = {site: None if site in self._up_to_date else content for site in cohort}
        return StatedSum(ties.terms, epoch, number, attempt, cohort, model_tag(content), models, ties.random)

    def conclude(self, machine: SumMachine, drive: Drive, details: Mapping[str, object]) -> Concluded:
        """Note the real sum, then go on with another one."""
        if not isinstance(machine, StatedSum):
            raise UnexpectedState("expected a sum that can be replaced, got another. Report this.")
        real, constants = machine.outcome(), self._ties.terms.constants
        self._knows[machine.context.round] = SeenSum(real.integers.copy(), tuple(map(int, real.contributors)))
        wanted = self._target - self._state.parameters
        mean = wanted / self._rule.step_size_of(self._state.round + 1) - self._rule.momentum * self._state.momentum
        machine.state_instead(sum_for(mean, len(real.contributors), self._rule, constants))
        return super().conclude(machine, drive, details)


def sum_for(mean: Vector, sites: int, rule: OptimiserRule, constants: SumConstants) -> NDArray[np.int64]:
    """Return the sum that sites would take and whose descent is nearest to a mean one, int64 [P].

    mean: [P], of the policy's block alone. A value of the sum is within n B + tail, or sites would refuse it.
    """
    block = constants.blocks[0]
    per_grid = block.clip_norm / math.sqrt(block.noise_share) / constants.scale / (sites * rule.declared_batch)
    limit = constants.sites * constants.bound + constants.noise_bound
    return np.clip(np.rint(-mean / per_grid), -limit, limit).astype(np.int64)


def longest_step(rule_step: float, constants: SumConstants) -> float:
    """Return how far one stated sum moves a parameter at most. rule_step: the optimiser's step size."""
    limit = constants.sites * constants.bound + constants.noise_bound
    return limit * finest_step(rule_step, constants)


def finest_step(rule_step: float, constants: SumConstants) -> float:
    """Return how far one unit of a stated sum moves a parameter; see `longest_step`."""
    block = constants.blocks[0]
    return rule_step * block.clip_norm / math.sqrt(block.noise_share) / constants.scale / constants.sites
