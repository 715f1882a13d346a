"""Hospitals that differ by practice: the shared policy, each hospital's own with it as prior, and each one alone.

In 10 % or 30 % of the states with a choice a hospital's actions have other effects than elsewhere. The shared policy
and the hospitals' own come out of whole runs; own records are what a hospital collected in its rounds. Alone are two:

    own windows   the same learner on the same records without the shared policy: what the prior is worth
    by itself     a hospital that never federated: it collects as many episodes under its own policy, trained without
                  noise, and the same learner is fitted to them

Differences are paired by seed, over the mean and the worst site, each site against its own clinicians and best policy.
The last figures tell whom privacy costs: the gap by thirds of severity, and the part of each third that is clipped.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from figures import Figure, at_least, show
from numpy.typing import NDArray
from utility_runs import Interval, Options, differences, run_of, study_of

import secure_frl
from secure_frl.federation.optimisers import initial_state, step
from secure_frl.federation.simulated_patients import SimulatedPatients
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training import Trainer
from secure_frl.federation.training_state import TrainingState
from secure_frl.learning.forms import policy_form
from secure_frl.learning.personalisation import own_values
from secure_frl.learning.site_settings import exact_at
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.planning import sum_constants
from secure_frl.randomness import system_source
from secure_frl.secure_sum import RoundContext, SiteId, Sum
from secure_frl.study import Study

STUDY = "icu_sepsis/study.toml"
SIZE = {"training.rounds": 10, "training.episodes_per_site": 1001}  # 100,100 episodes; a hospital has 10,010
# Chosen on seeds 10 to 12: what is best for the hospital alone, as for the one with a prior.
WINDOWS_WEIGHT, ITSELF_WEIGHT = 1.0, 0.3
PARTS = (0.1, 0.3)
LEVELS: dict[str, dict[str, Any]] = {  # Any: TOML values
    "no DP": {"privacy.noise": "unsafe-none"},
    "epsilon = 4": {"privacy.target_epsilon": 4.0},
}


@dataclass(frozen=True)
class Gaps:
    """Gaps recovered at each site of one run, of four policies."""

    shared: tuple[float, ...]
    personal: tuple[float, ...]
    own_windows: tuple[float, ...]
    by_itself: tuple[float, ...]


def study_at(part: float, level: str, seed: int) -> Study:
    """Return the study of hospitals that differ in a part of their states."""
    shift = {"kind": "practice_effect", "strength": part}
    changes = {"study.seed": seed, "data.site_shift": shift, "training.personalise": "prior"}
    return study_of(STUDY, {**changes, "output.keep_policies": "all", **SIZE, **LEVELS[level]})


def gaps_of_run(part: float, level: str, seed: int) -> Gaps:
    """Run a study through the whole protocol and return what its policies recover, beside hospitals alone."""
    study = study_at(part, level, seed)
    with tempfile.TemporaryDirectory() as folder:
        result = secure_frl.run(study, Path(folder) / "run")
        models = sorted((Path(folder) / "run" / "policies").glob("*.model"))
        states = [TrainingState.from_bytes(path.read_bytes()) for path in models]
    if result.simulated is None or result.rounds_lost:
        raise RuntimeError("expected a simulated study that lost no round")
    rows = result.simulated["by_site"]
    sites = range(study.sites.count)
    return Gaps(
        tuple(row["gap_recovered"] for row in rows),
        tuple(row["personal_gap_recovered"] for row in rows),
        tuple(_fitted(study, site, _windows(study, site, states), WINDOWS_WEIGHT) for site in sites),
        tuple(by_itself(part, seed, site) for site in sites),
    )


def _trained(study: Study) -> tuple[Trainer, TrainingState]:
    constants = sum_constants(study)
    return Trainer(study, constants), initial_state(optimiser_rule(study, constants))


def _context(number: int) -> RoundContext:
    return RoundContext(b"", b"", b"", 0, number, 0, b"", (SiteId(0),))


def _windows(study: Study, site: int, states: list[TrainingState]) -> list[Trajectories]:
    """Return the people of a site's windows once more: they follow from seed, site, round and policy."""
    trainer, first = _trained(study)
    hospital = SimulatedPatients(study, SiteId(site), bytes(32))
    before = [first, *states[:-1]]
    return [hospital.collect(trainer.acting(state), _context(n)) for n, state in enumerate(before, start=1)]


