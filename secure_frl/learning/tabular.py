"""A table policy as plain arrays: what its free logits mean as probabilities. NumPy float64, no torch.

The same function serves the policy that acts, the exact evaluation and whoever reads a released policy file, so
they cannot disagree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter


def spread_logits(
    free_logits: NDArray[np.float64], coordinates: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Return logits [states, actions]: the free ones at their flat coordinates, 0 everywhere else.

    Raises InvalidParameter when the two vectors have different lengths.
    """
    if free_logits.shape != coordinates.shape:
        raise InvalidParameter(
            f"{coordinates.size} free logits are needed, not {free_logits.size}. Use the layout of this policy."
        )
    logits = np.zeros(shape[0] * shape[1], dtype=np.float64)
    logits[coordinates] = free_logits
    return logits.reshape(shape)


def action_probabilities(
    logits: NDArray[np.float64], admissible: NDArray[np.bool_], sharpen: float = 1.0
) -> NDArray[np.float64]:
    """Return the softmax over admissible actions, float64 [states, actions]; others have probability exactly 0.

    sharpen: > 0, multiplies the logits; post-processing at release, fixed beforehand.
    """
    scaled = np.where(admissible, logits * sharpen, -np.inf)
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float64)
