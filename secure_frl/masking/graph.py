"""Who masks with whom: everybody in `cross_silo`, k neighbours on a random circle in `cross_device`.

The bounds of R1' and R3a are stated over neighbourhoods and checked at both ends, so the coordinator cannot skip them.
The circle's order comes from a seed that holds the epoch's hash, hence every site's nonce, which was committed to
before any was shown. All counts over the cohort are taken at once: a site's work does not grow by n for a neighbour.
Source: secure_aggregation.md, sections 5 and 7; Bell et al. 2020.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from secure_frl.masking.contexts import CROSS_DEVICE
from secure_frl.secure_sum import SiteId, SumConstants
from secure_frl.wire.hashing import encode_integers, labelled_hash

_WORD_RANGE = 1 << 32


def as_sites(numbers: tuple[int, ...]) -> tuple[SiteId, ...]:
    """Return decoded numbers under their type; a call for each would cost a site 60 us a list of 1,000."""
    return cast(tuple[SiteId, ...], numbers)  # SiteId is an int with a name


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """The graph of one attempt: the cohort in its order on the circle, each site beside the k next to it."""

    circle: tuple[SiteId, ...]
    reach: int  # k / 2 on each side; enough to reach everybody in the complete graph
    _place: dict[SiteId, int] = field(repr=False)

    @property
    def is_complete(self) -> bool:
        """Return whether every site is every other one's neighbour."""
        return 2 * self.reach >= len(self.circle) - 1

    def neighbours(self, site: SiteId) -> tuple[SiteId, ...]:
        """Return N(site), ascending."""
        size = len(self.circle)
        if self.is_complete:
            return tuple(sorted(other for other in self.circle if other != site))
        at = self._place[site]
        offsets = (offset for step in range(1, self.reach + 1) for offset in (step, -step))
        return tuple(sorted(self.circle[(at + offset) % size] for offset in offsets))

    def members_fault(self, members: Sequence[SiteId], constants: SumConstants) -> str | None:
        """Return why U2 may not go on, or None: enough sites, and each one's seed can be rebuilt.

        members: of the cohort, ascending.
        """
        if len(members) < constants.min_survivors:
            return f"expected at least {constants.min_survivors} members, got {len(members)}"
        present = self._mark(members)
        holders = 1 + self._beside(present)  # N[i]: a site holds a share of its own seed
        return self._too_few(present & (holders < constants.threshold), holders, constants, "seed of site")

    def survivors_fault(
        self, survivors: Sequence[SiteId], members: Sequence[SiteId], constants: SumConstants
    ) -> str | None:
        """Return why U3 may not be confirmed, or None. members: U2, ascending."""
        known = set(members)
        if list(survivors) != sorted(set(survivors) & known):
            return "expected survivors in ascending order out of the members, got another list"
        if len(survivors) < constants.min_survivors:
            return f"expected at least {constants.min_survivors} survivors, got {len(survivors)}"
        if constants.noise == "distributed" and len(survivors) - constants.max_colluders < constants.honest_shares:
            return f"expected {constants.honest_shares} honest noise shares, got fewer"
        present, asked = self._mark(survivors), self._mark(members)
        holders = self._beside(present)
        lost = asked & ~present & (holders > 0) & (holders < constants.threshold)
        seeds = present & (holders + 1 < constants.threshold)
        return (
            self._too_few(lost, holders, constants, "key of lost site")
            or self._too_few(seeds, holders + 1, constants, "seed of site")
            or (None if self._is_connected(present) else "expected survivors that are connected, got two groups")
        )

    def _mark(self, sites: Iterable[SiteId]) -> NDArray[np.bool_]:
        """Return which places on the circle these sites have, bool [n]."""
        marked = np.zeros(len(self.circle), np.bool_)
        place = self._place
        marked[[place[site] for site in sites]] = True
        return marked

    def _beside(self, present: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return how many of each place's neighbours are present, int64 [n]."""
        own = present.astype(np.int64)
        if self.is_complete:
            return int(own.sum()) - own
        reach, size = self.reach, len(own)
        running = np.concatenate([[0], np.cumsum(np.concatenate([own[-reach:], own, own[:reach]]))])
        window: NDArray[np.int64] = running[2 * reach + 1 :] - running[:size]
        return window - own

    def _is_connected(self, present: NDArray[np.bool_]) -> bool:
        """Return whether the graph on these places is one piece: no edge crosses a gap wider than its reach, and a
        circle that is cut once is still one piece."""
        if self.is_complete:
            return True
        places = np.flatnonzero(present)
        gaps = np.diff(places, append=places[:1] + len(present))
        return int(np.count_nonzero(gaps > self.reach)) <= 1

    def _too_few(
        self, places: NDArray[np.bool_], holders: NDArray[np.int64], constants: SumConstants, what: str
    ) -> str | None:
        found = np.flatnonzero(places)
        if not len(found):
            return None
        at = min((int(place) for place in found), key=lambda place: self.circle[place])
        return f"expected {constants.threshold} holders of the {what} {self.circle[at]}, got {int(holders[at])}"


def graph_of(constants: SumConstants, epoch_hash: bytes, number: int, attempt: int, cohort: Sequence[SiteId]) -> Graph:
    """Return the graph of one attempt; every party computes it for itself. cohort: ascending."""
    if constants.profile == CROSS_DEVICE:
        seed = graph_seed(epoch_hash, number, attempt, cohort)
        circle = tuple(cohort[at] for at in permutation(seed, len(cohort)))
        reach = constants.neighbours // 2
    else:
        circle, reach = tuple(cohort), len(cohort)
    return Graph(circle, reach, {site: place for place, site in enumerate(circle)})


def graph_seed(epoch_hash: bytes, number: int, attempt: int, cohort: Sequence[SiteId]) -> bytes:
    """Return the 32 bytes from which the circle's order is drawn."""
    return labelled_hash("graph", epoch_hash, number, attempt, encode_integers(cohort))


def permutation(seed: bytes, size: int) -> list[int]:
    """Return 0 ... size - 1 in an order drawn from the AES-256-CTR stream of `seed`.

    For i = size - 1 ... 1 swap the entries i and j, j uniform in 0 ... i from 4-byte little-endian words u: skipped
    when u >= floor(2^32 / (i + 1)) * (i + 1), else j = u mod (i + 1).
    """
    order = list(range(size))
    for i, j in zip(range(size - 1, 0, -1), _draws(seed, size), strict=True):
        order[i], order[j] = order[j], order[i]
    return order


def _draws(seed: bytes, size: int) -> list[int]:
    """Return j for i = size - 1 ... 1. A word is skipped once in 10^4 cohorts of 1,000, so all are tried at once."""
    choices = np.arange(size, 1, -1, dtype=np.uint64)
    first = np.fromiter(_words(seed, size), np.uint64, count=max(size - 1, 0))
    if (first < _WORD_RANGE // choices * choices).all():
        at_once: list[int] = (first % choices).tolist()
        return at_once
    words = _words(seed, size)
    draws: list[int] = []
    for choice in choices.tolist():
        while (word := next(words)) >= _WORD_RANGE // choice * choice:
            pass
        draws.append(word % choice)
    return draws


def _words(seed: bytes, about: int) -> Iterator[int]:
    """Yield the stream's words without end; `about` as many are made at a time."""
    encryptor = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    while True:
        yield from np.frombuffer(encryptor.update(bytes(4 * max(about, 16))), "<u4").tolist()