@cache  # of every level: no noise is added
def by_itself(part: float, seed: int, site: int) -> float:
    """Return the gap of a hospital that learns alone, without noise, from what it collects alone."""
    alone = study_at(part, "no DP", seed)
    trainer, state = _trained(alone)
    rule = optimiser_rule(alone, sum_constants(alone))
    hospital, random, windows = SimulatedPatients(alone, SiteId(site), bytes(32)), system_source(), []
    for number in range(1, alone.training.rounds + 1):
        seen = hospital.collect(trainer.acting(state), _context(number))
        update = trainer.update(state, seen, np.ones(seen.count, dtype=np.bool_), random, 0)
        state = step(state, Sum(update.integers, update.scale, (SiteId(0),)), rule)
        windows.append(seen)
    return _fitted(alone, site, windows, ITSELF_WEIGHT)


def _fitted(study: Study, site: int, windows: list[Trajectories], weight: float) -> float:
    """Return the gap of a hospital's own values without a shared policy."""
    exact, form = exact_at(study, site), policy_form(study)
    if exact is None or form.admissible is None:
        raise RuntimeError("expected a study of ICU-Sepsis by its states")
    found = own_values(
        _together(windows),
        np.zeros(form.admissible.shape),
        form.admissible,
        first_value=study.policy.critic_start,
        discount=study.training.discount,
        prior_weight=weight,
    )
    return exact.score(found.greedy()).gap_recovered


def _together(windows: list[Trajectories]) -> Trajectories:
    def joined(name: str) -> NDArray[Any]:  # Any: the dtype of each field stays what it was
        return np.concatenate([getattr(window, name) for window in windows])

    names = ("observations", "actions", "rewards", "log_behaviour", "steps", "terminated", "final_observations")
    return Trajectories(**{name: joined(name) for name in names}, allowed=None, persons=joined("persons"))


def _over_seeds(part: float, level: str, options: Options) -> list[Gaps]:
    measure = partial(gaps_of_run, part, level)
    if options.jobs > 1:
        with ProcessPoolExecutor(options.jobs) as pool:
            return list(pool.map(measure, options.numbers))
    return list(map(measure, options.numbers))


def _compared(part: float, level: str, options: Options) -> Iterator[Figure]:
    runs = _over_seeds(part, level, options)
    for name, over in (("mean", fmean), ("worst", min)):
        by_kind = {kind: [over(getattr(run, kind)) for run in runs] for kind in Gaps.__dataclass_fields__}
        for kind, values in by_kind.items():
            show(f"{part:.0%} of states, {level}, {name} site: {kind:12} {Interval(tuple(values))}")
        for kind in ("shared", "own_windows", "by_itself"):
            found = differences(by_kind["personal"], by_kind[kind])
            show(f"{part:.0%} of states, {level}, {name} site: personal over {kind:12} {found}")
            label = f"sites.{level.replace(' = ', '_').replace(' ', '_')}.{part:.0%}.{name}_over_{kind}"
            yield at_least(label, found.lower, 0.0, "lower end, gap")


def _by_severity(level: str, options: Options) -> Iterator[Figure]:
    """Print the gap and the clipped part by thirds of severity in the shipped study; the bar is that they are there."""
    tables = []
    for seed in options.numbers:
        result = run_of(study_of(STUDY, {"study.seed": seed, **LEVELS[level]}))
        if result.simulated is not None:
            tables.append(result.simulated)
    for third in tables[0]["gap_by_severity"]:
        gaps = Interval(tuple(one["gap_by_severity"][third]["gap_recovered"] for one in tables))
        show(f"{level}, {third:7} gap recovered {gaps}")
        for block in tables[0]["clipped_by_severity"][third]:
            cut = Interval(tuple(one["clipped_by_severity"][third][block] for one in tables))
            show(f"{level}, {third:7} clipped, {block:7} {cut}")
    severe, mild = (fmean(one["gap_by_severity"][t]["gap_recovered"] for one in tables) for t in ("severe", "mild"))
    show(f"{level}: severe less mild {severe - mild:+.4f}")
    yield at_least(f"sites.severity.{level.replace(' = ', '_').replace(' ', '_')}", len(tables), options.seeds, "runs")


def figures(options: Options) -> Iterator[Figure]:
    """Measure every line of the suite."""
    for level in LEVELS:
        yield from _by_severity(level, options)
        for part in PARTS:
            yield from _compared(part, level, options)
