"""The carrier of a simulation: sites in this process, bytes copied both ways, losses drawn from a seed.

It is trusted with delivery only. It can keep a capture of every frame, and it can lose sites on purpose: before their
masked input (they advertised keys, then fall silent) or after it (they are in the sum, but no longer answer).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from secure_frl.errors import InvalidParameter, PeerError
from secure_frl.secure_sum import Addressed, Site, SiteId
from secure_frl.wire.capture import CaptureWriter
from secure_frl.wire.envelope import read_header
from secure_frl.wire.messages import MessageType

# A site lost before its masked input answers R0 and nothing later; one lost after it answers R1' and nothing later.
_SILENT_BEFORE = frozenset({MessageType.R1P, MessageType.R3A, MessageType.R3C, MessageType.R5, MessageType.R5C})
_SILENT_AFTER = frozenset({MessageType.R3A, MessageType.R3C, MessageType.R5, MessageType.R5C})

_Reply = tuple[SiteId, bytes, float, float]  # when it was answered, and how long that took: seconds of the clock
GROUP_BYTES = 64 << 20  # of replies that wait for one sync; a thousand sites' of a small policy


@dataclass(frozen=True, slots=True)
class DropSchedule:
    """Which sites are lost in a round: a function of the seed and the round only."""

    seed: int
    sites: int
    before_masked: int = 0
    after_masked: int = 0

    def lost(self, round_number: int) -> tuple[frozenset[SiteId], frozenset[SiteId]]:
        """Return the sites lost before, and those lost after, their masked input."""
        order = np.random.default_rng([self.seed, round_number, 0xD209]).permutation(self.sites).tolist()
        before = order[: self.before_masked]
        after = order[self.before_masked : self.before_masked + self.after_masked]
        return frozenset(map(SiteId, before)), frozenset(map(SiteId, after))

    def is_silent(self, site: SiteId, frame: bytes) -> bool:
        """Return whether this site is lost for this request."""
        if not self.before_masked and not self.after_masked:
            return False
        header = read_header(frame)
        before, after = self.lost(header.round)
        return (site in before and header.type in _SILENT_BEFORE) or (site in after and header.type in _SILENT_AFTER)

    def loses(self, site: SiteId, reply: bytes) -> bool:
        """Return whether this reply is lost on its way: ciphertexts that answer R0, of a site lost before its input."""
        if not self.before_masked:
            return False
        header = read_header(reply)
        return header.type == MessageType.R2C and site in self.lost(header.round)[0]


class InProcessCarrier:
    """Delivers to sites in this process, one at a time, in the order asked."""

    def __init__(
        self,
        sites: Mapping[SiteId, Site],
        drops: DropSchedule | None = None,
        capture: CaptureWriter | None = None,
        clock: Callable[[], float] = time.monotonic,
        sync: Callable[[], None] | None = None,
    ) -> None:
        """sync: puts what the sites wrote on disk, for many at once; None when each of them did it by itself."""
        self._sites = sites
        self._sync = sync
        self._drops = drops
        self._capture = capture
        self._clock = clock

    def exchange(self, requests: Iterable[Addressed], deadline_s: float) -> Iterator[Addressed]:
        """Deliver each request and yield its reply at once; a lost site yields nothing.

        A reply that took its site longer than `deadline_s` is dropped, as a real carrier would. Sites answer one
        after the other here and at once in the world, so each one's own time counts. With `sync`, replies wait for it
        in groups: none leaves, not even into a capture, before what all of the group wrote is on disk.
        """
        replies = self._replies(requests)
        while group := _up_to(replies, 0 if self._sync is None else GROUP_BYTES):
            if self._sync is not None:
                self._sync()
            for site, reply, answered, took in group:
                self._note("to_coordinator", site, reply, answered)
                if took <= deadline_s:
                    yield site, reply

    def _replies(self, requests: Iterable[Addressed]) -> Iterator[_Reply]:
        for site, request in requests:
            if site not in self._sites:
                raise InvalidParameter(f"expected a site of this carrier, got {site}. Check the roster.")
            delivered = bytes(bytearray(request))  # a copy: no party can reach into another's memory
            asked = self._clock()
            self._note("to_site", site, delivered, asked)
            if self._drops is not None and self._drops.is_silent(site, delivered):
                continue
            try:
                reply = bytes(bytearray(self._sites[site].handle(delivered)))
            except (PeerError, ConnectionError):
                continue  # a site that cannot even refuse is a silent one
            if self._drops is not None and self._drops.loses(site, reply):
                continue
            answered = self._clock()
            yield site, reply, answered, answered - asked

    def close(self) -> None:
        """Close the capture, if there is one."""
        if self._capture is not None:
            self._capture.close()

    def _note(self, direction: Literal["to_site", "to_coordinator"], site: SiteId, frame: bytes, when: float) -> None:
        if self._capture is not None:
            self._capture.write(direction, site, when, frame)


def _up_to(replies: Iterator[_Reply], size: int) -> list[_Reply]:
    """Take replies, one at least, until they come to `size` bytes or there are no more."""
    group: list[_Reply] = []
    held = 0
    for reply in replies:
        group.append(reply)
        held += len(reply[1])
        if held >= size:
            break
    return group
