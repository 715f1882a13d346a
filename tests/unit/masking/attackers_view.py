"""What an attacker records of a small federation and computes from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from secure_frl.encoding import ring
from secure_frl.masking import prg
from secure_frl.masking.keys import KeyPair, pair_key, self_key
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES, read_header
from secure_frl.wire.messages import MessageType


def frames_of(parties: Any, kind: MessageType, direction: str = "up") -> dict[int, bytes]:
    """Return the last frame of a type from (or to) each site."""
    return {s: f for d, s, f in parties.frames if d == direction and read_header(f).type == kind}


def upload(parties: Any, site: int) -> np.ndarray:
    frame = frames_of(parties, MessageType.R2)[site]
    return np.frombuffer(frame[HEADER_BYTES:-TAG_BYTES], "<u4").copy()


def width_mask(parties: Any) -> np.uint32:
    return np.uint32((1 << parties.constants.modulus_bits) - 1)


def has_lanes(words: np.ndarray, weight: int = 1) -> bool:
    """Whether words carry the lanes of one plain vector."""
    return [int(words[at]) for at in (0, 1, -2, -1)] == [1, 0, weight, 0]


def values_of(words: np.ndarray, parties: Any) -> list[int]:
    found: list[int] = ring.centred(words, parties.constants.modulus_bits)[2:-2].tolist()
    return found


def unmask(parties: Any, state: Any, victim: int, seed: bytes, pair: KeyPair) -> np.ndarray:
    """Return what is left of an upload when both secrets of its sender are tried on it."""
    words, adder = upload(parties, victim), prg.PairwiseMasks(parties.constants.length + 4)
    adder.add_(words, self_key(seed, state.ctx2, victim), -1)
    for other, dealt in state.members.items():
        if other != victim:
            key = pair_key(pair, dealt.public_key, state.ctx2, victim, other)
            adder.add_(words, key, -1 if victim < other else +1)
    return words & width_mask(parties)


def reachable(thing: object, seen: set[int] | None = None) -> Iterator[bytes]:
    """Yield every 32-byte string that a memory image of an object holds."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, bytes):
        if len(thing) == 32:
            yield thing
        return
    if isinstance(thing, dict):
        inner: list[Any] = [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset):
        inner = list(thing)
    else:
        names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        inner = [getattr(thing, name, None) for name in names] + list(getattr(thing, "__dict__", {}).values())
    for one in inner:
        yield from reachable(one, seen)
