"""SFRL-D2: the key of CKKS from decryptions that come with their noise.

Let p = message + noise, of integer coefficients. Real slots show p(X) + p(1/X), exactly once they are encoded again;
X -> 1/X swaps two roots of the transform. Two ciphertexts give two linear equations for the key at each pair of roots.
"""

from __future__ import annotations

import numpy as np

from threat_models.threat import CapturedView, Guess, Threat, View

THREAT = Threat(
    id="SFRL-D2",
    name="ind_cpa_d",
    title="the CKKS key, out of two decryptions",
    views=frozenset({View.COORDINATOR}),
    given="two ciphertexts under one key, and what somebody with the key made of them",
    stronger="one who chooses ciphertexts, over many rounds; the sums of one epoch are counted against it",
    sources=("Li and Micciancio 2021, sections 3 and 4",),
    stride="Information disclosure, Elevation of privilege",
    linddun="Data disclosure",
    atlas="AML.T0055",
    nist="NISTAML.032",
)


class KeyFromDecryptions:
    """Solves for the key; whether what it was given had noise in it decides whether the answer is one."""

    def run(self, view: CapturedView) -> Guess:
        """Return uint64 [N] under "key".

        The view's memory has, for number = 0 and 1, "c0/number", "c1/number" and "opened/number": uint64 [N] at the
        roots of X^N + 1, the last of twice the decrypted reals; and "modulus".
        """
        q = int.from_bytes(view.secrets["modulus"], "big")
        rows = []
        for number in range(2):
            start, slope, opened = (_words(view, f"{name}/{number}") for name in ("c0", "c1", "opened"))
            pairs = zip(opened, start, start[::-1], slope, slope[::-1], strict=True)
            rows.append([((p - c - d) % q, a, b) for p, c, d, a, b in pairs])
        key = []
        for (r, a, b), (s, c, d) in zip(*rows, strict=True):
            determinant = (a * d - c * b) % q
            key.append((r * d - s * b) * pow(determinant, -1, q) % q if determinant else 0)
        return {"key": np.array(key, dtype=np.uint64)}


def _words(view: CapturedView, name: str) -> list[int]:
    found: list[int] = np.frombuffer(view.secrets[name], dtype="<u8").tolist()
    return found
