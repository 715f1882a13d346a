"""Ring words to the slots of ciphertexts and back: chunks, limbs, and the range in which their sum is exact.

The integers are those of masking: words modulo 2^w with their lanes. A word wider than the exact range is cut into
limbs, low bits first. A limb u of m bits is written centred, as u - 2^(m-1), and each slot carries its integer divided
by 2^20, so that rounding to the grid takes all noise off again. Integers only: no ciphertext, key or float here.

Before it is cut, 2^(w-1) is added to a word, modulo 2^w: one limb is then the centred value itself, and who decrypts a
sum reads the sum. Without it a value below 0 would be 2^w larger than it is, and the sum over the integers would say of
each coordinate how many sites are below 0, behind single sites' noise. Two limbs and more still say how often the lower
ones carried, which is harmless only where the words are masked.

Exact range. A slot value v is encoded as v 2^-20 at scale 2^40. The inverse embedding averages slots with factors of
modulus 1, so no coefficient of the polynomial is beyond max|v| 2^20, whatever the vector. A sum of n limbs of b bits
reaches n 2^(b-1) 2^20 <= 2^52 when b + ceil(log2 n) <= 33; coefficients wrap at half the 54-bit prime, just below 2^53,
and what lies between is room for noise (at most 22 n). At b + ceil(log2 n) = 34 the sum of equal extremes is 2^53: it
wraps, and every slot decrypts to a wrong number without a sign of it.
Source: docs/protocol.md, section 18; the embedding, Cheon, Kim, Kim and Song 2017, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_frl.encoding import ring
from secure_frl.encoding.lanes import LANE_WORDS
from secure_frl.errors import BitBudget, DecryptionFailed, InvalidParameter
from secure_frl.secure_sum import Words

POLY_DEGREE = 4096
PRIME_BITS = (54, 54)  # 108 of the 109 bits that 128-bit security allows at this degree; the second prime is special
SCALE_BITS = 40
GRID_BITS = 20  # g: a slot holds integer / 2^g
SLOTS = POLY_DEGREE // 2
EXACT_BITS = 33  # 13 + g, derived above
_MARKS = 2  # slots before the values: 1, which counts contributors, and the chunk's number + 1
CHUNK_VALUES = SLOTS - _MARKS
PREFIX_BYTES = 4  # the length of a chunk, before it in a site's body
MAX_CHUNK_BYTES = 66_000  # an honest one has about 61,770, of 65,536 before compression


def greatest_limb_bits(sites: int) -> int:
    """Return l: a sum of `sites` limbs of so many bits is exact for every input."""
    return EXACT_BITS - (sites - 1).bit_length()


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """How one vector of a charter becomes chunks; the same at every party.

    words: P + 4, lanes included. limb_bits: of every limb but the last, which has the rest.
    Raises BitBudget for a plan whose sum could wrap: one bit beyond the exact range is refused, not tried.
    """

    sites: int
    words: int
    modulus_bits: int
    limb_bits: int

    def __post_init__(self) -> None:
        ring.word_type(self.modulus_bits)
        if self.sites < 1 or self.words < 1 or self.limb_bits < 1:
            raise InvalidParameter(
                f"expected sites, words and limb_bits >= 1, got {self.sites}, {self.words}, {self.limb_bits}. "
                "Take them from the charter."
            )
        greatest = greatest_limb_bits(self.sites)
        if self.limb_bits > greatest:
            raise BitBudget(
                f"expected limbs of at most {greatest} bits, whose sum over {self.sites} sites is exact, got "
                f"limb_bits={self.limb_bits}. Use more limbs or fewer sites."
            )
        if self.chunks >= 1 << (greatest - 1):  # a chunk's number is summed in a slot as well
            raise BitBudget(
                f"expected fewer than 2^{greatest - 1} chunks, got {self.chunks} for {self.words} words. "
                "Lower the number of parameters."
            )

    @property
    def limb_widths(self) -> tuple[int, ...]:
        """Return the bits of each limb, low bits first."""
        whole, rest = divmod(self.modulus_bits, self.limb_bits)
        return (self.limb_bits,) * whole + ((rest,) if rest else ())

    @property
    def chunks_per_limb(self) -> int:
        """Return how many ciphertexts hold one limb of all words."""
        return -(-self.words // CHUNK_VALUES)

    @property
    def chunks(self) -> int:
        """Return how many ciphertexts a site sends."""
        return self.chunks_per_limb * len(self.limb_widths)

    @property
    def max_body_bytes(self) -> int:
        """Return the greatest size of a site's ciphertexts, for the size check before anything is read."""
        return self.chunks * (PREFIX_BYTES + MAX_CHUNK_BYTES)


