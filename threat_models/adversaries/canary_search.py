"""SFRL-D4: a planted update, searched for in all that the coordinator received: as words, integers, floats and text.

The search needs its control, an unprotected run: it passes on any masked bytes, also on those of a search that is
broken.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from threat_models.decoding import uploads
from threat_models.threat import CapturedView, Guess, PublicInfo, Threat, Vector, View

THREAT = Threat(
    id="SFRL-D4",
    name="canary_search",
    title="a planted update, found again in what the coordinator received",
    views=frozenset({View.COALITION}),
    given="the planted updates themselves",
    stronger="a key",
    sources=("Carlini et al. 2019, section 4 (canaries)",),
    stride="Information disclosure",
    linddun="Data disclosure",
    atlas="",
    nist="NISTAML.032",
)
WORDS = 8  # consecutive values in a pattern: 32 bytes, which no chance repeats
PATTERNS = 16  # of one update, those with the most distinct values
LEAST_DISTINCT = 4  # fewer could be a run of zeros


class CanarySearch:
    """Knows every planted update, and looks for each in every frame, at any alignment."""

    def prepare(self, public: PublicInfo, rng: np.random.Generator) -> None:
        """Keep what is public."""
        self._public = public

    def run(self, view: CapturedView) -> Guess:
        """Return bool [patterns] "found", and float64 [uploads] "correlation" of each with the update behind it."""
        everything = b"\x00".join(item.frame for item in view.frames if item.direction == "to_coordinator")
        found = [
            any(form in everything for form in self._forms(few))
            for integers in view.own_updates.values()
            for few in _patterns(integers)
        ]
        sent = uploads(view, self._public)
        alike = [_correlation(sent[place], update) for place, update in view.own_updates.items() if place in sent]
        return {"found": np.array(found, dtype=np.bool_), "correlation": np.array(alike, dtype=np.float64)}

    def _forms(self, few: np.ndarray) -> Iterator[bytes]:
        bits, reals = self._public.modulus_bits, few / self._public.scale
        words = few.astype(np.uint64) & np.uint64((1 << bits) - 1)
        yield words.astype("<u4" if bits <= 32 else "<u8").tobytes()
        yield few.astype("<i4").tobytes()
        yield few.astype("<i8").tobytes()
        yield reals.astype("<f4").tobytes()
        yield reals.astype("<f8").tobytes()
        yield ",".join(map(str, few.tolist())).encode()
        yield " ".join(map(str, few.tolist())).encode()


def _patterns(integers: np.ndarray) -> Iterator[np.ndarray]:
    rows = integers[: integers.size // WORDS * WORDS].reshape(-1, WORDS)
    distinct = (np.diff(np.sort(rows, axis=1), axis=1) != 0).sum(axis=1) + 1
    for place in np.argsort(-distinct, kind="stable")[:PATTERNS]:
        if distinct[place] >= LEAST_DISTINCT:
            yield rows[place]


def _correlation(upload: Vector, update: np.ndarray) -> float:
    if not np.ptp(update) or not np.ptp(upload):
        return 0.0
    return abs(float(np.corrcoef(upload, update)[0, 1]))
