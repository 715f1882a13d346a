"""Propofol under guidance of the bispectral index, from the third-party package `anesthesim`, with a list of doses.

A study names it `data.environment = "secure_frl.learning.environments.anesthesim_propofol:propofol_control"`, with
`observation = "features"`. An action is one of eleven infusion rates, 0 to 200 mcg/kg/min in steps of 20; the six
observations are scaled to [-1, 1] by the public bounds of their space. An episode has 200 steps of half a minute at
most; patients differ in their pharmacokinetics by 15 %. The reward is 1 for each step at an index of 40 to 60.

Source: anesthesim 0.1.0 (MIT), PropofolControl-v0: Marsh et al. 1991 (three compartments), Hill's equation for the
index.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.wrappers import RescaleObservation, TransformAction

from secure_frl.errors import ConfigError

LEVELS = 11
GREATEST_RATE = 200.0  # mcg/kg/min, of the published action space
MAX_STEPS = 200


def propofol_control() -> gymnasium.Env[Any, Any]:  # Any: of a third party
    """Return one environment. Raises ConfigError without the package."""
    try:
        from anesthesim.envs.propofol_control import PropofolControlEnv
    except ImportError as error:
        raise ConfigError(
            "expected the package anesthesim for this environment, found none. "
            "Run `pip install 'secure-frl[anesthesim]'` at every site."
        ) from error
    patient = PropofolControlEnv(difficulty="medium", max_steps=MAX_STEPS)
    scaled: gymnasium.Env[Any, Any] = RescaleObservation(patient, np.float32(-1), np.float32(1))
    return TransformAction(scaled, infusion_rate, Discrete(LEVELS))


def infusion_rate(level: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return the rate of a level as the published environment takes it, float32 [1]. level: 0..10."""
    return np.array([GREATEST_RATE * int(level) / (LEVELS - 1)], dtype=np.float32)
