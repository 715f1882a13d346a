"""One window at a site: trajectories in, private update out. The only file of federation that needs torch.

What this file computes never raises for a reason that lies in data: a unit that can't be used contributes zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_frl.federation.optimisers import critic_values
from secure_frl.federation.training_state import TrainingState
from secure_frl.learning.environments.icu_sepsis import LIVE_STATES, admissible_actions
from secure_frl.learning.objectives.reinforce import CRITIC, Reinforce
from secure_frl.learning.policies import table_policy
from secure_frl.learning.trajectories import Trajectories, check_before_joining, usable_units
from secure_frl.privacy.module_check import check_losses
from secure_frl.privacy.update import Losses, PrivateUpdate, private_update
from secure_frl.secure_sum import RandomSource, SumConstants
from secure_frl.study import Study

_PROBE_EPISODES = 8  # enough to see a loss that is not one a trajectory


class Trainer:
    """A site's policy, objective and clipping for one study; holds no data between windows."""

    def __init__(self, study: Study, constants: SumConstants) -> None:
        """Build the policy and its objective; `check_before_joining` says whether they may be used."""
        self._study = study
        self._constants = constants
        self._admissible = admissible_actions()
        self._policy, self._layout = table_policy(self._admissible, LIVE_STATES, study.policy.critic)
        self._objective = Reinforce(study.training.discount, study.training.gae_lambda, study.policy.critic)

    def check_before_joining(self, state: TrainingState, probe: Trajectories) -> None:
        """Check data, module and losses on a probe; what is wrong is said now, at this site only.

        Raises DataRefused for data that may not join, InvalidParameter for a module or loss that couples units.
        """
        training, privacy = self._study.training, self._study.privacy
        check_before_joining(probe, training.episodes_per_site, privacy.max_rounds_per_person)
        few = probe.select(np.arange(min(probe.count, _PROBE_EPISODES), dtype=np.int64))
        self._policy.load_free(state.logits, self._layout)
        check_losses(self._policy, self._losses(state), few, self._layout.segments)

    def action_probabilities(self, state: TrainingState) -> NDArray[np.float64]:
        """Return how the policy of this state acts, float64 [states, actions]."""
        self._policy.load_free(state.logits, self._layout)
        return self._policy.action_probabilities()

    def update(
        self,
        state: TrainingState,
        trajectories: Trajectories,
        admitted: NDArray[np.bool_],
        random: RandomSource,
        receipt: int,
    ) -> PrivateUpdate:
        """Clip, sum, quantise and add noise.

        admitted: bool [B], what the participation register allows; the rest contributes zero.
        receipt: row of the site's ledger that reserved this release.
        """
        self._policy.load_free(state.logits, self._layout)
        usable = admitted & usable_units(
            trajectories,
            action_count=self._admissible.shape[1],
            max_steps=self._study.data.max_steps,
            state_count=self._admissible.shape[0],
            allowed_table=self._admissible,
        )
        return private_update(
            self._policy,
            self._losses(state),
            trajectories,
            unit=self._study.privacy.unit,
            usable=usable,
            segments=self._layout.segments,
            constants=self._constants,
            random=random,
            receipt=receipt,
        )

    def _losses(self, state: TrainingState) -> Losses:
        """Return the objective under public state only: what was broadcast, and constants of the charter."""
        public = {CRITIC: critic_values(state, self._admissible.shape[0])}

        def losses(policy: nn.Module, batch: Trajectories) -> Tensor:
            return self._objective.losses(policy, batch, self._objective.targets(policy, public, batch))

        return losses
