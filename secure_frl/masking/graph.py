"""Who masks with whom: everybody in `cross_silo`, k neighbours on a random circle in `cross_device`.

The bounds of R1' and R3a are stated over neighbourhoods and checked at both ends, so the coordinator cannot skip them.
The circle's order comes from a seed that holds the epoch's hash, hence every site's nonce, which was committed to
before any was shown. All counts over the cohort are taken at once: a site's work does not grow by n for a neighbour.
Source: docs/protocol.md, section 10; Bell et al. 2020.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from secure_frl.masking.contexts import CROSS_DEVICE
from secure_frl.secure_sum import SiteId, SumConstants
from secure_frl.wire.hashing import encode_integers, labelled_hash

_WORD_RANGE = 1 << 32
Sites = Sequence[SiteId] | NDArray[np.int64]


def as_sites(numbers: tuple[int, ...]) -> tuple[SiteId, ...]:
    """Return decoded numbers under their type; a call for each would cost a site 60 us a list of 1,000."""
    return cast(tuple[SiteId, ...], numbers)  # SiteId is an int with a name


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """The graph of one attempt: the cohort in its order on the circle, each site beside the k next to it."""

    order: NDArray[np.int64] = field(repr=False)  # [n], the site at each place of the circle
    offsets: NDArray[np.int64] = field(repr=False)  # [k], from each place to those of its neighbours
    _place: NDArray[np.int64] = field(repr=False)  # by id; -1 for who is not in the cohort

    @property
    def circle(self) -> tuple[SiteId, ...]:
        """Return the cohort in its order."""
        return as_sites(tuple(self.order.tolist()))

    @property
    def is_complete(self) -> bool:
        """Return whether every site is every other one's neighbour."""
        return len(self.offsets) >= len(self.order) - 1

    def place(self, site: SiteId) -> int:
        """Return where a site of the cohort is on the circle."""
        return int(self._place[site])

    def neighbours(self, site: SiteId) -> tuple[SiteId, ...]:
        """Return N(site), ascending."""
        near = self.order[(self._place[site] + self.offsets) % len(self.order)]
        return as_sites(tuple(np.sort(near).tolist()))

    def has(self, sites: NDArray[np.int64]) -> bool:
        """Return whether these are sites of the cohort, ascending and distinct."""
        if not len(sites) or not (sites[1:] > sites[:-1]).all() or sites[0] < 0 or sites[-1] >= len(self._place):
            return not len(sites)
        return bool((self._place[sites] >= 0).all())

    def members_fault(self, members: Sites, constants: SumConstants) -> str | None:
        """Return why U2 may not go on, or None: enough sites, and each one's seed can be rebuilt.

        members: of the cohort, ascending.
        """
        if len(members) < constants.min_survivors:
            return f"expected at least {constants.min_survivors} members, got {len(members)}"
        present = self.mark(members)
        holders = 1 + self._beside(present)  # N[i]: a site holds a share of its own seed
        return self._too_few(present & (holders < constants.threshold), holders, constants, "seed of site")

    def survivors_fault(self, survivors: Sites, members: Sites, constants: SumConstants) -> str | None:
        """Return why U3 may not be confirmed, or None. members: U2, ascending."""
        named, asked = np.asarray(survivors, np.int64), self.mark(members)
        if not self.has(named) or not asked[self._place[named]].all():
            return "expected survivors in ascending order out of the members, got another list"
        if len(named) < constants.min_survivors:
            return f"expected at least {constants.min_survivors} survivors, got {len(named)}"
        # implied by the line before, since check_constants takes no charter but with h = min_survivors - c; it stands
        # here too because what protects the people behind the data must not hang on a check in another file alone
        if constants.noise == "distributed" and len(named) - constants.max_colluders < constants.honest_shares:
            return f"expected {constants.honest_shares} honest noise shares, got fewer"
        present = self.mark(named)
        holders = self._beside(present)
        lost = asked & ~present & (holders > 0) & (holders < constants.threshold)
        seeds = present & (holders + 1 < constants.threshold)
        return (
            self._too_few(lost, holders, constants, "key of lost site")
            or self._too_few(seeds, holders + 1, constants, "seed of site")
            or (None if self._is_connected(present) else "expected survivors that are connected, got two groups")
        )

    def mark(self, sites: Sites) -> NDArray[np.bool_]:
        """Return which places on the circle these sites have, bool [n]."""
        marked = np.zeros(len(self.order), np.bool_)
        marked[self._place[np.asarray(sites, np.int64)]] = True
        return marked

    def _beside(self, present: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return how many of each place's neighbours are present, int64 [n]."""
        own = present.astype(np.int64)
        if self.is_complete:
            return int(own.sum()) - own
        reach, size = len(self.offsets) // 2, len(own)
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
        return int(np.count_nonzero(gaps > len(self.offsets) // 2)) <= 1

    def _too_few(
        self, places: NDArray[np.bool_], holders: NDArray[np.int64], constants: SumConstants, what: str
    ) -> str | None:
        found = np.flatnonzero(places)
        if not len(found):
            return None
        at = int(found[np.argmin(self.order[found])])
        return f"expected {constants.threshold} holders of the {what} {self.order[at]}, got {int(holders[at])}"


def graph_of(constants: SumConstants, epoch_hash: bytes, number: int, attempt: int, cohort: Sequence[SiteId]) -> Graph:
    """Return the graph of one attempt; every party computes it for itself. cohort: ascending."""
    ascending, size = np.asarray(cohort, np.int64), len(cohort)
    if constants.profile == CROSS_DEVICE:
        order = ascending[permutation(graph_seed(epoch_hash, number, attempt, cohort), size)]
        steps = np.arange(1, constants.neighbours // 2 + 1)
        offsets = np.concatenate([-steps, steps])
    else:
        order, offsets = ascending, np.arange(1, size)
    place = np.full(int(ascending[-1]) + 1, -1, np.int64)
    place[order] = np.arange(size)
    return Graph(order, offsets, place)


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
    choices, limits = _choices(size)
    words = _words(seed, size)
    first = next(words)[: size - 1]
    if (first < limits).all():
        at_once: list[int] = (first % choices).tolist()
        return at_once
    stream = (word for block in _words(seed, size) for word in block.tolist())
    draws: list[int] = []
    for choice, limit in zip(choices.tolist(), limits.tolist(), strict=True):
        while (word := next(stream)) >= limit:
            pass
        draws.append(word % choice)
    return draws


@lru_cache(maxsize=4)
def _choices(size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return i + 1 for i = size - 1 ... 1, and the words below which each choice is uniform."""
    choices = np.arange(size, 1, -1, dtype=np.uint64)
    return choices, _WORD_RANGE // choices * choices


def _words(seed: bytes, about: int) -> Iterator[NDArray[np.uint64]]:
    """Yield the stream's words without end, `about` at a time."""
    encryptor = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    while True:
        yield np.frombuffer(encryptor.update(bytes(4 * max(about, 16))), "<u4").astype(np.uint64)
