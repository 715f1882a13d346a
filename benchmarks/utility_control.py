"""CartPole-v1 by five sites without privacy: do PPO and DQN learn, through the whole protocol, to the last policy?

A figure is the worst seed's greedy mean over 100 episodes of the last policy. The steps that a study may make at the
very most, episodes that all last to their limit, are within 500,000.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from figures import Figure, at_least, show
from utility_runs import Options, over_seeds, run_of, study_of

SOLVED = 475.0
MOST_STEPS = 500_000


def greedy_mean(objective: str, seed: int) -> float:
    """Return the mean return of the last policy, acting greedily."""
    return run_of(study_of(f"cartpole/{objective}.toml", {"study.seed": seed})).mean_return


def figures(options: Options) -> Iterator[Figure]:
    """Measure both."""
    for objective in ("dqn", "ppo"):
        study = study_of(f"cartpole/{objective}.toml", {})
        training = study.training
        steps = training.rounds * study.sites.count * training.episodes_per_site * study.data.max_steps
        show(f"{objective}: at most {steps} steps")
        if steps > MOST_STEPS:
            raise ValueError(f"expected at most {MOST_STEPS} steps, got {steps}. Shorten {objective}.toml.")
        found = over_seeds(partial(greedy_mean, objective), options, f"CartPole-v1, {objective}")
        yield at_least(f"cartpole.{objective}", min(found.values), SOLVED, "worst seed")
