"""What every party derives from a signed charter: layout, optimiser rule, budgets. No torch, no data."""

from __future__ import annotations

import math
from importlib.metadata import PackageNotFoundError, version

from secure_frl.federation.optimisers import OptimiserRule
from secure_frl.learning.forms import policy_form
from secure_frl.secure_sum import SumConstants
from secure_frl.study import Study


def optimiser_rule(study: Study, constants: SumConstants) -> OptimiserRule:
    """Return the step that whoever may read the sum applies to it: charter constants only."""
    shares = constants.honest_shares if constants.noise == "distributed" else 1
    form = policy_form(study)
    return OptimiserRule(
        layout=form.layout,
        blocks=constants.blocks,
        live_states=form.live_states,
        declared_batch=study.declared_batch,
        step_size=_server_step(study),
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
    )


def _server_step(study: Study) -> float:
    """Return the factor of the mean message: under fedavg a site's move is its local step's size times its message."""
    training = study.training
    sends_moves = training.aggregation == "fedsgd" or study.trains_locally
    return training.global_.step_size * (1.0 if sends_moves else training.local.step_size)


def code_version() -> str:
    """Return the version that books write down."""
    try:
        return f"secure_frl {version('secure-frl')}"
    except PackageNotFoundError:
        return "secure_frl uninstalled"
