"""What one site deals to the others in an attempt, and how it opens what they dealt.

A share pair travels under a key that holds the dealer's fresh public key and seed commitment, with its commitments as
associated data: the coordinator relays it and can neither read, change nor move it.
Source: secure_aggregation.md, section 4, "Secret sharing", and section 5, R1 and R1'.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import BadShare, BadSignature, MalformedMessage
from secure_frl.masking.keys import Channels, KeyPair, share_key
from secure_frl.masking.secret_sharing import decode_share, encode_share, split
from secure_frl.secure_sum import RandomSource, SiteId
from secure_frl.wire.envelope import seal, unseal
from secure_frl.wire.hashing import labelled_hash, lp
from secure_frl.wire.messages import SHARE_BYTES, DealtShares, Member, RoundKeys


def seed_commitment(ctx1: bytes, site: SiteId, seed: bytes) -> bytes:
    """Return H_b."""
    return labelled_hash("b-commit", ctx1, site, seed)


def key_share_commitment(ctx1: bytes, dealer: SiteId, holder: SiteId, share: bytes) -> bytes:
    """Return g: the hash that binds a share of the dealer's mask key. Shares are uniform, so it hides them."""
    return labelled_hash("share-s", ctx1, dealer, holder, share)


def seed_share_commitment(ctx1: bytes, dealer: SiteId, holder: SiteId, share: bytes) -> bytes:
    """Return h: the hash that binds a share of the dealer's seed."""
    return labelled_hash("share-b", ctx1, dealer, holder, share)


def deal(
    channels: Channels,
    ctx1: bytes,
    me: SiteId,
    others: tuple[SiteId, ...],
    secrets: tuple[KeyPair, bytes],
    threshold: int,
    random: RandomSource,
) -> tuple[RoundKeys, NDArray[np.uint32]]:
    """Return R1's body with this site's share of its own seed, uint32 [16].

    others: N(me), ascending. secrets: the fresh mask key pair and the fresh seed, 32 bytes; used in this attempt only.
    The seed is dealt to all of N[me], the key to N(me): nobody holds a share of the own key.
    """
    keys, seed = secrets
    commitment = seed_commitment(ctx1, me, seed)
    seed_shares = split(seed, threshold, (*others, me), random)
    key_shares = split(keys.secret, threshold, others, random)
    dealt = []
    for other in others:
        of_key, of_seed = encode_share(key_shares[other]), encode_share(seed_shares[other])
        g = key_share_commitment(ctx1, me, other, of_key)
        h = seed_share_commitment(ctx1, me, other, of_seed)
        key = share_key(channels.key(other), ctx1, me, other, keys.public, commitment)
        dealt.append(DealtShares(other, g, h, seal(key, of_key + of_seed, lp(me, other, g, h))))
    own = seed_shares[me]
    own_commitment = seed_share_commitment(ctx1, me, me, encode_share(own))
    return RoundKeys(keys.public, commitment, own_commitment, tuple(dealt)), own


def open_dealt(
    channels: Channels, ctx1: bytes, me: SiteId, dealer: Member, item: DealtShares
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return (share of the dealer's key, share of its seed), uint32 [16] each.

    Raises BadShare if it does not open, has words out of range or contradicts its commitments. No key is disclosed.
    """
    holder, site = me, SiteId(dealer.site)
    key = share_key(channels.key(site), ctx1, site, holder, dealer.public_key, dealer.seed_commitment)
    try:
        plain = unseal(key, item.sealed, lp(site, holder, item.commitment_s, item.commitment_b))
        of_key, of_seed = plain[:SHARE_BYTES], plain[SHARE_BYTES:]
        shares = decode_share(of_key), decode_share(of_seed)
    except (BadSignature, MalformedMessage):
        raise BadShare(f"expected shares of site {site} that open, got others. Name the dealer, drop out.") from None
    bound_key = key_share_commitment(ctx1, site, holder, of_key)
    bound_seed = seed_share_commitment(ctx1, site, holder, of_seed)
    if (bound_key, bound_seed) != (item.commitment_s, item.commitment_b):
        raise BadShare(f"expected shares of site {site} as committed, got others. Name the dealer, drop out.")
    return shares
