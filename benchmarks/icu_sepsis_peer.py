"""Step the published ICU-Sepsis environment, singly, as its package makes it; runs in an environment of its own.

    python icu_sepsis_peer.py --steps N

Uniform admissible actions. The last line is {"steps_per_s": ..., "mean_return": ...}, CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import time

import gymnasium
import icu_sepsis  # noqa: F401  # registers the id
import numpy as np

ID = "Sepsis/ICU-Sepsis-v2"


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, required=True)
    steps = parser.parse_args().steps
    environment = gymnasium.make(ID)
    generator = np.random.default_rng(0)
    draws = generator.random(steps).tolist()
    _, info = environment.reset(seed=0)
    returns, total = [], 0.0
    start = time.thread_time()
    for draw in draws:
        admissible = info["admissible_actions"]
        action = admissible[int(draw * len(admissible))]
        _, reward, ended, cut, info = environment.step(action)
        total += reward
        if ended or cut:
            returns.append(total)
            total = 0.0
            _, info = environment.reset()
    spent = time.thread_time() - start
    print(json.dumps({"steps_per_s": steps / spent, "mean_return": float(np.mean(returns))}))


if __name__ == "__main__":
    main()
