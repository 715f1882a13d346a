"""Whether the bytes of a ciphertext tell which of two messages is in it: a sanity check, and no evidence.

Source: the question is that of Goldwasser and Micali 1984 (indistinguishability); a classifier of byte counts only
finds what is grossly wrong.
"""

from __future__ import annotations

import numpy as np

from threat_models.threat import CapturedView, Guess, Threat, Vector, View

THREAT = Threat(
    id="SFRL-D1b",
    name="ciphertext_bytes",
    title="two messages told apart by the bytes of their ciphertexts (sanity, not evidence)",
    views=frozenset({View.COORDINATOR}),
    given="ciphertexts of both messages with their labels",
    stronger="a cryptanalyst",
    sources=("Goldwasser and Micali 1984",),
    stride="Information disclosure",
    linddun="Data disclosure",
    atlas="",
    nist="NISTAML.032",
)
RIDGE = 1e-3


class ByteClassifier:
    """A linear discriminant of byte counts and length."""

    def learn(self, features: Vector, labels: np.ndarray) -> None:
        """Fit on what `run` returned. features: [ciphertexts, 257]. labels: bool [ciphertexts]."""
        self._centre, self._spread = features.mean(axis=0), features.std(axis=0) + 1e-12
        scaled = (features - self._centre) / self._spread
        difference = scaled[labels].mean(axis=0) - scaled[~labels].mean(axis=0)
        within = np.cov(
            np.vstack([scaled[labels] - scaled[labels].mean(0), scaled[~labels] - scaled[~labels].mean(0)]).T
        )
        self._direction = np.linalg.solve(within + RIDGE * np.eye(len(difference)), difference)

    def run(self, view: CapturedView) -> Guess:
        """Return the features of each frame, float64 [frames, 257]."""
        rows = []
        for item in view.frames:
            found = np.frombuffer(item.frame, np.uint8)
            rows.append(np.append(np.bincount(found, minlength=256) / found.size, found.size))
        return {"features": np.array(rows, dtype=np.float64)}

    def score(self, features: Vector) -> Vector:
        """Return a score a ciphertext, larger for the second message."""
        return np.asarray((features - self._centre) / self._spread @ self._direction, dtype=np.float64)
