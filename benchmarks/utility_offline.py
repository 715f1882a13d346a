"""Private fitted value iteration on logged stays: gap recovered by whole runs, beside what no protocol makes.

Ten tables of 10,000 or 30,000 stays treated as clinicians would, made anew for each seed, and the shipped study
`examples/logged_icu/bellman.toml` with nothing changed but epsilon, the noise's place and the number of stays. Beside
each epsilon stands central differential privacy: all stays in one place and the noise added once. Beside all of them:
one hospital alone, and all in one place, both without privacy and with the clips and rounds that this allows.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figure, show
from numpy.typing import NDArray
from utility_runs import Interval, Options, lower_end, study_of

import secure_frl
from secure_frl.errors import UnexpectedState
from secure_frl.federation.evaluation import evaluate_state
from secure_frl.federation.optimisers import initial_state, step
from secure_frl.federation.run_folder import RunOptions
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training import Trainer
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions, load_tables
from secure_frl.learning.rollout import roll_out_table
from secure_frl.learning.steps_table import write_steps
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.planning import sum_constants
from secure_frl.privacy.sensitivity import LARGEST_WINDOW
from secure_frl.randomness import system_source
from secure_frl.secure_sum import SiteId, Sum
from secure_frl.study import Study

STUDY = "logged_icu/bellman.toml"
SITES, MAX_STEPS = 10, 48
BARS: dict[int, dict[float, float]] = {  # stays a site, epsilon: the bar
    10_000: {1.0: 0.40, 2.0: 0.60, 4.0: 0.68, 8.0: 0.72},
    30_000: {1.0: 0.70, 2.0: 0.81, 4.0: 0.84},
}
_OPEN: dict[str, Any] = {  # without privacy nobody is cut, and backups cost nothing. Any: TOML values
    "privacy.noise": "unsafe-none",
    "privacy.clip_norm": 5.0,
    "training.rounds": 13,
    "training.bellman.return_clip_norm": 20.0,
    "training.bellman.count_clip_norm": 20.0,
}
_LOCAL: dict[str, Any] = {"privacy.noise": "local"}


def clinicians() -> NDArray[np.float64]:
    """Return the clinicians' published policy among admissible actions, float64 [716, 25]."""
    admissible = admissible_actions().astype(np.float64)
    chosen = admissible * load_tables().expert
    chosen = np.where(chosen.sum(axis=1, keepdims=True) > 0, chosen, admissible)
    return np.asarray(chosen / chosen.sum(axis=1, keepdims=True), dtype=np.float64)


def stays_of(seed: int, site: int, stays: int) -> Trajectories:
    """Return one hospital's stays, each of another person; the same as those of examples/logged_icu/make_data.py."""
    environment, names = IcuSepsis(stays, MAX_STEPS), np.arange(stays, dtype=np.uint64) + np.uint64(site * stays)
    return roll_out_table(clinicians(), environment, np.random.default_rng([seed, site]), names)


def gap_of_run(records: list[Trajectories], epsilon: float, seed: int, changes: dict[str, Any]) -> float:
    """Return the gap of a whole run: charter, masking, ledgers, released policy."""
    stays = records[0].count
    with tempfile.TemporaryDirectory() as folder:
        tables = Path(folder) / "tables"
        tables.mkdir()
        for number, own in enumerate(records, start=1):
            names = [f"patient-{name}" for name in range(stays)]
            write_steps(tables / f"site-{number:02d}.parquet", own, names, is_simulated=True)
        study = _study(epsilon, stays, {"study.seed": seed, "data.path": str(tables), **changes})
        result = secure_frl.run(study, Path(folder) / "run", RunOptions(state=Path(folder) / "state"))
    if result.gap_recovered is None:
        raise UnexpectedState("expected a gap on made-up stays, got none. Run the study of ICU-Sepsis.")
    return float(result.gap_recovered)


def gap_in_one_place(records: list[Trajectories], epsilon: float, changes: dict[str, Any]) -> float:
    """Return the gap of one learner on all the records, by the study's own sums and steps.

    With noise = "local" that is central differential privacy: the whole noise, once.
    """
    study = _study(epsilon, min(records[0].count, LARGEST_WINDOW), {"data.path": "here", **changes})
    constants = sum_constants(study)
    constants = replace(constants, bound=math.ceil(constants.bound * len(records)))
    rule, trainer = optimiser_rule(study, constants), Trainer(study, constants)
    together, state, random = _together(records), initial_state(rule), system_source()
    everybody = np.ones(together.count, dtype=np.bool_)
    for _ in range(study.training.rounds):
        update = trainer.update(state, together, everybody, random, 0)
        state = step(state, Sum(update.integers, update.scale, (SiteId(0),)), rule)
    return float(evaluate_state(study)(state)["gap_recovered"])


def measured(stays: int, seed: int) -> dict[str, float]:
    """Return every gap of one seed, by name."""
    records = [stays_of(seed, site, stays) for site in range(1, SITES + 1)]
    found: dict[str, float] = {
        "one hospital, no DP": gap_in_one_place(records[:1], 1.0, _OPEN),
        "all in one place, no DP": gap_in_one_place(records, 1.0, _OPEN),
    }
    for epsilon in BARS[stays]:
        found[f"central, epsilon = {epsilon:g}"] = gap_in_one_place(records, epsilon, _LOCAL)
        found[f"local, epsilon = {epsilon:g}"] = gap_of_run(records, epsilon, seed, _LOCAL)
        found[f"distributed, epsilon = {epsilon:g}"] = gap_of_run(records, epsilon, seed, {})
    return found


def figures(options: Options) -> Iterator[Figure]:
    """Measure every line of every size; the distributed ones have bars."""
    for stays, bars in BARS.items():
        start = time.monotonic()
        measure = partial(measured, stays)
        if options.jobs > 1:
            with ProcessPoolExecutor(options.jobs) as pool:
                rows = list(pool.map(measure, options.numbers))
        else:
            rows = [measure(seed) for seed in options.numbers]
        for name in rows[0]:
            show(f"{SITES} x {stays:,}, {name:28} {Interval(tuple(row[name] for row in rows))}")
        show(f"{time.monotonic() - start:.0f} s")
        for epsilon, bar in bars.items():
            interval = Interval(tuple(row[f"distributed, epsilon = {epsilon:g}"] for row in rows))
            yield lower_end(f"offline.{stays // 1000}k_epsilon_{epsilon:g}", interval, bar)


def _study(epsilon: float, stays: int, changes: dict[str, Any]) -> Study:
    named = {} if changes.get("privacy.noise") != "unsafe-none" else {"data.dataset_id": ""}
    size = {"privacy.target_epsilon": epsilon, "data.declared_units": stays}
    return study_of(STUDY, {**size, **named, **changes})


def _together(records: list[Trajectories]) -> Trajectories:
    """Return all records as one table, padded to the longest stay."""
    longest = max(own.steps.shape[1] for own in records)

    def padded(array: NDArray[Any]) -> NDArray[Any]:
        return np.pad(array, ((0, 0), (0, longest - array.shape[1])))

    return Trajectories(
        observations=np.concatenate([padded(own.observations) for own in records]),
        actions=np.concatenate([padded(own.actions) for own in records]),
        allowed=None,
        rewards=np.concatenate([padded(own.rewards) for own in records]),
        log_behaviour=None,
        steps=np.concatenate([padded(own.steps) for own in records]),
        terminated=np.concatenate([own.terminated for own in records]),
        final_observations=np.concatenate([own.final_observations for own in records]),
        persons=np.concatenate([own.persons for own in records]),
    )
