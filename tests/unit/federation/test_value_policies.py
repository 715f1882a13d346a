"""Studies whose policy is the values of actions: what their target network is, and how they collect and act."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import secure_frl
from secure_frl.federation.optimisers import initial_state
from secure_frl.federation.simulated_patients import SimulatedPatients
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training import Trainer
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions
from secure_frl.learning.objectives.dqn import TARGET, DoubleQ
from secure_frl.learning.policies import TablePolicy
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.planning import make_plan
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import SiteId
from secure_frl.study import Study

pytestmark = pytest.mark.slow
Tiny = Callable[..., Study]

STEPS, ETA, START = 3, 3000.0, 0.6
VALUES = {
    "training.objective": "dqn",
    "training.aggregation": "fedavg",
    "training.local_steps": STEPS,
    "training.local": {"step_size": ETA},
    "training.global": {"step_size": 1.0, "momentum": 0.0, "schedule": "constant"},
    "policy.critic": "none",
    "policy.critic_start": START,
    "privacy.noise": "local",
    "privacy.clip_norm": 0.05,
}


def test_the_target_network_is_the_broadcast_policy_while_a_site_moves(tiny: Tiny) -> None:
    """Without noise: errors of a table by hand, clipped a trajectory, three steps towards the first table's targets."""
    study = tiny({**VALUES, "privacy.noise": "unsafe-none"})
    constants = make_plan(study).constants
    rule = optimiser_rule(study, constants)
    window, state = SimulatedPatients(study, SiteId(0), bytes(32)).probe(), initial_state(rule)
    everybody = np.ones(window.count, dtype=np.bool_)

    message = Trainer(study, constants).update(state, window, everybody, rehearsal_source(3, "values"), 0)

    def by_hand(*, target_moves: bool) -> NDArray[np.float64]:
        objective = DoubleQ(1.0, "huber", study.data.max_steps)
        coordinates = rule.layout.segments[0].coordinates
        policy, target = (TablePolicy(admissible_actions(), "none") for _ in range(2))
        for table in (policy, target):
            torch.nn.init.constant_(table.logits.weight, START)
        sums = np.zeros(constants.length)
        for _ in range(STEPS):
            if target_moves:
                target.load({"logits.weight": policy.logits.weight.detach().numpy().copy()})
            total = np.zeros(constants.length)
            for episode in range(window.count):
                one = window.select(np.array([episode]))
                loss = objective.losses(policy, one, objective.targets(policy, {TARGET: target}, one)).sum()
                (gradient,) = torch.autograd.grad(loss, [policy.logits.weight])
                vector = gradient.numpy().ravel()[coordinates]
                total += vector / max(study.privacy.clip_norm, float(np.linalg.norm(vector)))
            mean = -total * study.privacy.clip_norm / study.training.episodes_per_site
            policy.logits.weight.data.reshape(-1)[torch.from_numpy(coordinates)] += ETA * torch.from_numpy(mean)
            sums += total
        return sums

    found = message.integers / message.scale
    assert np.abs(found - by_hand(target_moves=False)).max() <= 1.001 * STEPS / message.scale
    assert np.abs(found - by_hand(target_moves=True)).max() > 0.01


def test_values_collect_with_less_and_less_exploration_and_release_the_best_action(tiny: Tiny, tmp_path: Path) -> None:
    study = tiny({**VALUES, "training.exploration": 1.0, "training.exploration_end": 0.0})
    constants = make_plan(study).constants
    trainer, state = Trainer(study, constants), initial_state(optimiser_rule(study, constants))
    nobody = np.arange(8, dtype=np.uint64)

    def collected(after_round: int) -> Trajectories:
        acting = trainer.acting(replace(state, round=after_round))
        return roll_out(acting, IcuSepsis(8, 12), np.random.default_rng(1), nobody)

    first, last = collected(0), collected(study.training.rounds - 1)
    allowed = admissible_actions().sum(axis=1)[first.observations]
    assert first.log_behaviour is not None
    assert last.log_behaviour is not None
    np.testing.assert_allclose(first.log_behaviour[first.steps], -np.log(allowed[first.steps]), rtol=1e-6)
    assert (last.log_behaviour[last.steps] == 0).all()

    secure_frl.run(study, tmp_path / "run")

    probabilities = secure_frl.load_policy(tmp_path / "run").probabilities
    assert probabilities is not None
    assert set(np.unique(probabilities)) == {0.0, 1.0}
    assert (probabilities.sum(axis=1) == 1).all()
    assert secure_frl.verify(tmp_path / "run").holds
