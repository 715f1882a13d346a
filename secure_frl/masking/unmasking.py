"""Take the left-over masks off a sum: rebuild one secret a member, check it, subtract what did not cancel.

Speaks as the coordinator. For a survivor it rebuilds the seed, for a lost site the mask key, never both: with both it
could open that site's input. It has no code that asks for both, and no site would give them.
Source: secure_aggregation.md, section 4, "Sum", and section 5, R4.
"""

from __future__ import annotations

import hmac

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import DealerCheated, MalformedMessage, TooFewShares
from secure_frl.masking.coordinator_memory import AskingShares
from secure_frl.masking.graph import neighbours
from secure_frl.masking.keys import KeyPair, pair_key, self_key
from secure_frl.masking.secret_sharing import combine
from secure_frl.masking.site_shares import seed_commitment
from secure_frl.secure_sum import SiteId


def unmask_(state: AskingShares) -> None:
    """Subtract M from the accumulator in place. Raises TooFewShares or DealerCheated; then there is no sum."""
    threshold = state.view.terms.constants.threshold
    members, survivors = set(state.members), set(state.survivors)
    cohort = state.view.context.cohort
    seeds = {site: _rebuild(site, state.seed_shares[site], threshold) for site in state.survivors}
    lost = [site for site in state.members if site not in survivors]
    keys = {site: _rebuild(site, state.key_shares[site], threshold) for site in lost}
    pairs = {site: KeyPair.from_secret(secret) for site, secret in keys.items()}
    for site, seed in seeds.items():
        expected = state.members[site].seed_commitment
        if not hmac.compare_digest(seed_commitment(state.view.ctx1, site, seed), expected):
            raise _cheated(site)
    for site, pair in pairs.items():
        if pair.public != state.members[site].public_key:
            raise _cheated(site)
    for site, seed in seeds.items():
        state.view.masks.add_(state.accumulator, self_key(seed, state.ctx2, site), -1)
    for site, pair in pairs.items():
        for other in neighbours(site, cohort):
            if other in survivors and other in members:
                key = pair_key(pair, state.members[other].public_key, state.ctx2, site, other)
                state.view.masks.add_(state.accumulator, key, -1 if other < site else +1)


def _rebuild(site: SiteId, shares: dict[SiteId, NDArray[np.uint32]], threshold: int) -> bytes:
    if len(shares) < threshold:
        raise TooFewShares(
            f"expected {threshold} shares of a secret of site {site}, got {len(shares)}. "
            "This round gives nothing; go on with the next one."
        )
    chosen = {holder: shares[holder] for holder in sorted(shares)[:threshold]}
    try:
        return combine(chosen)
    except MalformedMessage:
        raise _cheated(site) from None


def _cheated(site: SiteId) -> DealerCheated:
    return DealerCheated(
        f"expected shares of site {site} that rebuild what it committed to, got others. "
        "This round gives nothing; leave that site out of the next cohort."
    )
