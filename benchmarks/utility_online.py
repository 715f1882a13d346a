"""Fresh episodes, each used once: what ten hospitals learn with and without privacy, beside one place and one alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from figures import Figure
from utility_runs import Interval, Options, gap_of_run, in_one_place, lower_end, over_seeds, study_of

from secure_frl.federation.evaluation import evaluate_state
from secure_frl.study import Study

STUDY = "icu_sepsis/study.toml"
SIZE = {"training.rounds": 15, "training.episodes_per_site": 2667}  # 15 x 10 x 2,667 = 400,050 episodes
# Of each budget, chosen on seeds 10 to 12. Less noise bears a longer step; more of it a smaller clip and a short one.
KNOBS: dict[float, dict[str, Any]] = {8.0: {}, 4.0: {}, 1.0: {"training.global.step_size": 2000.0}}  # Any: TOML values
PLAIN: dict[str, Any] = {"privacy.noise": "unsafe-none"}
BARS = {8.0: 0.86, 4.0: 0.85, 1.0: 0.63}
PLAIN_BAR = 0.87
BESIDE_SEEDS = 3  # of the lines that are printed beside the figures


def study_at(seed: int, **changes: Any) -> Study:  # Any: TOML values
    """Return the study of 400,050 episodes under a seed."""
    return study_of(STUDY, {"study.seed": seed, **SIZE, **changes})


def federated(epsilon: float, seed: int) -> float:
    """Return the gap of a whole run at an epsilon, distributed noise."""
    return gap_of_run(study_at(seed, **{"privacy.target_epsilon": epsilon}, **KNOBS[epsilon]))


def federated_plain(seed: int) -> float:
    """Return the gap of a whole run without noise."""
    return gap_of_run(study_at(seed, **PLAIN))


def central(epsilon: float, seed: int) -> float:
    """Return the gap of the same episodes in one place, the noise added once."""
    study = study_at(seed, **{"privacy.target_epsilon": epsilon, "privacy.noise": "local"}, **KNOBS[epsilon])
    return _gap(study, study.sites.count * study.training.episodes_per_site)


def alone(seed: int) -> float:
    """Return the gap of one hospital's own episodes, without noise."""
    study = study_at(seed, **PLAIN)
    return _gap(study, study.training.episodes_per_site)


def _gap(study: Study, episodes: int) -> float:
    return evaluate_state(study)(in_one_place(study, episodes))["gap_recovered"]


def figures(options: Options) -> Iterator[Figure]:
    """Measure every line of the suite."""
    beside = options.fewer(BESIDE_SEEDS)
    over_seeds(alone, beside, "one hospital alone, no DP")
    yield lower_end("online.plain", over_seeds(federated_plain, options, "federated, no DP"), PLAIN_BAR)
    for epsilon, bar in BARS.items():
        over_seeds(partial(central, epsilon), beside, f"central DP, epsilon = {epsilon:g}")
        found: Interval = over_seeds(partial(federated, epsilon), options, f"distributed, epsilon = {epsilon:g}")
        yield lower_end(f"online.epsilon_{epsilon:g}", found, bar)
