"""What the suites of `utility.py` share: variants of a study, whole runs of them, and intervals over seeds.

A run is the product's own, with masking, ledgers and verification. Beside it stand two lines that no protocol makes:
all data in one place with the noise added once (central differential privacy), and one hospital alone.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from figures import Figure, at_least, show
from scipy.stats import t

import secure_frl
from secure_frl.federation.optimisers import initial_state, step
from secure_frl.federation.results import RunResult
from secure_frl.federation.simulated_patients import SimulatedPatients
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training import Trainer
from secure_frl.federation.training_state import TrainingState
from secure_frl.privacy.planning import sum_constants
from secure_frl.randomness import system_source
from secure_frl.secure_sum import RoundContext, SiteId, Sum
from secure_frl.study import Study
from secure_frl.study_file import load_study

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
FRESH_SEEDS = 101  # reported seeds begin here; knobs were chosen on 10 to 12


@dataclass(frozen=True)
class Options:
    """How much to run: seeds of each figure, and processes side by side."""

    seeds: int
    jobs: int
    first: int = FRESH_SEEDS

    @property
    def numbers(self) -> range:
        """Return the seeds themselves."""
        return range(self.first, self.first + self.seeds)

    def fewer(self, most: int) -> Options:
        """Return the same with at most so many seeds."""
        return replace(self, seeds=min(self.seeds, most))


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % t-interval; one seed has none."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean."""
        return statistics.fmean(self.values)

    @property
    def half_width(self) -> float:
        """Return half of the interval's width, infinite for a single seed."""
        n = len(self.values)
        if n < 2:
            return math.inf
        return float(t.ppf(0.975, n - 1)) * statistics.stdev(self.values) / math.sqrt(n)

    @property
    def lower(self) -> float:
        """Return the lower end."""
        return self.mean - self.half_width

    def __str__(self) -> str:
        spread = f"{statistics.stdev(self.values):.4f}" if len(self.values) > 1 else "none"
        return f"{self.mean:.4f} +- {self.half_width:.4f} (n = {len(self.values)}, sd {spread})"


def study_of(example: str, changes: Mapping[str, Any]) -> Study:  # Any: TOML values
    """Return an example's study with some keys changed; what cannot be signed is refused as in a file."""
    return load_study(EXAMPLES / example, changes)


def run_of(study: Study) -> RunResult:
    """Run a study through the whole protocol, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return secure_frl.run(study, Path(folder) / "run")


def gap_of_run(study: Study) -> float:
    """Return the gap that the released policy of a whole run recovers, as it acts, by the exact value."""
    return run_of(study).gap_recovered


def in_one_place(study: Study, episodes: int) -> TrainingState:
    """Return what one learner makes of `episodes` of a single hospital a round, under the study's own rule.

    With noise = "local" that is central differential privacy; with "unsafe-none" it is a hospital without privacy.
    The noise of a real run goes through the same functions.
    """
    plain = study.plain()
    factor = episodes / plain["training"]["episodes_per_site"]
    plain["training"]["episodes_per_site"] = episodes
    alone = Study.model_validate(plain)
    constants = sum_constants(study)  # the noise does not depend on how many there are, the bound of a sum does
    constants = replace(constants, bound=math.ceil(constants.bound * factor))
    rule = optimiser_rule(alone, constants)
    trainer, state, random = Trainer(alone, constants), initial_state(rule), system_source()
    hospital = SimulatedPatients(alone, SiteId(0), bytes(32))
    for number in range(1, alone.training.rounds + 1):
        context = RoundContext(b"", b"", b"", 0, number, 0, b"", (SiteId(0),))
        seen = hospital.collect(trainer.acting(state), context)
        everybody = seen.steps.any(axis=1)
        update = trainer.update(state, seen, everybody, random, 0)
        state = step(state, Sum(update.integers, update.scale, (SiteId(0),)), rule)
    return state


def over_seeds(measure: Callable[[int], float], options: Options, name: str) -> Interval:
    """Return a measure over the options' seeds, several at a time. measure: a function of a module, for it is sent."""
    start = time.monotonic()
    with ProcessPoolExecutor(options.jobs) if options.jobs > 1 else nullcontext() as pool:
        values = []
        for seed, value in zip(options.numbers, (pool.map if pool else map)(measure, options.numbers), strict=True):
            show(f"  {name}, seed {seed}: {value:.4f}")  # a suite that is cut off has still said this much
            values.append(value)
    found = Interval(tuple(values))
    show(f"{name:44} {found}  [{', '.join(f'{value:.3f}' for value in values)}]  {time.monotonic() - start:.0f} s")
    return found


def lower_end(name: str, interval: Interval, bar: float) -> Figure:
    """Return the lower end of an interval as a figure beside its bar."""
    return at_least(name, interval.lower, bar, "lower end, gap")


def differences(better: Sequence[float], worse: Sequence[float]) -> Interval:
    """Return the paired differences over seeds."""
    return Interval(tuple(a - b for a, b in zip(better, worse, strict=True)))
