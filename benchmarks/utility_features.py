"""Patients seen by 47 clinical features, no table of states: what ten hospitals learn with and without privacy.

A policy that is linear in a fixed public map of the features, 400,050 fresh episodes in all. Behind the figures stands
the curve, one seed each and therefore an indication only: epsilon, width and bandwidth of the map, rounds, the critic.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from figures import Figure
from utility_runs import Options, gap_of_run, in_one_place, lower_end, over_seeds, study_of

from secure_frl.federation.evaluation import evaluate_state

STUDY = "icu_sepsis/features.toml"
PLAIN: dict[str, Any] = {"privacy.noise": "unsafe-none"}  # Any: TOML values
PLAIN_BAR, BAR = 0.40, 0.30  # without noise, and at epsilon 4
WIDTH, BANDWIDTH = "policy.random_features.width", "policy.random_features.bandwidth"
CURVE: dict[str, dict[str, Any]] = {
    "epsilon 8": {"privacy.target_epsilon": 8.0},
    "epsilon 2": {"privacy.target_epsilon": 2.0},
    "epsilon 1": {"privacy.target_epsilon": 1.0},
    "width 256": {WIDTH: 256},
    "width 512": {WIDTH: 512},
    "width 2048": {WIDTH: 2048},
    "bandwidth 2": {BANDWIDTH: 2.0},
    "bandwidth 3.5": {BANDWIDTH: 3.5},
    "bandwidth 5": {BANDWIDTH: 5.0},
    "10 rounds x 4,000": {"training.rounds": 10, "training.episodes_per_site": 4000},
    "30 rounds x 1,333": {"training.rounds": 30, "training.episodes_per_site": 1333},
    "no critic": {"policy.critic": "none"},
}


def federated(changes: dict[str, Any], seed: int) -> float:
    """Return the gap of a whole run of the study with some keys changed."""
    return gap_of_run(study_of(STUDY, {"study.seed": seed, **changes}))


def central(seed: int) -> float:
    """Return the gap of the same episodes in one place, the noise added once."""
    study = study_of(STUDY, {"study.seed": seed, "privacy.noise": "local"})
    episodes = study.sites.count * study.training.episodes_per_site
    return evaluate_state(study)(in_one_place(study, episodes))["gap_recovered"]


def alone(seed: int) -> float:
    """Return the gap of one hospital's own episodes, without noise."""
    study = study_of(STUDY, {"study.seed": seed, **PLAIN})
    return evaluate_state(study)(in_one_place(study, study.training.episodes_per_site))["gap_recovered"]


def figures(options: Options) -> Iterator[Figure]:
    """Measure both figures and their neighbours, then the curve at epsilon 4 on the first seed."""
    over_seeds(alone, options, "one hospital alone, no DP")
    yield lower_end("features.plain", over_seeds(partial(federated, PLAIN), options, "federated, no DP"), PLAIN_BAR)
    over_seeds(central, options.fewer(2), "central DP, epsilon = 4")
    found = over_seeds(partial(federated, {}), options, "distributed, epsilon = 4")
    yield lower_end("features.epsilon_4", found, BAR)
    for name, changes in CURVE.items():
        over_seeds(partial(federated, changes), options.fewer(1), name)
