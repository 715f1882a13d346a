"""What one site deals to the others in an attempt, and how it opens what they dealt.

A share pair travels under a key that holds the dealer's fresh public key and seed commitment, with its commitments as
associated data: the coordinator relays it and can neither read, change nor move it.
Source: docs/protocol.md, section 9, and section 12, R1 and R1'.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from secure_frl.errors import BadSignature
from secure_frl.masking.keys import Channels, KeyPair, share_key
from secure_frl.masking.secret_sharing import is_share, split
from secure_frl.secure_sum import RandomSource, SiteId
from secure_frl.wire.envelope import seal, unseal
from secure_frl.wire.hashing import labelled, labelled_hash, lp, lp_of_hashes, lp_of_ids
from secure_frl.wire.messages import RoundKeys
from secure_frl.wire.records import SHARE_BYTES, DealtShares, MemberList, pack_records

_SHARE_LENGTH = SHARE_BYTES.to_bytes(4, "big")


def seed_commitment(ctx1: bytes, site: SiteId, seed: bytes) -> bytes:
    """Return H_b."""
    return labelled_hash("b-commit", ctx1, site, seed)


def key_share_commitment(ctx1: bytes, dealer: SiteId, holder: SiteId, share: bytes) -> bytes:
    """Return g: the hash that binds a share of the dealer's mask key. Shares are uniform, so it hides them."""
    return share_hash(key_share_start(ctx1), dealer, holder, share)


def seed_share_commitment(ctx1: bytes, dealer: SiteId, holder: SiteId, share: bytes) -> bytes:
    """Return h: the hash that binds a share of the dealer's seed."""
    return share_hash(seed_share_start(ctx1), dealer, holder, share)


def key_share_start(ctx1: bytes) -> bytes:
    """Return what every g of an attempt begins with."""
    return labelled("share-s") + lp(ctx1)


def seed_share_start(ctx1: bytes) -> bytes:
    """Return what every h of an attempt begins with."""
    return labelled("share-b") + lp(ctx1)


def share_hash(start: bytes, dealer: int, holder: int, share: bytes) -> bytes:
    """Return H(purpose, ctx1, dealer, holder, share), whose first two fields are `start`: two a neighbour and end."""
    return hashlib.sha256(start + lp_of_ids(dealer, holder) + _SHARE_LENGTH + share).digest()


def deal(
    channels: Channels,
    ctx1: bytes,
    me: SiteId,
    others: tuple[SiteId, ...],
    secrets: tuple[KeyPair, bytes],
    threshold: int,
    random: RandomSource,
) -> tuple[RoundKeys, bytes]:
    """Return R1's body with this site's share of its own seed, 64 bytes.

    others: N(me), ascending. secrets: the fresh mask key pair and the fresh seed, 32 bytes; used in this attempt only.
    The seed is dealt to all of N[me], the key to N(me): nobody holds a share of the own key.
    """
    keys, seed = secrets
    commitment = seed_commitment(ctx1, me, seed)
    seed_shares = split(seed, threshold, (*others, me), random)
    key_shares = split(keys.secret, threshold, others, random)
    of_keys, of_seeds = key_share_start(ctx1), seed_share_start(ctx1)
    dealt = []
    for other in others:
        of_key, of_seed = key_shares[other], seed_shares[other]
        g, h = share_hash(of_keys, me, other, of_key), share_hash(of_seeds, me, other, of_seed)
        key = share_key(channels.key(other), ctx1, me, other, keys.public, commitment)
        dealt.append(DealtShares(other, g, h, seal(key, of_key + of_seed, lp_of_ids(me, other) + lp_of_hashes(g, h))))
    own = seed_shares[me]
    own_commitment = share_hash(of_seeds, me, me, own)
    return RoundKeys(keys.public, commitment, own_commitment, pack_records(dealt)), own


def open_dealt(
    channels: Channels, ctx1: bytes, me: SiteId, members: MemberList, inbox: Sequence[DealtShares]
) -> tuple[dict[SiteId, tuple[bytes, bytes]], list[SiteId]]:
    """Return (share of the key, share of the seed), 64 bytes each, of every dealer, and the dealers to blame.

    inbox: one item from each neighbour among the members. To blame is whose pair does not open, has words out of range
    or contradicts its commitments. No key is disclosed.
    """
    of_keys, of_seeds = key_share_start(ctx1), seed_share_start(ctx1)
    opened: dict[SiteId, tuple[bytes, bytes]] = {}
    bad: list[SiteId] = []
    rows = np.searchsorted(members.sites, [item.site for item in inbox]).tolist()
    for row, (dealer, g, h, sealed) in zip(rows, inbox, strict=True):
        site = SiteId(dealer)
        key = share_key(channels.key(site), ctx1, site, me, *members.entry(row))
        try:
            plain = unseal(key, sealed, lp_of_ids(site, me) + lp_of_hashes(g, h))
        except BadSignature:
            bad.append(site)
            continue
        of_key, of_seed = plain[:SHARE_BYTES], plain[SHARE_BYTES:]
        if share_hash(of_keys, site, me, of_key) == g and share_hash(of_seeds, site, me, of_seed) == h:
            opened[site] = of_key, of_seed
        else:
            bad.append(site)
    dealers = tuple(opened)
    in_range = is_share(b"".join([of_key + of_seed for of_key, of_seed in opened.values()]))
    bad += [dealers[at // 2] for at in np.flatnonzero(~in_range).tolist()]
    return opened, sorted(set(bad))
