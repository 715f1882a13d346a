"""A table policy as plain arrays: what its free logits mean as probabilities. NumPy float64, no torch.

The same function serves the policy that acts, the exact evaluation and whoever reads a released policy file, so
they cannot disagree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def action_probabilities(
    logits: NDArray[np.float64], admissible: NDArray[np.bool_], sharpen: float = 1.0
) -> NDArray[np.float64]:
    """Return the softmax over admissible actions, float64 [states, actions]; others have probability exactly 0.

    sharpen: > 0, multiplies the logits; post-processing at release, fixed beforehand.
    """
    scaled = np.where(admissible, logits * sharpen, -np.inf)
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float64)
