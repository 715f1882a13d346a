"""Hashes that both ends compute for themselves: session, epoch, attempt, participants, constants, model, transcript.

Every derived key has one of these as salt, so a disagreement about who takes part, on what model and under which
constants makes keys differ instead of opening anything. Nothing here is secret.
Source: docs/protocol.md, section 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from secure_frl.degrees import LEAST_PRIVACY_EXPONENT, is_private
from secure_frl.encoding.slots import ChunkPlan, plan_chunks
from secure_frl.errors import BitBudget, CharterRefused
from secure_frl.secure_sum import SiteId, SumConstants, SumTerms
from secure_frl.wire.hashing import Field, encode_integers, labelled, labelled_hash
from secure_frl.wire.registry import Sizes

WIDEST_RING_BITS = 64
NONCE_BYTES = 32
LONGEST_EPOCH_S = 24 * 3600
MASKING = "masking"
UNSAFE_PLAIN = "unsafe-plain"
CKKS = "ckks"
CKKS_MASKING = "ckks+masking"
CROSS_SILO = "cross_silo"
CROSS_DEVICE = "cross_device"
PROTECTIONS = (MASKING, CKKS, CKKS_MASKING, UNSAFE_PLAIN)
ENCRYPTED = (CKKS, CKKS_MASKING)  # the coordinator reads neither sums nor policies


def session_id(charter: bytes) -> bytes:
    """Return the session of a charter's canonical bytes. The coordinator cannot choose it."""
    return labelled_hash("session", charter)


def epoch_hash(session: bytes, epoch: int, keys: Sequence[tuple[int, bytes, bytes]], coordinator_key: bytes) -> bytes:
    """Return the hash of an epoch's list. keys: (site, c_pk, nonce) in ascending order; no nonces in cross_silo."""
    return labelled_hash("epoch", session, epoch, _rows(keys), coordinator_key)


def nonce_commitment(session: bytes, epoch: int, site: int, nonce: bytes) -> bytes:
    """Return N_i, which is in every site's signed entry before any nonce is shown: nobody picks the epoch's hash."""
    return labelled_hash("nonce", session, epoch, site, nonce)


def attempt_context(session: bytes, epoch_digest: bytes, number: int, attempt: int, cohort: Sequence[SiteId]) -> bytes:
    """Return ctx1, known from R0's header."""
    return labelled_hash("ctx1", session, epoch_digest, number, attempt, encode_integers(cohort))


def members_hash(packed: bytes | memoryview) -> bytes:
    """Return U2_hash = H("U2", [(site, s_pk, H_b)]). packed: that list as `pack_members` writes it, not looked at."""
    found = hashlib.sha256(labelled("U2") + len(packed).to_bytes(4, "big"))
    found.update(packed)
    return found.digest()


def mask_context(ctx1: bytes, model_tag: bytes, config_digest: bytes, members_digest: bytes) -> bytes:
    """Return ctx2, known at R1': two models or two member lists make the sum uniform garbage."""
    return labelled_hash("ctx2", ctx1, model_tag, config_digest, members_digest)


def survivors_hash(ctx2: bytes, survivors: Sequence[SiteId]) -> bytes:
    """Return the hash that sites confirm to each other."""
    return labelled_hash("U3", ctx2, encode_integers(survivors))


def transcript_hash(ctx2: bytes, survivors_digest: bytes, sum_digest: bytes) -> bytes:
    """Return the hash of all that decided a sum. sum_digest: SHA-256 of the published bytes."""
    return labelled_hash("transcript", ctx2, survivors_digest, sum_digest)


def model_tag(model: bytes) -> bytes:
    """Return the tag of a model's bytes: manifest, parameters, optimiser state."""
    return labelled_hash("model", model)


def config_hash(constants: SumConstants) -> bytes:
    """Return the hash of every number that a charter fixes for the sum; reals as their IEEE bytes."""
    clip: list[Field] = [
        [block.name, block.start, block.stop, float(block.clip_norm), float(block.noise_share)]
        for block in constants.blocks
    ]
    noise: list[Field] = [
        constants.noise,
        float(constants.noise_multiplier),
        constants.integer_noise_scale,
        constants.noise_bound,
    ]
    return labelled_hash(
        "config",
        constants.sites,
        constants.threshold,
        constants.max_colluders,
        constants.min_survivors,
        constants.honest_shares,
        constants.profile,
        constants.neighbours,
        constants.modulus_bits,
        float(constants.scale),
        constants.bound,
        constants.length,
        constants.weight,
        clip,
        noise,
        constants.protection,
    )


