"""Take the left-over masks off a sum: rebuild one secret a member, check it, subtract what did not cancel.

Speaks as the coordinator. For a survivor it rebuilds the seed, for a lost site the mask key, never both: with both it
could open that site's input. It has no code that asks for both, and no site would give them.
Source: docs/protocol.md, section 8, and section 12, R4.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import numpy as np

from secure_frl.errors import DealerCheated, MalformedMessage, TooFewShares
from secure_frl.masking.coordinator_memory import AskingShares
from secure_frl.masking.graph import as_sites
from secure_frl.masking.keys import KeyPair, pair_key, self_key
from secure_frl.masking.prg import mask_adder
from secure_frl.masking.secret_sharing import SHARE_BYTES, combine
from secure_frl.masking.site_shares import seed_commitment
from secure_frl.secure_sum import SiteId, Words

_Mask = tuple[bytes, int]  # key and sign
_MakeMask = Callable[[], _Mask]
_SHARED_BYTES = 1 << 18  # below this a thread waits for the interpreter's lock longer than it adds


def unmask_(state: AskingShares) -> None:
    """Subtract M from the accumulator in place. Raises TooFewShares or DealerCheated; then there is no sum."""
    threshold = state.view.terms.constants.threshold
    survivors = set(state.survivors)
    seeds = {site: _rebuild(state, site, threshold) for site in state.survivors}
    lost = [site for site in state.members if site not in survivors]
    keys = {site: _rebuild(state, site, threshold) for site in lost}
    pairs = {site: KeyPair.from_secret(secret) for site, secret in keys.items()}
    for site, seed in seeds.items():
        expected = state.members[site].seed_commitment
        if not hmac.compare_digest(seed_commitment(state.view.ctx1, site, seed), expected):
            raise _cheated(site)
    for site, pair in pairs.items():
        if pair.public != state.members[site].public_key:
            raise _cheated(site)
    add_in_parallel_(state, lambda: left_over(state, seeds, pairs))


def left_over(state: AskingShares, seeds: dict[SiteId, bytes], pairs: dict[SiteId, KeyPair]) -> Iterator[_MakeMask]:
    """Yield, for each mask that did not cancel, what makes its key and says its sign."""
    for site, seed in seeds.items():
        yield partial(_self_mask, state.ctx2, site, seed)
    for site, pair in pairs.items():
        for other in state.view.graph.neighbours(site):
            if other in seeds:
                yield partial(_pair_mask, state.ctx2, site, pair, other, state.members[other].public_key)


def _self_mask(ctx2: bytes, site: SiteId, seed: bytes) -> _Mask:
    return self_key(seed, ctx2, site), -1


def _pair_mask(ctx2: bytes, site: SiteId, pair: KeyPair, other: SiteId, public: bytes) -> _Mask:
    """Return what takes off the mask that survivor `other` shares with the lost `site`."""
    return pair_key(pair, public, ctx2, site, other), -1 if other < site else +1


def add_in_parallel_(state: AskingShares, masks: Callable[[], Iterator[_MakeMask]]) -> None:
    """Add masks to the accumulator in place, on every core: a thread has its own buffers and its own accumulator.

    The cipher and the additions release the interpreter's lock, a key exchange does not; so a key is made by the
    thread that needs it, while others add. Memory: one vector a core, whatever the number of masks.
    """
    accumulator, constants = state.accumulator, state.view.terms.constants
    threads = _cores() if accumulator.nbytes >= _SHARED_BYTES else 1
    if threads == 1:
        state.view.masks.add_all_(accumulator, (make() for make in masks()))
        return

    def part(number: int) -> Words:
        own = np.zeros_like(accumulator)
        mask_adder(constants).add_all_(own, (make() for make in islice(masks(), number, None, threads)))
        return own

    with ThreadPoolExecutor(threads) as pool:
        for own in pool.map(part, range(threads)):
            np.add(accumulator, own, out=accumulator)


def _cores() -> int:
    """Return the cores this process may use; a container can have fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _rebuild(state: AskingShares, site: SiteId, threshold: int) -> bytes:
    """Rebuild the secret of one site that its holders were asked for, from those of the lowest ids."""
    holders, data = as_sites(tuple(state.shares.makers(site).tolist())), state.shares.of(site)
    shares = {holder: data[SHARE_BYTES * at : SHARE_BYTES * (at + 1)] for at, holder in enumerate(holders)}
    if site in state.own_shares:
        shares[site] = state.own_shares[site]
    if len(shares) < threshold:
        raise TooFewShares(
            f"expected {threshold} shares of a secret of site {site}, got {len(shares)}. "
            "This round gives nothing; go on with the next one."
        )
    try:
        return combine({holder: shares[holder] for holder in sorted(shares)[:threshold]})
    except MalformedMessage:
        raise _cheated(site) from None


def _cheated(site: SiteId) -> DealerCheated:
    return DealerCheated(
        f"expected shares of site {site} that rebuild what it committed to, got others. "
        "This round gives nothing; leave that site out of the next cohort."
    )
