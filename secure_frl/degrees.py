"""How many neighbours a random circulant graph needs, and which threshold: exact integer arithmetic, no tables.

The rules for n sites of which C are corrupt and F fall silent, whichever they are: no site has t corrupt neighbours and
the honest survivors stay connected, each but with probability 2^-(s+1) over the graph; no site has fewer than t
neighbours that answer, but with probability 2^-20. X, the corrupt neighbours of one site, is hypergeometric.
Source: docs/protocol.md, section 10; Bell et al. 2020, section 3.
"""

from __future__ import annotations

import math
from functools import lru_cache

CORRECTNESS_EXPONENT = 20
LEAST_PRIVACY_EXPONENT = 20  # a charter below it promises nothing worth signing


@lru_cache(maxsize=64)
def neighbours_and_threshold(
    sites: int, corrupt: int, dropped: int, privacy_exponent: int, *, malicious: bool = False
) -> tuple[int, int] | None:
    """Return (k, t): the smallest even degree, then the smallest threshold, that keep all rules; None without any.

    malicious: a coordinator that tells honest sites different things; computed for comparison, never claimed.
    """
    for degree in range(2, sites - 1, 2):
        if not _stays_connected(sites, corrupt + dropped, degree, privacy_exponent):
            continue
        threshold = _smallest_threshold(sites, corrupt, degree, privacy_exponent, malicious=malicious)
        if threshold is not None and is_live(sites, dropped, degree, threshold):
            return degree, threshold
    return None


def is_private(sites: int, corrupt: int, dropped: int, degree: int, threshold: int, privacy_exponent: int) -> bool:
    """Return whether a graph of this degree keeps the two rules on which privacy rests, for a coordinator that follows
    the protocol."""
    bad = _tails(sites - 1, corrupt, degree)
    whole = math.comb(sites - 1, degree)
    at_least = bad[threshold] if threshold <= degree else 0
    is_rare = sites * at_least << (privacy_exponent + 1) <= whole
    return is_rare and _stays_connected(sites, corrupt + dropped, degree, privacy_exponent)


def is_live(sites: int, dropped: int, degree: int, threshold: int) -> bool:
    """Return whether n * P(more than k - t neighbours of a site are silent) <= 2^-20."""
    if threshold > degree:
        return False
    silent = _tails(sites - 1, dropped, degree)[degree - threshold + 1]
    return sites * silent << CORRECTNESS_EXPONENT <= math.comb(sites - 1, degree)


def fraction_of(sites: int, fraction: float) -> int:
    """Return floor(fraction * sites), for fractions that people wrote as decimals."""
    return math.floor(round(fraction * sites, 9))


def _stays_connected(sites: int, gone: int, degree: int, privacy_exponent: int) -> bool:
    """binom(n, 2) * ((C + F) / n)^k <= 2^-(s+1): a split needs two runs of k / 2 deleted sites on the circle."""
    return bool(math.comb(sites, 2) * gone**degree << (privacy_exponent + 1) <= sites**degree)


def _smallest_threshold(sites: int, corrupt: int, degree: int, privacy_exponent: int, *, malicious: bool) -> int | None:
    """Return the least t with n * P(X >= t) <= 2^-(s+1); malicious: n * P(k + 1 + X >= 2t) <= 2^-(s+1)."""
    whole = math.comb(sites - 1, degree)
    bad = _tails(sites - 1, corrupt, degree)
    rare = [at for at in range(1, degree + 2) if sites * bad[at] << (privacy_exponent + 1) <= whole]
    if not rare:
        return None
    threshold = (degree + 1 + rare[0] + 1) // 2 if malicious else rare[0]
    return threshold if threshold <= degree else None


def _tails(others: int, marked: int, drawn: int) -> list[int]:
    """Return, for x = 0 ... drawn + 1, the number of ways to draw `drawn` of `others` with at least x marked ones."""
    ways = [math.comb(marked, x) * math.comb(others - marked, drawn - x) for x in range(drawn + 1)]
    tails = [0] * (drawn + 2)
    for x in range(drawn, -1, -1):
        tails[x] = tails[x + 1] + ways[x]
    return tails
