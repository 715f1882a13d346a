"""What may be shown of a policy after a round. On a public simulator return and gap cost nothing.

On any other data they would be releases, so nothing is shown but what a sum released.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import fmean

import numpy as np

from secure_frl.federation.training_state import TrainingState
from secure_frl.learning.forms import PolicyForm, form_in
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.settings import Setting
from secure_frl.learning.site_settings import setting_at, sites_differ
from secure_frl.study import Study

_MOST_NUMBERS = 1 << 24  # of observations that are held at once: 64 MB
_NORMAL_95 = 1.959964  # two-sided quantile of the normal distribution

Evaluate = Callable[[TrainingState], Mapping[str, float]]


def evaluate_state(study: Study) -> Evaluate:
    """Return the function that scores a policy as it would act when released.

    It gives the return, the half width of its 95 % interval and, where clinicians' and best policy are known, the gap
    recovered. The return is exact with half width 0 for a policy without memory in an environment whose states are all
    known; any other is rolled out, in the same simulated episodes every time. Where sites differ all of it is the mean
    over sites, each held against its own clinicians and its own best.
    """
    places = [setting_at(study, site) for site in range(study.sites.count if sites_differ(study) else 1)]
    form = form_in(places[0], study)

    def evaluate(state: TrainingState) -> Mapping[str, float]:
        values, squares, gaps = [], [], []
        for setting in places:
            exact = _exact_value(setting, form, state, study)
            value, half_width = _simulated_value(setting, form, state, study) if exact is None else (exact, 0.0)
            values.append(value)
            squares.append(half_width**2)
            if setting.gap_of is not None:
                gaps.append(setting.gap_of(value))
        found = {"return": fmean(values), "return_half_width": math.sqrt(math.fsum(squares)) / len(places)}
        return {**found, "gap_recovered": fmean(gaps)} if gaps else found

    return evaluate


def _exact_value(setting: Setting, form: PolicyForm, state: TrainingState, study: Study) -> float | None:
    if form.has_memory or setting.value_of is None or setting.shown is None or setting.shown_allowed is None:
        return None
    shown, allowed = setting.shown, setting.shown_allowed
    return setting.value_of(form.probabilities_at(state.parameters, shown, allowed, study.output.sharpen))


def _simulated_value(setting: Setting, form: PolicyForm, state: TrainingState, study: Study) -> tuple[float, float]:
    """Return the mean return of simulated episodes, undiscounted, and its half width.

    An episode ends as the environment says; where that has no limit of its own, the study's cuts it.
    """
    episodes = study.output.evaluation_episodes
    limit = setting.episode_limit or study.data.max_steps
    at_once = min(episodes, max(1, _MOST_NUMBERS // (limit * (setting.features or 1))))
    environment, nobody = setting.make(at_once, limit), np.arange(at_once, dtype=np.uint64)
    acting = form.acting(state.parameters, study.output.sharpen)
    generator = np.random.default_rng(study.study.seed)
    portions = [
        roll_out(acting, environment, generator, nobody).rewards.sum(axis=1, dtype=np.float64)
        for _ in range(math.ceil(episodes / at_once))
    ]
    returns = np.concatenate(portions)[:episodes]
    return float(returns.mean()), _NORMAL_95 * float(returns.std(ddof=1)) / math.sqrt(episodes)
