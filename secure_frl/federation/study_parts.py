"""What every party derives from a signed charter: layout, optimiser rule, budgets. No torch, no data."""

from __future__ import annotations

import math
from importlib.metadata import PackageNotFoundError, version

from secure_frl.federation.optimisers import OptimiserRule
from secure_frl.learning.environments.icu_sepsis import LIVE_STATES
from secure_frl.privacy.planning import study_layout
from secure_frl.secure_sum import SumConstants
from secure_frl.study import Study


def optimiser_rule(study: Study, constants: SumConstants) -> OptimiserRule:
    """Return the step that whoever may read the sum applies to it: charter constants only."""
    shares = constants.honest_shares if constants.noise == "distributed" else 1
    return OptimiserRule(
        layout=study_layout(study),
        blocks=constants.blocks,
        live_states=LIVE_STATES,
        episodes_per_site=study.training.episodes_per_site,
        step_size=study.training.global_.step_size,
        momentum=study.training.global_.momentum,
        schedule=study.training.global_.schedule,
        rounds=study.training.rounds,
        critic_start=study.policy.critic_start,
        site_noise=constants.noise_multiplier / math.sqrt(shares),
    )


def code_version() -> str:
    """Return the version that books write down."""
    try:
        return f"secure_frl {version('secure-frl')}"
    except PackageNotFoundError:
        return "secure_frl uninstalled"
