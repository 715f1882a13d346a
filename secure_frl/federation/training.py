"""One window at a site: trajectories in, private update out. Beside it only `site_move` calls torch here.

A window is made of one noised sum, or of several with the policy moved in between (`local_steps`); each draws its own
sample of the units from the site's generator.

What this file computes never raises for a reason that lies in data: a unit that can't be used contributes zero.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_frl.errors import DataRefused, InvalidParameter
from secure_frl.federation.local_steps import Message, Pull, constants_of_one_sum, moved
from secure_frl.federation.optimisers import blocks_in_force, critic_values
from secure_frl.federation.simulated_patients import made_up
from secure_frl.federation.site_move import SiteMove
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training_state import TrainingState
from secure_frl.federation.value_sums import ValueSums
from secure_frl.learning.acting import Acting
from secure_frl.learning.fine_tuning import fine_tuned
from secure_frl.learning.forms import policy_form
from secure_frl.learning.layout import LOGITS
from secure_frl.learning.linear_critic import LinearCritic
from secure_frl.learning.networks import HEAD
from secure_frl.learning.objective import Objective
from secure_frl.learning.objectives.behaviour_cloning import BehaviourCloning
from secure_frl.learning.objectives.cql import ConservativeQ
from secure_frl.learning.objectives.dqn import TARGET, DoubleQ
from secure_frl.learning.objectives.ppo import ProximalPolicy
from secure_frl.learning.objectives.reinforce import CRITIC, Reinforce
from secure_frl.learning.personalisation import own_values
from secure_frl.learning.policies import build_policy
from secure_frl.learning.trajectories import Trajectories, check_before_joining, check_records, usable_units
from secure_frl.privacy.hooks import Losses
from secure_frl.privacy.module_check import check_losses
from secure_frl.privacy.rows import single_steps
from secure_frl.privacy.sampling import poisson_sample
from secure_frl.privacy.unit import UNSAFE_TRANSITION, units_of
from secure_frl.privacy.unit_gradients import unit_messages, units_cut
from secure_frl.privacy.update import PrivateUpdate, private_update
from secure_frl.secure_sum import RandomSource, SiteId, SumConstants
from secure_frl.study import Study

_FIRST = SiteId(0)
_PROBE_EPISODES = 8  # enough to see a loss that is not one a trajectory


class Trainer:
    """A site's policy, objective and clipping for one study; holds no data between windows."""

    def __init__(self, study: Study, constants: SumConstants, site: SiteId = _FIRST) -> None:
        """Build the policy and its objective; `check_before_joining` says whether they may be used.

        site: whose own training this is; its order of minibatches is its own.
        """
        self._study = study
        self._constants = constants
        self._form = policy_form(study)
        self._policy = build_policy(self._form)
        self._target = build_policy(self._form) if study.acts_greedily else None
        self._objective = _objective(study)
        self._rule = optimiser_rule(study, constants)
        self._sums = ValueSums(study, constants, self._form) if study.sums_values else None
        self._move = SiteMove(study, self._form, self._objective, site) if study.trains_locally else None

    def check_before_joining(self, state: TrainingState, probe: Trajectories, records: Trajectories | None) -> None:
        """Check data, module and losses; what is wrong is said now, at this site only.

        probe: made-up trajectories. records: what the site holds already; None with fresh people.
        Raises DataRefused for data that may not join, InvalidParameter for a module or loss that couples units.
        """
        training, privacy = self._study.training, self._study.privacy
        if records is None:
            check_before_joining(probe, training.episodes_per_site, privacy.max_rounds_per_person)
        else:
            units = units_of(records.persons, privacy.unit)
            check_records(self._usable(records), units, self._study.data.declared_units)
        if self._sums is not None:
            return  # no module and no loss: sums of each unit's own steps
        seen = probe if probe.count > 1 else made_up(self._study, _PROBE_EPISODES)  # one alone shows no coupling
        few = seen.select(np.arange(min(seen.count, _PROBE_EPISODES), dtype=np.int64))
        self._policy.load(self._form.arrays(state.parameters))
        check_losses(self._policy, self._losses(state), few, self._form.layout.segments)

    def acting(self, state: TrainingState) -> Acting:
        """Return the policy of this state, ready to collect the episodes of the round after it."""
        exploration = self._study.exploration_at(state.round + 1)
        return self._form.acting(state.parameters, exploration=exploration)

    def update(
        self,
        state: TrainingState,
        trajectories: Trajectories,
        admitted: NDArray[np.bool_],
        random: RandomSource,
        receipt: int,
    ) -> PrivateUpdate:
        """Sample, clip, sum, quantise and add noise, as many times as the study says, and return their sum.

        admitted: bool [B], what the participation register allows; the rest contributes zero.
        receipt: row of the site's ledger that reserved this release.
        """
        study, parameters = self._study, state.parameters
        if self._sums is not None:
            usable = admitted & self._usable(trajectories)
            return self._sums.update(state, trajectories, usable, random, receipt)
        if study.privacy.unit == UNSAFE_TRANSITION:  # before anything is judged: a bad step shall not take others along
            admitted, trajectories = np.repeat(admitted, trajectories.lengths), single_steps(trajectories)
        blocks = blocks_in_force(self._constants.blocks, state)
        if self._move is not None:
            constants, usable = replace(self._constants, blocks=blocks), admitted & self._usable(trajectories)
            seen = trajectories.select(np.flatnonzero(usable))
            return self._move.update(state, seen, self._public(state), constants, random, receipt)
        constants = replace(constants_of_one_sum(self._constants, study.noised_sums), blocks=blocks)
        rule = replace(self._rule, blocks=blocks)
        losses, usable = self._losses(state), admitted & self._usable(trajectories)
        local, dropped = study.training.local, 0
        message = Message(constants.length, blocks[0], 1.0 - local.step_size * local.proximal)
        pull = Pull(state.parameters, local.proximal) if local.proximal else None
        for number in range(1, study.noised_sums + 1):
            self._policy.load(self._form.arrays(parameters))
            sample, fine = self._sample(trajectories, usable, random)
            part = private_update(
                self._policy,
                losses,
                sample,
                unit=study.privacy.unit,
                usable=fine,
                segments=self._form.layout.segments,
                constants=constants,
                random=random,
                receipt=receipt,
                return_middle=rule.return_middle,
            )
            message.add(part.integers)
            dropped += part.dropped
            if number < study.noised_sums:
                parameters = moved(parameters, part.integers, part.scale, rule, local.step_size, pull)
        return PrivateUpdate(message.integers, constants.scale, receipt, dropped)

    def units_cut(self, state: TrainingState, trajectories: Trajectories) -> dict[str, NDArray[np.bool_]]:
        """Return by block, bool [B], whose gradient the clips cut in the round after a state; of simulated people."""
        self._policy.load(self._form.arrays(state.parameters))
        blocks, segments = blocks_in_force(self._constants.blocks, state), self._form.layout.segments
        return units_cut(self._policy, self._losses(state), trajectories, segments=segments, blocks=blocks)

    def unit_messages(self, state: TrainingState, trajectories: Trajectories) -> NDArray[np.float64]:
        """Return what each trajectory alone would send in the round after a state, float64 [B, P], before rounding.

        Of simulated people. Where rounds sum values or move policies there is no such thing: raises InvalidParameter.
        """
        if self._sums is not None or self._move is not None:
            raise InvalidParameter("expected gradients of trajectories, got another message. Choose another objective.")
        self._policy.load(self._form.arrays(state.parameters))
        blocks, segments = blocks_in_force(self._constants.blocks, state), self._form.layout.segments
        return unit_messages(self._policy, self._losses(state), trajectories, segments=segments, blocks=blocks)

    def personal(self, state: TrainingState, own: Trajectories) -> tuple[dict[str, NDArray[np.float64]], bool]:
        """Fit a site's own policy to its records: what replaces shared parameters, and whether logits are then values.

        own: at least one trajectory; what could not be used in a round is left out here too. Nothing of this may leave
        the site, or come before its last shared round. Raises DataRefused where nothing of it can be used.
        """
        study, form = self._study, self._form
        own = own.select(np.flatnonzero(self._usable(own)))
        if not own.count:
            raise DataRefused("expected a usable trajectory to fit, got none. Correct the site's records.")
        training, fit = study.training, study.training.personal
        arrays = form.arrays(state.parameters)
        if form.network is None and form.admissible is not None and training.objective != "behaviour_cloning":
            found = own_values(
                own,
                arrays[LOGITS],
                form.admissible,
                first_value=study.policy.critic_start,
                discount=training.discount,
                prior_weight=fit.prior_weight,
            )
            return {LOGITS: np.where(form.admissible, found.values, 0.0)}, True
        keeps_head = training.personalise == "private_head"
        names = [name for name in arrays if name.startswith(f"{HEAD}.") or not keeps_head]
        self._policy.load(arrays)
        losses = self._losses(state, _personal_objective(study))
        pull = 0.0 if keeps_head else fit.pull  # a private head's first value is nobody's knowledge
        moved = fine_tuned(
            self._policy,
            losses,
            own,
            names,
            steps=fit.steps,
            step_size=fit.step_size,
            pull=pull,
            seed=study.study.seed,
        )
        return moved, False

    def _sample(
        self, trajectories: Trajectories, usable: NDArray[np.bool_], random: RandomSource
    ) -> tuple[Trajectories, NDArray[np.bool_]]:
        """Return the trajectories of the units that this step draws, with their marks; perhaps none."""
        privacy = self._study.privacy
        if privacy.sampling_rate == 1:
            return trajectories, usable
        drawn = poisson_sample(units_of(trajectories.persons, privacy.unit), privacy.sampling_rate, random)
        return trajectories.select(np.flatnonzero(drawn)), usable[drawn]

    def _usable(self, trajectories: Trajectories) -> NDArray[np.bool_]:
        return usable_units(
            trajectories,
            action_count=self._form.actions,
            max_steps=self._study.data.max_steps,
            state_count=self._form.states or None,
            feature_count=self._form.features or None,
            allowed_table=self._form.admissible,
        )

    def _losses(self, state: TrainingState, objective: Objective | None = None) -> Losses:
        """Return the objective under public state only: what was broadcast, and constants of the charter.

        objective: None for the study's.
        """
        asked, public = objective or self._objective, self._public(state)

        def losses(policy: nn.Module, batch: Trajectories) -> Tensor:
            found: Tensor = asked.losses(policy, batch, asked.targets(policy, public, batch))
            return found

        return losses

    def _public(self, state: TrainingState) -> dict[str, object]:
        """Return the critic's values, and the target network: what was broadcast, wherever a site moves meanwhile."""
        states = self._form.states
        start = self._study.policy.critic_start
        public: dict[str, object] = {CRITIC: critic_values(state, states) if states else np.full(1, start)}
        if self._rule.has_linear_critic:
            public[CRITIC] = LinearCritic(state.critic, start, *self._study.output.return_range)
        if self._target is not None:
            self._target.load(self._form.arrays(state.parameters))
            public[TARGET] = self._target
        return public


def _personal_objective(study: Study) -> Objective:
    """Return what a site's own fit minimises: the study's objective, which for reinforce has to bear older episodes."""
    found = _objective(study)
    return ProximalPolicy(found, study.training.clip_ratio) if isinstance(found, Reinforce) else found


def _objective(study: Study) -> Objective:
    training = study.training
    if training.objective == "behaviour_cloning":
        return BehaviourCloning(study.data.max_steps)
    if study.acts_greedily:
        q = DoubleQ(training.discount, training.td_error, study.data.max_steps, training.steps_ahead)
        return ConservativeQ(q, training.conservatism) if training.objective == "cql" else q
    reinforce = Reinforce(training.discount, training.gae_lambda, study.policy.critic, training.value_weight)
    ppo = ProximalPolicy(reinforce, training.clip_ratio, training.entropy_weight)
    return ppo if training.objective == "ppo" else reinforce
