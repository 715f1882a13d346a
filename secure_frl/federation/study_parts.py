"""What every party derives from a signed charter: the optimiser rule, the version in books. No torch, no data."""

from __future__ import annotations

import math
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from secure_frl.federation.global_adam import AdamRule
from secure_frl.federation.optimisers import OptimiserRule
from secure_frl.federation.value_step import ValueRule
from secure_frl.learning.forms import PolicyForm, policy_form
from secure_frl.learning.layout import POLICY_BLOCK
from secure_frl.secure_sum import SumConstants
from secure_frl.study import Study


def optimiser_rule(study: Study, constants: SumConstants) -> OptimiserRule:
    """Return the step that whoever may read the sum applies to it: charter constants only."""
    shares = constants.honest_shares if constants.noise == "distributed" else 1
    form, adam = policy_form(study), _adam_rule(study)
    return OptimiserRule(
        layout=form.layout,
        blocks=constants.blocks,
        live_states=form.live_states,
        declared_batch=study.declared_batch,
        step_size=study.training.global_.step_size * (_move_factor(study) if adam is None else 1.0),
        momentum=study.training.global_.momentum,
        schedule=study.training.global_.schedule,
        rounds=study.training.rounds,
        critic_start=study.policy.critic_start,
        first_parameters=form.first_vector(),
        noised_sums=study.noised_sums,
        clip_quantile=study.privacy.clip_quantile,
        clip_learning_rate=study.privacy.clip_learning_rate,
        return_middle=sum(study.output.return_range) / 2,
        linear_critic_step=study.policy.random_features.critic_step,
        site_noise=constants.noise_multiplier * math.sqrt(study.noised_sums) / math.sqrt(shares),
        adam=adam,
        values=_value_rule(study, constants, form) if study.sums_values else None,
    )


def _value_rule(study: Study, constants: SumConstants, form: PolicyForm) -> ValueRule:
    shares = constants.honest_shares if constants.noise == "distributed" else 1
    it = study.training.bellman
    pairs = form.layout.segments_of(POLICY_BLOCK)[0].coordinates
    return ValueRule(
        blocks=constants.blocks,
        rounds=study.training.rounds,
        state_of=pairs // form.actions,
        action_of=pairs % form.actions,
        first_value=study.policy.critic_start,
        site_noise=constants.noise_multiplier / math.sqrt(shares),
        optimism=it.optimism,
        pessimism=it.pessimism,
        advantage_deviation=it.advantage_deviation,
        value_deviation=it.value_deviation,
        count_spread=it.count_spread,
    )


def _move_factor(study: Study) -> float:
    """Return what makes a mean move of a mean message: the local step's size, where sites send noised sums."""
    training = study.training
    sends_moves = training.aggregation == "fedsgd" or study.trains_locally
    return 1.0 if sends_moves else training.local.step_size


def _adam_rule(study: Study) -> AdamRule | None:
    step = study.training.global_
    if step.optimiser != "adam":
        return None
    return AdamRule(
        second_momentum=step.second_momentum,
        root_floor=step.root_floor,
        is_noise_corrected=step.noise_corrected,
        move_factor=_move_factor(study),
    )


@cache  # every release of every site names it
def code_version() -> str:
    """Return the version that books write down."""
    try:
        return f"secure_frl {version('secure-frl')}"
    except PackageNotFoundError:
        return "secure_frl uninstalled"
