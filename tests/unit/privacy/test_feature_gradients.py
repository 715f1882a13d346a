"""Features, masks and a value network on the clipping path: one person's bits follow from that person alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from clipped_sums import clipped_sum
from numpy.typing import NDArray
from sum_events import sum_constants
from torch import nn

from secure_frl.learning.environments.icu_sepsis_features import IcuSepsisFeatures
from secure_frl.learning.forms import PolicyForm
from secure_frl.learning.objectives.reinforce import Reinforce
from secure_frl.learning.policies import build_policy
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.trajectories import Trajectories, usable_units
from secure_frl.privacy.module_check import check_losses

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]

OBJECTIVE = Reinforce(1.0, 0.2, "network")


def form_of(kind: str) -> PolicyForm:
    return PolicyForm(kind, (8, 8), None, 0, "network", features=47, actions=25, critic_start=0.78, seed=1)


def window(form: PolicyForm, count: int) -> Trajectories:
    persons = np.arange(count, dtype=np.uint64) // np.uint64(2)
    acting = form.acting(parameters_of(form))
    return roll_out(acting, IcuSepsisFeatures(count, 7), np.random.default_rng(5), persons)


def parameters_of(form: PolicyForm) -> NDArray[np.float64]:
    first = form.first_vector()
    return first + 0.5 * np.random.default_rng(0).normal(size=first.size)


def losses(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
    return 50 * OBJECTIVE.losses(policy, batch, OBJECTIVE.targets(policy, {}, batch))  # some beyond the clip


def message(form: PolicyForm, trajectories: Trajectories) -> NDArray[np.float64]:
    policy = build_policy(form)
    policy.load(form.arrays(parameters_of(form)))
    blocks = form.layout.blocks(0.4, 1.0, 0.15)
    return clipped_sum(
        policy,
        losses,
        trajectories,
        usable=usable_units(trajectories, action_count=25, max_steps=7, feature_count=47),
        segments=form.layout.segments,
        constants=sum_constants(form.layout.length, scale=2000.0, bound=10**8, blocks=blocks),
    ).vector


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_a_persons_bits_are_the_same_whoever_is_beside_and_padding_holds_what_it_likes(kind: str) -> None:
    """Every other person is silenced, by a value that is not finite or an action that was not allowed."""
    form = form_of(kind)
    everyone = window(form, 140)
    assert everyone.allowed is not None
    me = np.array([60, 61])
    alone = message(form, everyone.select(me))
    assert 0.1 < np.linalg.norm(alone) <= 1 + 1e-6

    def beside(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        company = everyone.select(np.r_[rows, me])
        assert company.allowed is not None
        seen, allowed = company.observations.copy(), company.allowed.copy()
        seen[: rows.size : 2, 0] = np.nan
        allowed[1 : rows.size : 2, 0] = False
        seen[~company.steps] = 7.0
        return message(form, dataclasses.replace(company, observations=seen, allowed=allowed))

    others = np.setdiff1d(np.arange(140), me)
    for rows in (others, others[::-1], others[:1], others[:67]):
        assert np.array_equal(beside(rows), alone)


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_networks_over_features_pass_the_checks_before_joining(kind: str) -> None:
    form = form_of(kind)
    policy = build_policy(form)
    policy.load(form.arrays(parameters_of(form)))

    check_losses(policy, losses, window(form, 8), form.layout.segments)
