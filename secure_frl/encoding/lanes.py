"""The four words around a vector: `[count = 1][zero]` P values `[weight][zero]`.

They catch accidents: a wrong mask, a lost or doubled contribution, a shifted vector. A corrupt site passes them.
Source: docs/protocol.md, section 8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_frl.encoding import ring
from secure_frl.errors import InvalidParameter, LaneMismatch
from secure_frl.secure_sum import RingVector, SumConstants, Words

LANE_WORDS = 4
_FRONT = 2  # count, zero
_BACK = 2  # weight, zero


def attach(integers: NDArray[np.int64], weight: int) -> NDArray[np.int64]:
    """Return int64 [P + 4]: one site's values between its lanes."""
    return np.concatenate(
        [np.array([1, 0], dtype=np.int64), integers, np.array([weight, 0], dtype=np.int64)], dtype=np.int64
    )


def check_and_remove(summed: NDArray[np.int64], *, survivors: int, weight: int) -> NDArray[np.int64]:
    """Return the P values of a centred sum [P + 4] whose lanes hold.

    Raises LaneMismatch unless count = survivors, weight lane = survivors * weight and both zero lanes are 0.
    """
    found = (int(summed[0]), int(summed[1]), int(summed[-2]), int(summed[-1]))
    expected = (survivors, 0, survivors * weight, 0)
    if found != expected:
        raise LaneMismatch(
            f"expected lanes (count, zero, weight, zero) = {expected}, got {found}. "
            "Discard this round: the masks did not cancel, or a contribution is missing or doubled."
        )
    return summed[_FRONT:-_BACK].copy()


def to_ring_vector(integers: NDArray[np.int64], constants: SumConstants) -> RingVector:
    """Return one site's words: lanes and values modulo 2^w.

    integers: int64 [P], quantised and with the site's noise.
    Raises InvalidParameter for another length than the charter's, or a value that would wrap.
    """
    if integers.shape != (constants.length,):
        raise InvalidParameter(
            f"expected {constants.length} values, got shape {integers.shape}. Use the layout that the charter names."
        )
    width = constants.modulus_bits
    words = np.empty(constants.length + LANE_WORDS, ring.word_type(width))  # no copy of the values with lanes around
    ring.write_words_(words[:_FRONT], np.array([1, 0]), width)
    ring.write_words_(words[_FRONT:-_BACK], integers, width)
    ring.write_words_(words[-_BACK:], np.array([constants.weight, 0]), width)
    return RingVector(words, constants.modulus_bits, constants.scale)


def from_ring_sum(words: Words, constants: SumConstants, survivors: int) -> NDArray[np.int64]:
    """Return int64 [P]: the sum of `survivors` vectors, centred, lanes checked and removed.

    words: of the ring's type [P + 4], the masks already taken off; they are reduced modulo 2^w here.
    Raises InvalidParameter for another length or dtype, LaneMismatch, and SumOutOfRange for a value that the
    charter's sites could not have summed to.
    """
    expected = ring.word_type(constants.modulus_bits)
    if words.shape != (constants.length + LANE_WORDS,) or words.dtype != expected:
        raise InvalidParameter(
            f"expected {expected} [{constants.length + LANE_WORDS}], got {words.dtype} {words.shape}. "
            "Pass the summed words with their lanes."
        )
    summed = ring.centred(words, constants.modulus_bits)
    values = check_and_remove(summed, survivors=survivors, weight=constants.weight)
    ring.check_sum_range(values, sites=constants.sites, bound=constants.bound, noise_bound=constants.noise_bound)
    return values
