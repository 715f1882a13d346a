"""What may be shown of a policy after a round. On the public simulator return and gap cost nothing.

On any other data they would be releases, so nothing is shown but what a sum released.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from secure_frl.federation.training_state import TrainingState
from secure_frl.learning.environments.icu_sepsis import IcuSepsis
from secure_frl.learning.evaluation import exact_return, gap_of
from secure_frl.learning.forms import policy_form
from secure_frl.learning.rollout import roll_out
from secure_frl.study import Study

SIMULATED_EPISODES = 4_000  # of a policy with a memory, which no linear solve values: +-.013 at 95 %
LONGEST_EPISODE = 400  # steps; the exact value knows no limit, and hardly an episode is longer
_NORMAL_95 = 1.959964  # two-sided quantile of the normal distribution

Evaluate = Callable[[TrainingState], Mapping[str, float]]


def evaluate_state(study: Study) -> Evaluate:
    """Return the function that scores a policy as it would act when released.

    It gives the return, the half width of its 95 % interval and the gap recovered. The return is exact with half
    width 0 for a policy without memory; one with a memory is rolled out, in the same simulated episodes every time.
    """
    form = policy_form(study)

    def evaluate(state: TrainingState) -> Mapping[str, float]:
        if not form.has_memory:
            value, half_width = exact_return(form.probabilities(state.parameters, study.output.sharpen)), 0.0
        else:
            environment = IcuSepsis(SIMULATED_EPISODES, LONGEST_EPISODE)
            nobody = np.arange(SIMULATED_EPISODES, dtype=np.uint64)
            acting = form.acting(state.parameters, study.output.sharpen)
            seen = roll_out(acting, environment, np.random.default_rng(study.study.seed), nobody)
            returns = seen.rewards.sum(axis=1, dtype=np.float64)
            value = float(returns.mean())
            half_width = _NORMAL_95 * float(returns.std(ddof=1)) / math.sqrt(SIMULATED_EPISODES)
        return {"return": value, "return_half_width": half_width, "gap_recovered": gap_of(value)}

    return evaluate