def check_constants(constants: SumConstants) -> None:
    """Refuse numbers under which the claims do not hold, whoever signed them.

    2t > n + c: two survivor sets of one round cannot both gather t confirmations. t > c: colluders rebuild nothing.
    h >= 2: a site's noise is never the only noise that an attacker lacks. In cross_device the graph takes the place of
    the first two: no site has t corrupt neighbours and the honest stay connected, but with probability 2^-20.
    Raises CharterRefused or BitBudget. Source: docs/protocol.md, section 3.
    """
    n, t, c = constants.sites, constants.threshold, constants.max_colluders
    least, h, w = constants.min_survivors, constants.honest_shares, constants.modulus_bits
    rules = {
        **_profile_rules(constants),
        "c >= 1": c >= 1,
        "max(3, t) <= min_survivors <= n": max(3, t) <= least <= n,
        "h = min_survivors - c >= 2": h == least - c and h >= 2,
        "a known protection": constants.protection in PROTECTIONS,
        "encrypted sums in cross_silo only": constants.protection not in ENCRYPTED or constants.profile == CROSS_SILO,
        "length and weight >= 1": constants.length >= 1 and constants.weight >= 1,
        "B >= 1 and noise bound >= 0": constants.bound >= 1 and constants.noise_bound >= 0,
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise CharterRefused(
            f"expected constants with {'; '.join(broken)}, got n={n}, t={t}, c={c}, min_survivors={least}, h={h}, "
            f"k={constants.neighbours}, profile={constants.profile!r}, protection={constants.protection!r}. "
            "Change the study and let every site sign the new charter."
        )
    half = 1 << (w - 1) if 2 <= w <= WIDEST_RING_BITS else 0
    if n * constants.bound + constants.noise_bound >= half or n * constants.weight >= half:
        raise BitBudget(
            f"expected n*B + noise bound = {n * constants.bound + constants.noise_bound} and n*weight below 2^(w-1) "
            f"with w <= {WIDEST_RING_BITS}, got w={w}. Lower the declared units or the scale."
        )


def _profile_rules(it: SumConstants) -> dict[str, bool]:
    n, t, c, k = it.sites, it.threshold, it.max_colluders, it.neighbours
    if it.profile == CROSS_DEVICE:
        is_sparse = 101 <= n <= 10_000 and k % 2 == 0 and 1 <= t <= k < n - 1
        return {
            "101 <= n <= 10000 and an even k with t <= k < n - 1": is_sparse,
            "k and t that keep c corrupt sites and n - min_survivors lost ones below 2^-20": is_sparse
            and 0 <= c <= n
            and 0 <= n - it.min_survivors <= n
            and is_private(n, c, n - it.min_survivors, k, t, LEAST_PRIVACY_EXPONENT),
        }
    return {
        "3 <= n <= 100": 3 <= n <= 100,
        "profile cross_silo with k = n - 1": it.profile == CROSS_SILO and k == n - 1,
        "t > c": t > c,
        "2t > n + c": 2 * t > n + c,
    }


def is_cohort_size(size: int, constants: SumConstants) -> bool:
    """Return whether a cohort may have this size: exactly n in cross_device, where the graph is computed for n."""
    if constants.profile == CROSS_DEVICE:
        return size == constants.sites
    return constants.min_survivors <= size <= constants.sites


def chunk_plan(constants: SumConstants) -> ChunkPlan:
    """Return how a vector of this charter becomes ciphertexts. Raises BitBudget when no sum of them is exact."""
    return plan_chunks(sites=constants.sites, length=constants.length, modulus_bits=constants.modulus_bits)


def sizes_of(terms: SumTerms) -> Sizes:
    """Return what the greatest sizes of this charter's messages follow from."""
    constants = terms.constants
    ciphertext_bytes = chunk_plan(constants).max_body_bytes if constants.protection in ENCRYPTED else 0
    return Sizes(len(terms.site_public_keys), constants.length, constants.modulus_bits, ciphertext_bytes)


def expired_sites(terms: SumTerms, sites: Sequence[int], now: float) -> list[int]:
    """Return the sites whose enrolment has ended. now: Unix seconds. What they signed says nothing any more."""
    return [site for site in sites if terms.site_expiries_s and not now < terms.site_expiries_s[site]]


def is_enrolled(terms: SumTerms) -> bool:
    """Return whether as many sites are enrolled as the profile asks: n, or n and more where cohorts take turns."""
    enrolled, n = len(terms.site_public_keys), terms.constants.sites
    return enrolled == n or (terms.constants.profile == CROSS_DEVICE and enrolled > n)


def _rows(rows: Sequence[tuple[int, bytes, bytes]]) -> list[Field]:
    return [list(row) for row in rows]
