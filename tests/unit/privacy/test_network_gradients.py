"""Networks on the clipping path: one person's bits follow from that person alone, and move the whole by at most 1."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from clipped_sums import clipped_sum
from numpy.typing import NDArray
from sum_events import sum_constants
from torch import nn

from secure_frl.learning.environments.icu_sepsis import LIVE_STATES, IcuSepsis, admissible_actions
from secure_frl.learning.forms import PolicyForm
from secure_frl.learning.objectives.reinforce import CRITIC, Reinforce
from secure_frl.learning.policies import build_policy
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.clipping import ClippedSum
from secure_frl.privacy.message_gradients import MessageGradients
from secure_frl.privacy.module_check import check_losses
from secure_frl.secure_sum import SumConstants

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]

KINDS = ["mlp", "gru", "lstm"]
AUXILIARY = {"clip_quantile": (0.5, 0.02), "mean_return": (0.5, 0.03)}
OBJECTIVE = Reinforce(1.0, 0.2, "private")
PUBLIC = {CRITIC: np.r_[np.full(713, 0.78), np.zeros(3)]}


def form_of(kind: str) -> PolicyForm:
    return PolicyForm(kind, (8, 16), admissible_actions(), LIVE_STATES, "private", seed=1, auxiliary=tuple(AUXILIARY))


def parameters_of(form: PolicyForm) -> NDArray[np.float64]:
    first = form.first_vector()
    return first + 0.5 * np.random.default_rng(0).normal(size=first.size)


def window(form: PolicyForm, count: int, per_person: int = 1) -> Trajectories:
    persons = np.arange(count, dtype=np.uint64) // np.uint64(per_person)
    return roll_out(form.acting(parameters_of(form)), IcuSepsis(count, 7), np.random.default_rng(5), persons)


def losses(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
    return 50 * OBJECTIVE.losses(policy, batch, OBJECTIVE.targets(policy, PUBLIC, batch))  # some beyond the clip


def constants(form: PolicyForm) -> SumConstants:
    blocks = form.layout.blocks(0.4, 1.0, 0.15, AUXILIARY)
    return sum_constants(form.layout.length, scale=2000.0, bound=10**8, blocks=blocks)


def message(form: PolicyForm, trajectories: Trajectories, unit: str = "patient") -> ClippedSum:
    policy = build_policy(form)
    policy.load(form.arrays(parameters_of(form)))
    return clipped_sum(
        policy,
        losses,
        trajectories,
        unit=unit,
        segments=form.layout.segments,
        constants=constants(form),
        return_middle=0.5,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", ["trajectory", "patient", "site"])
def test_a_unit_moves_gradients_and_figures_together_by_at_most_one(kind: str, unit: str) -> None:
    form = form_of(kind)
    everyone = window(form, 40, per_person=2)
    alone = {"trajectory": np.array([17]), "patient": np.array([16, 17]), "site": np.arange(40)}[unit]

    whole = message(form, everyone, unit).vector
    without = message(form, everyone.select(np.setdiff1d(np.arange(40), alone)), unit).vector

    moved = float(np.linalg.norm(whole - without))
    assert moved <= 1 + 1e-6
    assert moved == pytest.approx(np.linalg.norm(message(form, everyone.select(alone), unit).vector), rel=1e-9)
    assert moved > 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_a_units_bits_are_the_same_whoever_is_beside_it(kind: str) -> None:
    """Through the production path: every other unit is silenced, so the sum is this unit's message to the bit."""
    form = form_of(kind)
    everyone = window(form, 140, per_person=2)
    me = np.array([60, 61])

    def beside(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        company = everyone.select(np.r_[rows, me])
        others = np.r_[np.ones(rows.size, dtype=np.bool_), np.zeros(2, dtype=np.bool_)]
        silent = dataclasses.replace(company, rewards=np.where(others[:, None], np.nan, company.rewards))
        return message(form, silent).vector

    nobody, others = beside(np.zeros(0, dtype=np.int64)), np.setdiff1d(np.arange(140), me)
    assert nobody.any()
    for rows in (others, others[::-1], others[:1], others[:67], others[5:128]):
        assert np.array_equal(beside(rows), nobody)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_without_a_public_number_of_rows_a_gradients_last_bits_tell_who_else_is_there(kind: str) -> None:
    """The control: why a pass always has 128 rows. With any number of them, some size of company changes bits."""
    form = form_of(kind)
    policy = build_policy(form)
    policy.load(form.arrays(parameters_of(form)))
    everyone = window(form, 128)
    wrapped = MessageGradients(policy.train(), form.layout.segments)

    def first_among(rows: int) -> NDArray[np.float64]:
        losses(wrapped, everyone.select(np.arange(rows))).sum().backward()
        return wrapped.take(rows)

    whole = first_among(128)
    assert wrapped.needs_fixed_rows
    assert any(not np.array_equal(first_among(rows), whole[:rows]) for rows in (1, 2, 3, 5, 9, 17, 127))


@pytest.mark.parametrize("kind", KINDS)
def test_networks_pass_the_checks_before_joining(kind: str) -> None:
    form = form_of(kind)
    policy = build_policy(form)
    policy.load(form.arrays(parameters_of(form)))

    check_losses(policy, losses, window(form, 8), form.layout.segments)


def test_figures_are_what_the_units_did() -> None:
    form = form_of("mlp")
    everyone = window(form, 40, per_person=2)
    vector, blocks = message(form, everyone).vector, constants(form).blocks
    returns = everyone.rewards.sum(axis=1).reshape(20, 2).mean(axis=1)

    norms = []
    for person in range(20):
        alone = message(form, everyone.select(np.array([2 * person, 2 * person + 1]))).vector
        norms.append(np.linalg.norm(alone[: blocks[0].stop]) / np.sqrt(blocks[0].noise_share))

    whole = np.sum(np.array(norms) < 1 - 1e-9)
    assert 0 < whole < 20  # a clipped block has norm 1
    assert vector[blocks[2].start] == pytest.approx((whole - (20 - whole)) * np.sqrt(0.02))
    assert vector[blocks[3].start] == pytest.approx(np.sum(returns - 0.5) / 0.5 * np.sqrt(0.03))
