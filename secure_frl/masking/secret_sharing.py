"""Threshold sharing of 32-byte secrets: 16 words, 16 polynomials over Z_65537, one matrix product.

Any t - 1 shares are uniform whatever the secret, because all t - 1 coefficients are uniform over all of Z_65537. They
come by rejection of 17-bit words: `% 65537` would favour small ones, and a bias here is a bias in every mask.
Values stay below t * 2^32 < 2^53, so the float64 product is exact.
Source: Shamir 1979; docs/protocol.md, section 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter, MalformedMessage
from secure_frl.secure_sum import RandomSource, SiteId

PRIME = 65_537
WORDS = 16
_SECRET_BYTES = 2 * WORDS
SHARE_BYTES = 4 * WORDS


def share_point(site: SiteId) -> int:
    """Return the x at which this site's share is taken; 0 would be the secret itself."""
    return site + 1


def split(secret: bytes, threshold: int, holders: Sequence[SiteId], random: RandomSource) -> dict[SiteId, bytes]:
    """Return one share a holder, 64 bytes: 16 little-endian words of 4 bytes, each in [0, 65536].

    secret: 32 bytes; only the dealer may hold it. Any `threshold` shares rebuild it, fewer say nothing.
    """
    if len(secret) != _SECRET_BYTES or threshold < 1:
        raise InvalidParameter(f"expected 32 bytes and t >= 1, got {len(secret)} and {threshold}. Fix the call.")
    coefficients = np.empty((threshold, WORDS), np.float64)
    coefficients[0] = np.frombuffer(secret, "<u2")
    coefficients[1:] = _uniform((threshold - 1) * WORDS, random).reshape(threshold - 1, WORDS)
    powers = _powers(tuple(map(share_point, holders)), threshold)
    shares = np.mod(powers @ coefficients, PRIME).astype("<u4").tobytes()
    return {site: shares[row * SHARE_BYTES : (row + 1) * SHARE_BYTES] for row, site in enumerate(holders)}


def combine(shares: Mapping[SiteId, bytes]) -> bytes:
    """Return the 32 bytes that these shares (exactly `threshold` of them) rebuild.

    Raises MalformedMessage if a rebuilt word is 65536, which no 32-byte secret has.
    """
    weights = _weights(tuple(map(share_point, shares)))
    values = np.frombuffer(b"".join(shares.values()), "<u4").reshape(-1, WORDS).astype(np.float64)
    words = np.mod(weights @ values, PRIME)
    if np.any(words == PRIME - 1):
        raise MalformedMessage("expected words below 65536 in a rebuilt secret, got 65536. Its dealer cheated.")
    return words.astype("<u2").tobytes()


def is_share(data: bytes) -> NDArray[np.bool_]:
    """Return for each share in `data`, 64 bytes each, whether all its words are at most 65536, bool [shares]."""
    found: NDArray[np.bool_] = np.frombuffer(data, "<u4").reshape(-1, WORDS).max(axis=1, initial=0) < PRIME
    return found


def check_shares(data: bytes) -> None:
    """Raise MalformedMessage unless `data` holds whole shares with words of at most 65536."""
    if len(data) % SHARE_BYTES or not is_share(data).all():
        raise MalformedMessage(f"expected shares of {SHARE_BYTES} bytes, words up to 65536, got others. Drop them.")


def _uniform(count: int, random: RandomSource) -> NDArray[np.float64]:
    kept = np.empty(0, np.uint32)
    while len(kept) < count:
        drawn = np.frombuffer(random.take(4 * (2 * (count - len(kept)) + 16)), "<u4") & 0x1FFFF
        kept = np.concatenate([kept, drawn[drawn < PRIME]])
    return kept[:count].astype(np.float64)


@lru_cache(maxsize=256)
def _powers(points: tuple[int, ...], threshold: int) -> NDArray[np.float64]:
    """Return x^0 ... x^(t - 1) for each point, through logarithms: a sparse graph has new holders in every round."""
    powers, logs = _logarithms()
    exponents = np.multiply.outer(logs[np.asarray(points, np.int64)], np.arange(threshold))
    result: NDArray[np.float64] = powers[exponents % (PRIME - 1)]
    return result


@lru_cache(maxsize=256)
def _weights(points: tuple[int, ...]) -> NDArray[np.float64]:
    """Return Lagrange's weights at 0, the products of x_j / (x_j - x_i) over j != i, through logarithms.

    A sparse graph has another set of holders for nearly every secret, so the weights are no rare cost.
    """
    powers, logs = _logarithms()
    x = np.asarray(points, np.int64)
    differences = (x - x[:, None]) % PRIME
    np.fill_diagonal(differences, 1)  # its logarithm is 0
    of_x = logs[x]
    weights: NDArray[np.float64] = powers[(of_x.sum() - of_x - logs[differences].sum(axis=1)) % (PRIME - 1)]
    return weights


@lru_cache(maxsize=1)
def _logarithms() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the powers of 3, which generates the multiplicative group of Z_65537, and their inverse function."""
    powers = np.ones(PRIME - 1, np.int64)
    known = 1
    while known < PRIME - 1:
        powers[known : 2 * known] = powers[:known] * pow(3, known, PRIME) % PRIME
        known *= 2
    logs = np.zeros(PRIME, np.int64)
    logs[powers] = np.arange(PRIME - 1)
    return powers.astype(np.float64), logs
