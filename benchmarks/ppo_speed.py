"""A site's own PPO beside Stable-Baselines3's: ICU-Sepsis by its features, one thread, the same network.

Both learn from about 2,048 steps an iteration, in 4 epochs of minibatches of 512, with Adam at 3e-4, advantages
normalised over a minibatch and lambda .95. Theirs collects 32 steps of 64 patients, ours 216 whole stays, for that is
what a hospital has; ours knows the public mask of admissible actions. Returns are exact values of the last policies.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from figures import Figure, at_least, show
from peer_environment import python_of
from scipy.stats import t as student

from secure_frl.learning.environments.icu_sepsis import admissible_actions, load_tables, sampler_of
from secure_frl.learning.environments.icu_sepsis_features import IcuSepsisFeatures, state_features
from secure_frl.learning.evaluation import exact_return
from secure_frl.learning.forms import acting_of
from secure_frl.learning.networks import VALUE, Network, first_parameters, logits_of, value_network
from secure_frl.learning.objectives.ppo import ProximalPolicy
from secure_frl.learning.objectives.reinforce import Reinforce
from secure_frl.learning.proximal_steps import ProximalSteps, Valued, moved_by_ppo
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.tabular import Choice

SB3, SB3_FOLDER = "stable-baselines3==2.9.2", Path("build/stable-baselines3-2.9.2")
CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
PEER = Path(__file__).with_name("sb3_peer.py")
STAYS = 216  # 2,048 steps at the random policy's mean length of 9.46
NETWORK = Network("mlp", (64, 64), 47, 25, embeds=False)
CRITIC = value_network(NETWORK)
OBJECTIVE = ProximalPolicy(Reinforce(1.0, 0.95, "network", 1.0), 0.2)
STEPS = ProximalSteps(0.2, 1.0, "adam", 3e-4, 4, 512, 0.5)


def ours(iterations: int, warm: int, seed: int) -> tuple[float, float]:
    """Return steps a CPU second, without the first `warm` iterations, and the exact value of the last policy."""
    arrays = first_parameters(NETWORK, seed) | first_parameters(CRITIC, seed, VALUE)
    environment, generator = IcuSepsisFeatures(STAYS), np.random.default_rng(seed)
    steps, start = 0, 0.0
    for number in range(warm + iterations):
        if number == warm:
            steps, start = 0, time.process_time()
        acting = acting_of(NETWORK, arrays, None, Choice(), masks_come=True)
        stays = roll_out(acting, environment, generator, np.arange(STAYS, dtype=np.uint64))
        stays = stays.select(np.arange(STAYS))
        targets = dict(OBJECTIVE.targets(Valued(CRITIC, arrays), {}, stays))
        arrays = moved_by_ppo(NETWORK, CRITIC, arrays, stays, targets, generator, STEPS)
        steps += int(stays.steps.sum())
    spent = time.process_time() - start
    logits, _ = logits_of(NETWORK, arrays, state_features(), np.zeros((len(state_features()), 0)))
    return steps / spent, exact_return(Choice().probabilities(logits, admissible_actions()))


def theirs(python: Path, tables: Path, iterations: int, warm: int, seed: int) -> tuple[float, float]:
    """Return the same of Stable-Baselines3 in its own environment."""
    sizes = {"iterations": iterations, "warm": warm, "seed": seed}
    command = [str(python), str(PEER), "--tables", str(tables)]
    command += [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # fixed command line
    found = json.loads(ended.stdout.splitlines()[-1])
    return found["steps_per_s"], exact_return(np.array(found["table"]))


def write_tables(path: Path) -> None:
    """Write what the peer's environment draws from."""
    sampler, tables = sampler_of(load_tables()), load_tables()
    np.savez(
        path,
        initial=np.cumsum(tables.initial) / tables.initial.sum(),
        row_of=sampler.row_of,
        edges=sampler.edges,
        targets=sampler.targets,
        features=state_features(),
    )


def figures(folder: Path, scratch: Path, *, quick: bool) -> Iterator[Figure]:
    """Yield the ratio of the rates, and our mean value over the lower end of the peer's interval."""
    python, tables = python_of(folder, SB3, CONSTRAINTS), scratch / "tables.npz"
    write_tables(tables)
    seeds, iterations = (2, 3) if quick else (5, 60)
    pairs = [(ours(iterations, 1, seed), theirs(python, tables, iterations, 1, seed)) for seed in range(seeds)]
    for (rate, value), (peer_rate, peer_value) in pairs:
        show(f"ours {rate:,.0f} steps/s, value {value:.4f}; SB3 {peer_rate:,.0f} steps/s, value {peer_value:.4f}")
    yield at_least("ppo_over_sb3", statistics.median(mine[0] / other[0] for mine, other in pairs), 2, "x SB3")
    values = [other[1] for _, other in pairs]
    half = float(student.ppf(0.975, seeds - 1)) * statistics.stdev(values) / seeds**0.5
    mean = statistics.mean(mine[1] for mine, _ in pairs)
    show(f"after {iterations + 1} iterations: ours {mean:.4f}; SB3 {statistics.mean(values):.4f} +- {half:.4f}")
    yield at_least("ppo_value_over_sb3", mean - (statistics.mean(values) - half), 0, "over their interval's lower end")