def plan_chunks(*, sites: int, length: int, modulus_bits: int) -> ChunkPlan:
    """Return the plan of a charter: one limb if the ring fits the exact range, else as few as it takes.

    sites: n, the most that a sum may have. length: P, without lanes. modulus_bits: w.
    Raises BitBudget when no limb is exact for so many sites, or the chunks are too many to be numbered; planning calls
    this when a study is read. InvalidParameter for a width that no ring has.
    """
    greatest = greatest_limb_bits(sites)
    if greatest < 1:
        raise BitBudget(f"expected at most 2^{EXACT_BITS - 1} sites, got {sites}. Use the protection masking.")
    return ChunkPlan(sites, length + LANE_WORDS, modulus_bits, min(modulus_bits, greatest))


def to_slots(words: Words, plan: ChunkPlan) -> Iterator[NDArray[np.int64]]:
    """Yield the slot integers of each chunk, int64 [2048], numbered from 0 through limb 0, then limb 1.

    words: of the ring's type [P + 4], each below 2^w. Raises InvalidParameter for others.
    """
    _check_words(words, plan)
    number, shift, raised = 0, 0, np.uint64(1 << (plan.modulus_bits - 1))
    for width in plan.limb_widths:
        for start in range(0, plan.words, CHUNK_VALUES):
            part = words[start : start + CHUNK_VALUES].astype(np.uint64) + raised
            limb = (part >> np.uint64(shift)) & np.uint64((1 << width) - 1)
            slots = np.zeros(SLOTS, np.int64)
            slots[0], slots[1] = 1, number + 1
            slots[_MARKS : _MARKS + part.size] = limb.astype(np.int64) - (1 << (width - 1))
            yield slots
            number += 1
        shift += width


def from_slots(chunks: Iterable[NDArray[np.int64]], plan: ChunkPlan, contributors: int) -> Words:
    """Return the sum of `contributors` vectors modulo 2^w, words of the ring's type [P + 4].

    chunks: decrypted slot integers, int64 [2048] each, in order.
    Raises DecryptionFailed unless every chunk carries exactly these contributors, stands in its place, has nothing in
    its unused slots, and no limb is one that so many sites cannot sum to.
    """
    total = np.zeros(plan.words, np.uint64)
    arriving = iter(chunks)
    number, shift = 0, 0
    for width in plan.limb_widths:
        for start in range(0, plan.words, CHUNK_VALUES):
            slots = next(arriving, None)
            part = total[start : start + CHUNK_VALUES]
            if slots is None or slots.shape != (SLOTS,) or slots.dtype != np.int64:
                raise sum_refused()
            limbs = slots[_MARKS : _MARKS + part.size] + (contributors << (width - 1))
            marks = (int(slots[0]), int(slots[1]))
            if marks != (contributors, contributors * (number + 1)) or slots[_MARKS + part.size :].any():
                raise sum_refused()
            if int(limbs.min()) < 0 or int(limbs.max()) > contributors * ((1 << width) - 1):
                raise sum_refused()
            part += limbs.astype(np.uint64) << np.uint64(shift)  # carries go up; what leaves 64 bits is 0 modulo 2^w
            number += 1
        shift += width
    if next(arriving, None) is not None:
        raise sum_refused()
    total -= np.uint64((contributors << (plan.modulus_bits - 1)) % (1 << ring.WIDEST_BITS))
    words: Words = total.astype(ring.word_type(plan.modulus_bits))
    ring.reduce_(words, plan.modulus_bits)
    return words


def sum_refused() -> DecryptionFailed:
    """Return the one refusal of an encrypted sum: a reason would tell the coordinator something about the key."""
    return DecryptionFailed("expected the encrypted sum of the named sites, got other ciphertexts. Discard this round.")


def _check_words(words: Words, plan: ChunkPlan) -> None:
    expected = ring.word_type(plan.modulus_bits)
    if words.shape != (plan.words,) or words.dtype != expected:
        raise InvalidParameter(
            f"expected {expected} [{plan.words}], got {words.dtype} {words.shape}. Pass the ring vector with its lanes."
        )
    if int(words.max()) >> plan.modulus_bits:
        raise InvalidParameter(
            f"expected words below 2^{plan.modulus_bits}, got one beyond. Reduce the vector before it is encrypted."
        )
