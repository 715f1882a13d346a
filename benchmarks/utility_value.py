"""Value-based policies from logged stays: what DQN and CQL of ten hospitals reach under local noise, by whole runs.

Ten tables of 10,000 stays treated as clinicians would; five noised steps a site and round, averaged plainly or held to
the broadcast policy (FedProx). Every noised sum is charged to everybody: the number of releases stands beside each
return. Bars: above the clinicians, whose gap is 0.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from figures import Figure, at_least, show
from utility_runs import EXAMPLES, Options, over_seeds, study_of

import secure_frl
from secure_frl.errors import UnexpectedState
from secure_frl.federation.run_folder import RunOptions

STUDY = "logged_icu/values.toml"
AGGREGATIONS: dict[str, dict[str, Any]] = {  # Any: TOML values
    "fedavg": {},
    "fedprox": {"training.aggregation": "fedprox", "training.local.proximal": 0.0002},
}
EPSILONS = (8.0, 4.0, 2.0, 1.0)  # the bars are at the first; the others are DQN's curve


def measured(objective: str, aggregation: str, epsilon: float, seed: int) -> float:
    """Return the gap of a whole run on tables that are made for it."""
    with tempfile.TemporaryDirectory() as folder:
        tables = Path(folder) / "tables"
        script = [sys.executable, str(EXAMPLES / "logged_icu" / "make_data.py")]
        subprocess.run([*script, "--out", str(tables), "--seed", str(seed)], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        changes = {
            "study.seed": seed,
            "data.path": str(tables),
            "training.objective": objective,
            "privacy.target_epsilon": epsilon,
            **AGGREGATIONS[aggregation],
        }
        result = secure_frl.run(
            study_of(STUDY, changes), Path(folder) / "run", RunOptions(state=Path(folder) / "state")
        )
    if result.gap_recovered is None:
        raise UnexpectedState("expected a gap on made-up stays, got none. Run the study of ICU-Sepsis.")
    return float(result.gap_recovered)


def figures(options: Options) -> Iterator[Figure]:
    """Measure the table at epsilon 8, then the curve of DQN."""
    training = study_of(STUDY, {}).training
    show(f"{training.rounds} rounds x {training.local_steps} steps = {training.rounds * training.local_steps} releases")
    for objective in ("dqn", "cql"):
        for aggregation in AGGREGATIONS:
            name = f"{objective}, {aggregation}, local, epsilon = {EPSILONS[0]:g}"
            found = over_seeds(partial(measured, objective, aggregation, EPSILONS[0]), options, name)
            yield at_least(f"value.{objective}_{aggregation}", found.lower, 0.0, "lower end, gap")
    for epsilon in EPSILONS[1:]:
        over_seeds(partial(measured, "dqn", "fedavg", epsilon), options, f"dqn, fedavg, local, epsilon = {epsilon:g}")
