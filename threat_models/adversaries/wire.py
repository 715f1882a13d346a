"""SFRL-D3 to D8: frames that were never sent so. What a network does to bytes, and what a coordinator says falsely.

A network has no key: it flips, cuts, joins, repeats, withholds and misdirects. A coordinator has its own: it signs
lists with invented peers, constants of its own, policies of NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from secure_frl.wire.envelope import HEADER_BYTES, read_header
from secure_frl.wire.messages import MessageType
from threat_models.threat import Threat, View

THREAT = Threat(
    id="SFRL-D3",
    name="wire",
    title="frames replayed, bent, misdirected or made up, taken for genuine ones",
    views=frozenset({View.NETWORK, View.COORDINATOR}),
    given="every frame of the run; for lists, constants and sums: the coordinator's keys",
    stronger="one who drops frames as well: rounds are lost, and counted",
    sources=("Dolev and Yao 1983", "Bonawitz et al. 2017, section 6 (active adversaries)"),
    stride="Spoofing, Tampering, Repudiation",
    linddun="",
    atlas="",  # ATT&CK T1557
    nist="",
)
FLIPPED_VECTOR, FLIPPED, CUT, JOINED, GARBAGE = "bit flip in a vector", "bit flip", "truncation", "splice", "garbage"
REPLAYED, MISDIRECTED, DUPLICATED = "replay", "misdirection", "duplicate"
SESSION, ROSTER, THRESHOLD, NAN, OVERFLOW = (
    "second session",
    "invented peers",
    "constants from the announcement",
    "NaN and words out of the ring",
    "sum out of range",
)
BY_NETWORK = (FLIPPED_VECTOR, FLIPPED, CUT, JOINED, GARBAGE, REPLAYED, MISDIRECTED, DUPLICATED, SESSION)
BY_COORDINATOR = (ROSTER, THRESHOLD, NAN, OVERFLOW)
FAMILIES = (*BY_NETWORK, *BY_COORDINATOR)
Bent = tuple[str, bytes]  # family, frame


class FrameBender:
    """Makes false frames of true ones, from a generator; it keeps what it has seen."""

    def __init__(self, rng: np.random.Generator, each: int) -> None:
        """each: how many false frames come with a true one."""
        self._rng, self._each = rng, each
        self._seen: dict[tuple[str, int], list[bytes]] = {}  # by direction and site

    def bent(self, direction: str, site: int, frame: bytes, of_others: Sequence[int]) -> Iterator[Bent]:
        """Yield false frames to deliver before the true one. of_others: sites whose frames may be misdirected here."""
        ways = self._ways(direction, site, frame, of_others)
        chosen = self._rng.permutation(len(ways))[: self._each]
        if read_header(frame).type == MessageType.R2:
            yield FLIPPED_VECTOR, self._flip(frame, HEADER_BYTES, HEADER_BYTES + read_header(frame).body_bytes)
        for place in chosen:
            family, make = ways[place]
            found = make()
            if found != frame:
                yield family, found

    def note(self, direction: str, site: int, frame: bytes) -> None:
        """Keep a true frame that has gone by."""
        self._seen.setdefault((direction, site), []).append(frame)

    def _ways(
        self, direction: str, site: int, frame: bytes, of_others: Sequence[int]
    ) -> list[tuple[str, Callable[[], bytes]]]:
        own = self._seen.get((direction, site), [])
        back = self._seen.get(("to_site" if direction == "to_coordinator" else "to_coordinator", site), [])
        other = [one for peer in of_others if peer != site for one in self._seen.get((direction, peer), [])[-3:]]
        ways: list[tuple[str, Callable[[], bytes]]] = [
            (FLIPPED, lambda: self._flip(frame, 0, len(frame))),
            (FLIPPED, lambda: self._flip(frame, 0, HEADER_BYTES)),
            (CUT, lambda: frame[: int(self._rng.integers(len(frame)))]),
            (CUT, lambda: frame + self._rng.bytes(1)),
            (GARBAGE, lambda: frame[:HEADER_BYTES] + self._rng.bytes(len(frame) - HEADER_BYTES)),
            (GARBAGE, lambda: self._rng.bytes(len(frame))),
        ]
        if own:
            ways += [(REPLAYED, lambda: self._pick(own))] * 3
            ways.append((JOINED, lambda: self._pick(own)[:HEADER_BYTES] + frame[HEADER_BYTES:]))
            ways.append((JOINED, lambda: frame[:HEADER_BYTES] + self._pick(own)[HEADER_BYTES:]))
        if back:
            ways.append((MISDIRECTED, lambda: back[-1]))
        if other:
            ways.append((MISDIRECTED, lambda: self._pick(other)))
            ways.append((JOINED, lambda: frame[:HEADER_BYTES] + self._pick(other)[HEADER_BYTES:]))
        return ways

    def _pick(self, frames: Sequence[bytes]) -> bytes:
        return frames[int(self._rng.integers(len(frames)))]

    def _flip(self, frame: bytes, start: int, stop: int) -> bytes:
        place = int(self._rng.integers(start, stop))
        return frame[:place] + bytes([frame[place] ^ (1 << int(self._rng.integers(8)))]) + frame[place + 1 :]
