"""From logits to probabilities of actions. NumPy float64, no torch.

The same functions serve the policy that acts, the exact evaluation and whoever reads a released policy file, so
they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter


def action_probabilities(
    logits: NDArray[np.float64], admissible: NDArray[np.bool_], sharpen: float = 1.0
) -> NDArray[np.float64]:
    """Return the softmax over admissible actions, float64 [states, actions]; others have probability exactly 0.

    sharpen: > 0, multiplies the logits; post-processing at release, fixed beforehand.
    """
    scaled = np.where(admissible, logits * sharpen, -np.inf)
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Choice:
    """How actions are chosen by their logits: the softmax of `sharpen` times them, or the best of them.

    exploration: in [0, 1], of a greedy choice: the part of steps whose action is drawn evenly from all that are
    allowed (epsilon-greedy). Source: Sutton and Barto 2018, section 2.2.
    """

    sharpen: float = 1.0
    is_greedy: bool = False
    exploration: float = 0.0

    def __post_init__(self) -> None:
        if not self.sharpen > 0 or not 0 <= self.exploration <= 1:
            raise InvalidParameter(
                f"expected sharpen above 0 and exploration in [0, 1], got {self.sharpen} and {self.exploration}. "
                "Correct output.sharpen and training.exploration."
            )

    def probabilities(self, logits: NDArray[np.float64], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return float64 [n, actions]. logits: [n, actions]. allowed: bool [n, actions].

        A row that allows nothing is taken to allow everything: whoever sent it is found out by the checks of a
        window, which raise nothing inside a round. Of equal logits the first is the best.
        """
        allowed = allowed | ~allowed.any(axis=1, keepdims=True)
        if not self.is_greedy:
            return action_probabilities(logits, allowed, self.sharpen)
        best = np.where(allowed, logits, -np.inf).argmax(axis=1)
        probabilities = self.exploration * allowed / allowed.sum(axis=1, keepdims=True)
        probabilities[np.arange(best.size), best] += 1.0 - self.exploration
        return np.asarray(probabilities, dtype=np.float64)
