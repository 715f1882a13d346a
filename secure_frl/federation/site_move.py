"""A site whose whole move is the unit: it trains by itself on its window, and its move is clipped as one vector.

Federated averaging with a guarantee a site: the sensitivity of the sum is the clip, whatever happened inside. Order of
minibatches and draws from the replay follow from the study's seed, site and round; noise never does. What a site keeps
from round to round, its replay, is in memory only: after a restart it begins empty.

Source: McMahan et al. 2018, Learning Differentially Private Recurrent Language Models, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secure_frl.federation.training_state import TrainingState
from secure_frl.learning.forms import PolicyForm
from secure_frl.learning.layout import POLICY_BLOCK
from secure_frl.learning.local_training import Batch, LocalSettings, draws, moved_by, passes
from secure_frl.learning.networks import Arrays
from secure_frl.learning.objective import Objective
from secure_frl.learning.objectives.dqn import DoubleQ
from secure_frl.learning.objectives.ppo import ProximalPolicy
from secure_frl.learning.policies import build_policy
from secure_frl.learning.proximal_steps import ProximalSteps, Valued, is_offered, moved_by_ppo
from secure_frl.learning.replay import Replay
from secure_frl.learning.trajectories import Trajectories
from secure_frl.learning.value_steps import has_flat_layers, moved_by_dqn
from secure_frl.privacy.update import PrivateUpdate, private_move
from secure_frl.secure_sum import RandomSource, SiteId, SumConstants
from secure_frl.study import Study
from secure_frl.wire.hashing import labelled_hash

_ALL_AT_ONCE = 1 << 20  # rows of a draw where the study asks for no minibatch


class SiteMove:
    """One site's own training, over the rounds of a study."""

    def __init__(self, study: Study, form: PolicyForm, objective: Objective, site: SiteId) -> None:
        """form: of the study's policy. objective: the study's."""
        self._study, self._form, self._objective, self._site = study, form, objective, site
        self._policy = build_policy(form).to(torch.float32)  # nothing of a site's own training has to be exact
        self._replay: Replay | None = None
        if isinstance(objective, DoubleQ):
            training = study.training
            self._replay = Replay(training.replay_steps, training.discount, objective.ahead)
            self._objective = DoubleQ(self._replay.discount, objective.error, max_steps=1)

    def update(
        self,
        state: TrainingState,
        seen: Trajectories,
        public: Mapping[str, Any],  # Any: as objectives take it
        constants: SumConstants,
        random: RandomSource,
        receipt: int,
    ) -> PrivateUpdate:
        """Train from the broadcast policy and return the move, clipped, rounded and noised.

        seen: what of the window may be used. constants: with the clips in force. A site that saw nothing sends noise.
        """
        before = self._form.arrays(state.parameters)
        segments = self._form.layout.segments_of(POLICY_BLOCK)
        names = list(dict.fromkeys(segment.parameter for segment in segments))
        after = self._after(before, seen, public, names, state.round + 1)
        # A message carries gradients, and whoever reads the sum steps against them: so the move has its sign turned.
        parts = [(before[s.parameter] - after[s.parameter]).ravel()[s.coordinates] for s in segments]
        move: NDArray[np.float64] = np.concatenate(parts)
        middle = sum(self._study.output.return_range) / 2
        returns = np.where(seen.steps, seen.rewards, 0.0).sum(axis=1, dtype=np.float64) - middle
        mean_return = float(returns.mean()) if returns.size else 0.0
        return private_move(move, constants=constants, random=random, receipt=receipt, mean_return=mean_return)

    def _after(
        self,
        before: Arrays,
        seen: Trajectories,
        public: Mapping[str, Any],
        names: list[str],
        round_number: int,
    ) -> Arrays:
        """Return where the site's own training takes the named parameters."""
        network, value, objective = self._form.network, self._form.value_network, self._objective
        if isinstance(objective, ProximalPolicy) and network and value and is_offered(network, value) and seen.count:
            targets = objective.targets(Valued(value, before), public, seen)
            steps = self._proximal_steps(objective, round_number)  # the same steps, several times faster
            return moved_by_ppo(network, value, before, seen, targets, self._generator(round_number), steps)
        settings = self._settings(round_number)
        if self._replay is not None:
            self._remember(self._replay, seen)
            size = settings.minibatch or min(self._replay.size, _ALL_AT_ONCE)
            settings = replace(settings, minibatch=size)
            if isinstance(objective, DoubleQ) and network and has_flat_layers(network):
                generator, count = self._generator(round_number), self._study.training.local_steps
                return moved_by_dqn(network, before, self._replay, objective, generator, settings, count=count)
        self._policy.load(before)
        batches = self._batches(seen, public, round_number, settings.minibatch)
        return moved_by(self._policy, self._losses, batches, names, settings)

    def _proximal_steps(self, objective: ProximalPolicy, round_number: int) -> ProximalSteps:
        settings, training = self._settings(round_number), self._study.training
        return ProximalSteps(
            clip_ratio=objective.clip_ratio,
            value_weight=training.value_weight,
            entropy_weight=training.entropy_weight,
            optimiser=settings.optimiser,
            step_size=settings.step_size,
            passes=training.epochs,
            minibatch=settings.minibatch,
            max_gradient_norm=settings.max_gradient_norm,
            proximal=settings.proximal,
        )

    def _generator(self, round_number: int) -> np.random.Generator:
        study = self._study
        window = (study.data.dataset_id, study.study.seed, int(self._site), round_number)
        seed = np.frombuffer(labelled_hash("local-training", *window), dtype="<u4").astype(np.uint32)
        return np.random.default_rng(seed)

    def _losses(self, batch: Batch) -> torch.Tensor:
        rows, targets = batch
        found: torch.Tensor = self._objective.losses(self._policy, rows, targets)
        return found

    def _settings(self, round_number: int) -> LocalSettings:
        local = self._study.training.local
        return LocalSettings(
            optimiser=local.optimiser,
            step_size=self._study.local_step_size_at(round_number),
            minibatch=local.minibatch,
            max_gradient_norm=local.max_gradient_norm,
            proximal=local.proximal,
        )

    def _remember(self, replay: Replay, seen: Trajectories) -> None:
        if not self._study.is_logged or not replay.size:  # records are the same in every round
            replay.add(seen)

    def _batches(
        self, seen: Trajectories, public: Mapping[str, Any], round_number: int, minibatch: int
    ) -> Iterator[Batch]:
        training, generator = self._study.training, self._generator(round_number)
        if self._replay is not None:
            count, objective, policy = training.local_steps, self._objective, self._policy
            return draws(self._replay, objective, policy, public, generator, count=count, minibatch=minibatch)
        if not seen.count:
            return iter(())
        return passes(
            seen,
            self._objective.targets(self._policy, public, seen),
            generator,
            count=training.epochs * training.local_steps,
            minibatch=minibatch,
            whole_episodes=self._form.has_memory,
        )
