"""The numbers of a secure sum in a charter: strict reading, and the rules that no charter may break.

Source of the rules: docs/protocol.md, section 3 (the two-sums argument of section 13 needs 2t > n + c).
"""

from __future__ import annotations

import math
from dataclasses import asdict

import msgspec

from secure_frl.degrees import LEAST_PRIVACY_EXPONENT, is_private
from secure_frl.errors import CharterRefused
from secure_frl.secure_sum import SumConstants
from secure_frl.wire.canonical import canonical_json

MIN_SITES, MAX_SITES = 3, 100  # cross_silo
MIN_COHORT, MAX_COHORT = 101, 10_000  # cross_device
CROSS_DEVICE = "cross_device"
PROTECTIONS = ("masking", "ckks", "ckks+masking", "unsafe-plain")
NOISES = ("distributed", "local", "unsafe-none")
_SHARES_TOLERANCE = 1e-9  # shares are decimal numbers that people wrote


def constants_from_plain(plain: object) -> SumConstants:
    """Build SumConstants from decoded JSON; exactly its fields, exactly their types. Raises TypeError, ValueError."""
    try:
        constants = msgspec.convert(plain, SumConstants)
    except msgspec.ValidationError:
        raise ValueError("constants") from None
    if canonical_json(asdict(constants)) != canonical_json(plain):  # an unknown field, or 4 where 4.0 belongs
        raise ValueError("constants")
    return constants


def check_constants(constants: SumConstants) -> None:
    """Refuse constants under which a sum is not what it claims. Raises CharterRefused naming every broken rule."""
    broken = [rule for rule, holds in _rules(constants) if not holds]
    if broken:
        raise CharterRefused(
            f"expected constants that keep every rule, these do not: {'; '.join(broken)}. "
            "Change sites, min_survivors, max_colluders or threshold in the study."
        )


def _rules(it: SumConstants) -> list[tuple[str, bool]]:
    n, t, c = it.sites, it.threshold, it.max_colluders
    return [
        *(_sparse_rules(it) if it.profile == CROSS_DEVICE else _complete_rules(it)),
        (f"c >= 1 (c={c}): a site knows its own share", c >= 1),
        (f"t <= n (t={t}, n={n})", t <= n),
        (
            f"max(3, t) <= min_survivors <= n (min_survivors={it.min_survivors}, t={t}, n={n})",
            max(3, t) <= it.min_survivors <= n,
        ),
        (f"h >= 2 (h={it.honest_shares})", it.honest_shares >= 2),
        (
            f"h = min_survivors - c (h={it.honest_shares}, min_survivors={it.min_survivors}, c={c})",
            it.honest_shares == it.min_survivors - c,
        ),
        (f"protection of {', '.join(PROTECTIONS)} ({it.protection[:30]!r})", it.protection in PROTECTIONS),
        (
            f"protection masking or unsafe-plain in cross_device ({it.protection[:30]!r})",
            it.profile != CROSS_DEVICE or "ckks" not in it.protection,
        ),
        (f"noise of {', '.join(NOISES)} ({it.noise[:30]!r})", it.noise in NOISES),
        *_size_rules(it),
        *_noise_rules(it),
    ]


def _complete_rules(it: SumConstants) -> list[tuple[str, bool]]:
    n, t, c = it.sites, it.threshold, it.max_colluders
    return [
        (f"{MIN_SITES} <= n <= {MAX_SITES} (n={n})", MIN_SITES <= n <= MAX_SITES),
        (f"t > c (t={t}, c={c}): colluders could rebuild every secret", t > c),
        (f"2t > n + c (t={t}, n={n}, c={c}): two survivor sets could both open", 2 * t > n + c),
        (
            f"profile = cross_silo with k = n - 1 (k={it.neighbours})",
            it.profile == "cross_silo" and it.neighbours == n - 1,
        ),
    ]


def _sparse_rules(it: SumConstants) -> list[tuple[str, bool]]:
    n, t, c, k, lost = it.sites, it.threshold, it.max_colluders, it.neighbours, it.sites - it.min_survivors
    is_sized = MIN_COHORT <= n <= MAX_COHORT and k % 2 == 0 and 1 <= t <= k < n - 1 and 0 <= c <= n and 0 <= lost <= n
    return [
        (f"{MIN_COHORT} <= n <= {MAX_COHORT}, an even k and t <= k < n - 1 (n={n}, k={k}, t={t})", is_sized),
        (
            f"k and t that keep {c} corrupt and {lost} lost sites below 2^-{LEAST_PRIVACY_EXPONENT} (k={k}, t={t})",
            is_sized and is_private(n, c, lost, k, t, LEAST_PRIVACY_EXPONENT),
        ),
    ]


def _size_rules(it: SumConstants) -> list[tuple[str, bool]]:
    fits = it.bound >= 1 and it.noise_bound >= 0 and it.weight >= 1
    half = 1 << (it.modulus_bits - 1) if 1 <= it.modulus_bits <= 64 else 0
    return [
        (f"1 <= length < 2^63 (length={it.length})", 1 <= it.length < 2**63),
        (f"scale finite and > 0 (scale={it.scale})", math.isfinite(it.scale) and it.scale > 0),
        ("bound >= 1, noise_bound >= 0, weight >= 1", fits),
        (
            f"n * bound + noise_bound < 2^(w-1) (w={it.modulus_bits})",
            it.sites * it.bound + it.noise_bound < half and it.sites * it.weight < half,
        ),
        ("blocks cover the vector in order, with names in ASCII, clips > 0 and shares that add to 1", _blocks_hold(it)),
    ]


def _blocks_hold(it: SumConstants) -> bool:
    at = 0
    for block in it.blocks:
        sound = math.isfinite(block.clip_norm) and block.clip_norm > 0 and 0 < block.noise_share <= 1
        sound = sound and block.name.isascii()  # it enters the hash of the constants
        if block.start != at or block.stop <= at or not sound:
            return False
        at = block.stop
    names = {block.name for block in it.blocks}
    shares = sum(block.noise_share for block in it.blocks)
    return at == it.length and len(names) == len(it.blocks) and abs(shares - 1) <= _SHARES_TOLERANCE


def _noise_rules(it: SumConstants) -> list[tuple[str, bool]]:
    finite = math.isfinite(it.noise_multiplier) and it.noise_multiplier >= 0
    noisy = it.noise_multiplier > 0 and 1 <= it.integer_noise_scale < 2**63
    silent = it.noise_multiplier == 0 and it.integer_noise_scale == 0
    return [
        (
            f"noise_multiplier and integer_noise_scale > 0, the latter < 2^63, exactly if there is noise "
            f"({it.noise_multiplier}, {it.integer_noise_scale})",
            finite and (silent if it.noise == "unsafe-none" else noisy),
        )
    ]
