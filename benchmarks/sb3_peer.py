"""Stable-Baselines3's PPO on ICU-Sepsis by its features; runs in an environment of its own.

    python sb3_peer.py --tables FILE --iterations N --warm N --seed N

The environment is stepped as the published one is, from the same tables. 64 copies, 32 steps, 4 epochs, minibatches of
512, 64-64 with tanh for policy and for value. The last line is {"steps_per_s", "cpu_s", "table"}, the
last one how the policy acts in every state, so that its exact value can be found elsewhere.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

COPIES, STEPS, EPOCHS, MINIBATCH = 64, 32, 4, 512
LIVE_STATES, SURVIVAL, ACTIONS = 713, 714, 25


class Patient(gymnasium.Env[np.ndarray, np.int64]):
    """One patient; an action of any kind is taken, as in the published environment."""

    tables: ClassVar[dict[str, np.ndarray]]
    action_space: Any = spaces.Discrete(ACTIONS)
    observation_space: Any = spaces.Box(-np.inf, np.inf, (47,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Admit."""
        super().reset(seed=seed)
        self._state = int(np.searchsorted(self.tables["initial"], self.np_random.random()))
        self._taken = 0
        return self.tables["features"][self._state], {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Treat once."""
        row = self.tables["row_of"][self._state * ACTIONS + int(action)]
        edge = np.searchsorted(self.tables["edges"], row + self.np_random.random())
        self._state = int(self.tables["targets"][edge])
        self._taken += 1
        ended = self._state >= LIVE_STATES
        return self.tables["features"][self._state], float(self._state == SURVIVAL), ended, self._taken >= 48, {}


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("iterations", "warm", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--tables", required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(chosen.tables, allow_pickle=False) as stored:
        Patient.tables = {name: stored[name] for name in stored.files}
    model = PPO(
        "MlpPolicy",
        DummyVecEnv([Patient] * COPIES),
        n_steps=STEPS,
        batch_size=MINIBATCH,
        n_epochs=EPOCHS,
        gamma=1.0,
        seed=chosen.seed,
        device="cpu",
        policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}},
    )
    model.learn(COPIES * STEPS * chosen.warm)
    start = time.process_time()
    model.learn(COPIES * STEPS * chosen.iterations, reset_num_timesteps=False)
    spent = time.process_time() - start
    with torch.no_grad():
        features = torch.from_numpy(Patient.tables["features"])
        table = model.policy.get_distribution(features).distribution.probs.double()
        table = (table / table.sum(dim=1, keepdim=True)).numpy()
    found = {"steps_per_s": COPIES * STEPS * chosen.iterations / spent, "cpu_s": spent, "table": table.tolist()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
