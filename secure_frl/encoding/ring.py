"""Integers to words modulo 2^w and back, and the smallest w that no honest sum overflows.

Words are uint32 up to w = 32 and uint64 up to w = 64, which doubles every upload; arithmetic runs modulo the word and
is reduced to w bits here. A sum that needs more than 64 bits is refused.
Source of the width rule: docs/protocol.md, sections 3 and 8.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import BitBudget, InvalidParameter, SumOutOfRange
from secure_frl.secure_sum import Words

WIDEST_BITS = 64
_NARROW = np.dtype("<u4")  # little-endian, as on the wire
_WIDE = np.dtype("<u8")
_TAIL_BITS = 40  # the summed noise leaves its bound with probability <= 2^-40 a round


def noise_bound(deviation: float, sites: int, length: int) -> int:
    """Return tau: no coordinate of the summed noise of `sites` sites is beyond it, except with probability 2^-40.

    deviation: S, of one site's noise on the grid; 0 without noise. length: P.
    Source: sub-Gaussian tail of the discrete Gaussian (Canonne, Kamath and Steinke 2020, Corollary 17) and a union
    bound over 2P tails: ceil(S * sqrt(2 n ln(2P 2^40))).
    """
    if deviation == 0:
        return 0
    return math.ceil(deviation * math.sqrt(2 * sites * (math.log(2 * length) + _TAIL_BITS * math.log(2))))


def width_for(*, sites: int, bound: int, noise_bound: int, weight: int) -> int:
    """Return the smallest w with sites*bound + noise_bound < 2^(w-1) and sites*weight < 2^(w-1).

    Raises BitBudget when w would be above 64.
    """
    largest = max(sites * bound + noise_bound, sites * weight)
    width = max(2, largest.bit_length() + 1)
    if width > WIDEST_BITS:
        raise BitBudget(
            f"expected a sum below 2^{WIDEST_BITS - 1}, got up to {largest}, which needs modulus_bits={width}. "
            "Lower privacy.integer_noise_scale, training.episodes_per_site or sites.count."
        )
    return width


def word_type(modulus_bits: int) -> np.dtype[np.uint32 | np.uint64]:
    """Return what holds a word: uint32 for w <= 32, uint64 for w <= 64. Raises InvalidParameter outside 2..64."""
    _check_width(modulus_bits)
    return _NARROW if modulus_bits <= _NARROW.itemsize * 8 else _WIDE


def reduce_(words: Words, modulus_bits: int) -> None:
    """Reduce words modulo 2^modulus_bits in place."""
    words &= words.dtype.type((1 << modulus_bits) - 1)


def to_words(integers: NDArray[np.int64], modulus_bits: int) -> Words:
    """Return `integers` modulo 2^modulus_bits as words of `word_type`.

    Raises InvalidParameter for a width outside 2..64, or a value outside [-2^(w-1), 2^(w-1)), which would wrap.
    """
    words = np.empty(integers.shape, word_type(modulus_bits))
    write_words_(words, integers, modulus_bits)
    return words


def write_words_(words: Words, integers: NDArray[np.int64], modulus_bits: int) -> None:
    """Fill `words` with `integers` modulo 2^modulus_bits. Raises as `to_words`."""
    half = 1 << (modulus_bits - 1)
    if integers.dtype != np.int64:
        raise InvalidParameter(f"expected int64 integers, got {integers.dtype}. Quantise before entering the ring.")
    if integers.size and not (-half <= int(integers.min()) and int(integers.max()) < half):
        # The values themselves are private: they are not named.
        raise InvalidParameter(
            f"expected values in [-2^{modulus_bits - 1}, 2^{modulus_bits - 1}), got one outside. "
            "Use the modulus_bits that the plan derived."
        )
    np.copyto(words, integers, casting="unsafe")  # modulo the word: two's complement
    reduce_(words, modulus_bits)


def centred(words: Words, modulus_bits: int) -> NDArray[np.int64]:
    """Return the representative of each word in [-2^(w-1), 2^(w-1)), after reducing it modulo 2^w."""
    _check_width(modulus_bits)
    spare = np.uint64(64 - modulus_bits)
    shifted = words.astype(np.uint64) << spare  # the sign bit of w bits becomes that of 64; higher bits fall off
    result: NDArray[np.int64] = shifted.view(np.int64) >> np.int64(spare)
    return result


def check_sum_range(values: NDArray[np.int64], *, sites: int, bound: int, noise_bound: int) -> None:
    """Refuse a sum that `sites` honest sites could not have made.

    Raises SumOutOfRange when a value is beyond sites*bound + noise_bound.
    """
    limit = sites * bound + noise_bound
    if values.size and max(int(values.max()), -int(values.min())) > limit:
        raise SumOutOfRange(
            f"expected every value of the sum within +-{limit}, got one beyond. "
            "Discard this round; a site or the coordinator sent something that no honest site can send."
        )


def _check_width(modulus_bits: int) -> None:
    if not 2 <= modulus_bits <= WIDEST_BITS:
        raise InvalidParameter(
            f"expected 2 <= modulus_bits <= {WIDEST_BITS}, got modulus_bits={modulus_bits}. Take it from the charter."
        )
