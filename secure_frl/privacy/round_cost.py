"""Bytes and seconds of a round under each protection, as a plan prints them: estimates before anything runs. No torch.

Under ckks and ckks+masking each epoch costs a key beside its rounds: a package of up to 66,400 bytes a site.
"""

from __future__ import annotations

from dataclasses import dataclass

from secure_frl.encoding.slots import CHUNK_VALUES, ChunkPlan, plan_chunks
from secure_frl.errors import BitBudget
from secure_frl.secure_sum import SumConstants
from secure_frl.wire.registry import vector_bytes

_PEER_BYTES = 330  # a neighbour's keys, commitments and encrypted shares, each way
_FRAME_BYTES = 1024  # headers, signatures, lists of a round
_CIPHERTEXT_VALUE_BYTES = 30.2  # of each value that a ciphertext has room for, used or not: 61,789 a ciphertext
_EPISODE_S = 35e-6  # roll out and clip one trajectory of ICU-Sepsis, one core, two values a step
_PEER_S = 70e-6
_MASK_BYTE_S = 0.15e-9
_CIPHERTEXT_S = 2.5e-3  # encrypt one at a site, add it at the coordinator, open the summed one at the site

PROTECTED = ("masking", "ckks", "ckks+masking")  # what a plan compares


@dataclass(frozen=True, slots=True)
class RoundCost:
    """What one round costs."""

    protection: str
    upload_bytes: int  # a site and round
    download_bytes: int
    round_seconds: float  # all sites on one core
    ciphertexts: int  # a site and round, each way; 0 where nothing is encrypted


def is_encrypted(protection: str) -> bool:
    """Return whether the coordinator adds ciphertexts that it cannot open."""
    return protection.startswith("ckks")


def ciphertext_plan(constants: SumConstants) -> ChunkPlan:
    """Return how a vector of these constants becomes ciphertexts. Raises BitBudget when no sum of them is exact."""
    return plan_chunks(sites=constants.sites, length=constants.length, modulus_bits=constants.modulus_bits)


def costs(constants: SumConstants, episodes_per_site: int) -> tuple[RoundCost, ...]:
    """Return the cost of a round under each protection that these constants allow.

    Masking only in cross_device, and where no sum of ciphertexts would be exact.
    """
    offered = PROTECTED if constants.profile == "cross_silo" else PROTECTED[:1]
    try:
        ciphertext_plan(constants)
    except BitBudget:
        offered = PROTECTED[:1]
    return tuple(cost(constants, protection, episodes_per_site) for protection in offered)


def cost(constants: SumConstants, protection: str, episodes_per_site: int) -> RoundCost:
    """Return the cost of a round. Masks are counted under unsafe-plain too, whose messages are those of masking."""
    vector, peers = vector_bytes(constants.length, constants.modulus_bits), constants.neighbours
    ciphertexts = ciphertext_plan(constants).chunks if is_encrypted(protection) else 0
    encrypted = round(ciphertexts * CHUNK_VALUES * _CIPHERTEXT_VALUE_BYTES)
    up = down = _FRAME_BYTES + encrypted
    seconds = episodes_per_site * _EPISODE_S + ciphertexts * _CIPHERTEXT_S
    if protection != "ckks":  # keys, shares and masks; the sum goes down, or the masks that are left in it
        up += _PEER_BYTES * peers + (0 if ciphertexts else vector)
        down += _PEER_BYTES * peers + vector
        seconds += peers * _PEER_S + (peers + 1) * vector * _MASK_BYTE_S
    return RoundCost(protection, up, down, constants.sites * seconds, ciphertexts)
