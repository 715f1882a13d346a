"""SFRL-A4: in a network over numbered states the first layer's gradient has one row a state, zero where nobody was."""

from __future__ import annotations

import numpy as np

from threat_models.decoding import gradients, sums, uploads
from threat_models.threat import CapturedView, Guess, PublicInfo, Threat, Vector, View

EMBEDDING = "embedding.weight"  # of the policy, and behind "value." of a value network

THREAT = Threat(
    id="SFRL-A4",
    name="column_support",
    title="which states were visited, read off sparse rows of a sum",
    views=frozenset({View.COORDINATOR, View.SITE, View.COALITION}),
    given="what everybody knows: the code and the charter",
    stronger="a matched filter over rows with known directions, under noise",
    sources=("Phong et al. 2018, section 3", "Melis et al. 2019, section 4.1 (embeddings)"),
    stride="Information disclosure",
    linddun="Data disclosure, Identifying",
    atlas="AML.T0024.001",
    nist="NISTAML.032",
)


class ColumnSupport:
    """Scores a state by the length of its row: in each upload, and in each sum."""

    def prepare(self, public: PublicInfo, rng: np.random.Generator) -> None:
        """Keep what is public."""
        self._public = public

    def run(self, view: CapturedView) -> Guess:
        """Return float64 [states] a sum under "sum/round", and an upload under "upload/round/site"."""
        guess = {}
        for number, vector in sums(view, self._public).items():
            guess[f"sum/{number}"] = self.scores(vector)
        for (number, site), vector in uploads(view, self._public).items():
            guess[f"upload/{number}/{site}"] = self.scores(vector)
        return guess

    def scores(self, vector: Vector) -> Vector:
        """Return the length of each state's rows in one message, float64 [states]."""
        tables = [part for name, part in gradients(vector, self._public).items() if name.endswith(EMBEDDING)]
        return np.asarray(np.linalg.norm(np.hstack(tables), axis=1))
