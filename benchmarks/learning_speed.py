"""How fast learning is: stepping, PPO, per-person gradients and many simulated sites, each beside a peer or itself.

    python benchmarks/learning_speed.py [--json] [--quick] [--only NAME,...] [--icu_sepsis FOLDER] [--sb3 FOLDER]

CPU seconds of one thread; a figure is a median of ratios of interleaved repetitions. The last line of --json is
{"figures": [{"name", "value", "unit", "bar", "holds"}]}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by NumPy's and torch's libraries when they are loaded
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder, installed or not

import gradient_speed
import numpy as np
import ppo_speed
import site_speed
import torch
from figures import Figure, at_least, run, show
from peer_environment import python_of
from ratios import timed

from secure_frl.learning.environments.icu_sepsis import (
    LIVE_STATES,
    IcuSepsis,
    admissible_actions,
)

PUBLISHED, PUBLISHED_FOLDER = "icu-sepsis==2.0.1", Path("build/icu-sepsis-2.0.1")
PEER = Path(__file__).with_name("icu_sepsis_peer.py")
PATIENTS = 20_000


@dataclass(frozen=True)
class Options:
    """How much to run, and where the peers are."""

    quick: bool
    icu_sepsis: Path
    sb3: Path

    def repetitions(self, full: int) -> int:
        """Return how often to repeat something that is repeated `full` times in a full run."""
        return min(full, 3) if self.quick else full


def ours_per_s(patients: int) -> float:
    """Return the steps a second of `patients` stays side by side, uniform over admissible actions, to their ends."""
    generator = np.random.default_rng(0)
    environment = IcuSepsis(patients)
    states = environment.reset(generator)
    order = np.argsort(~admissible_actions(), axis=1, kind="stable")  # admissible ones first
    counts = np.maximum(admissible_actions().sum(axis=1), 1)
    steps, spent_s = 0, 0.0
    while (states < LIVE_STATES).any():
        actions = order[states, (generator.random(patients) * counts[states]).astype(np.int64)]
        steps += int((states < LIVE_STATES).sum())
        spent, (states, _, _, cut) = timed(lambda chosen=actions: environment.step(chosen))
        spent_s += spent
        if cut.any():
            break
    return steps / spent_s


def stepping(options: Options) -> Iterator[Figure]:
    """Step the published environment as its package makes it, and ours, in turn; both choose outside or for little."""
    python = python_of(options.icu_sepsis, PUBLISHED)
    ratios = []
    for _ in range(options.repetitions(7)):
        command = [str(python), str(PEER), "--steps", "2000" if options.quick else "10000"]
        ended = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # fixed command line
        peer = json.loads(ended.stdout.splitlines()[-1])["steps_per_s"]
        ours = ours_per_s(PATIENTS)
        ratios.append(ours / peer)
        show(f"published environment: {peer / 1e3:.1f} k steps/s; ours: {ours / 1e6:.2f} M steps/s")
    yield at_least("stepping_over_gym", float(np.median(ratios)), 50, "x published")


def gradients(options: Options) -> Iterator[Figure]:
    """Measure clipped sums of per-person gradients beside the plain gradient of the same losses."""
    yield from gradient_speed.figures(options.repetitions(41))


def sites(options: Options) -> Iterator[Figure]:
    """Measure one step at each of 100 simulated sites in one call beside a loop."""
    yield from site_speed.figures(options.repetitions(21))


def ppo(options: Options) -> Iterator[Figure]:
    """Measure a site's own PPO beside Stable-Baselines3's."""
    with tempfile.TemporaryDirectory() as folder:
        yield from ppo_speed.figures(options.sb3, Path(folder), quick=options.quick)


PARTS: dict[str, Callable[[Options], Iterator[Figure]]] = {
    "stepping": stepping,
    "gradients": gradients,
    "sites": sites,
    "ppo": ppo,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report."""
    torch.set_num_threads(1)
    folders = {"icu_sepsis": PUBLISHED_FOLDER, "sb3": ppo_speed.SB3_FOLDER}
    return run(
        __doc__, PARTS, lambda chosen: Options(chosen.quick, chosen.icu_sepsis, chosen.sb3), arguments, **folders
    )


if __name__ == "__main__":
    sys.exit(main())
