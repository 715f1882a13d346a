"""Keys to mask words: AES-256-CTR over zeros, read as little-endian words of 32 or 64 bits, added into an accumulator.

Many masks go on one cache-sized part of the accumulator before the next part is touched, so that only the cipher costs
anything; streams are cut only at multiples of 16 bytes. Long streams may come from the GCM code of the library, which
uses wider instructions than its CTR code on many processors: under twelve zero bytes, GCM encrypts with the very
counters of CTR from zero, but for the first two blocks. Its tag is never asked for. Which masks a sum has is the
charter's word (`protection` is inside the config hash): no message switches them off.
Source: NIST SP 800-38A, section 6.5, and SP 800-38D, section 7.1 (J0 = IV || 0^31 1, encryption from inc32(J0));
docs/protocol.md, section 8.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import islice
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from secure_frl.encoding.ring import word_type
from secure_frl.errors import CharterRefused
from secure_frl.masking.contexts import CKKS, CKKS_MASKING, MASKING, PROTECTIONS, UNSAFE_PLAIN
from secure_frl.secure_sum import SumConstants, Words

_CHUNK_BYTES = 1 << 17  # zeros, keystream and words of this size share a cache of 512 KiB; less costs more calls
_LINE_BYTES = 64
_STREAMS = 64  # ciphers that are open at once; each is about 1 KiB
_BLOCK_BYTES = 16
_COUNTERS = modes.CTR(bytes(_BLOCK_BYTES))  # a key makes one stream in its life, so every stream may begin at zero
_SAME_COUNTERS = modes.GCM(bytes(12))
_SKIPPED_BYTES = 2 * _BLOCK_BYTES
_LONG_BYTES = 1 << 19  # below this the second cipher costs more than a faster one saves
_LONGEST_BYTES = 1 << 35  # GCM counts blocks in 32 bits

_StreamOf = Callable[[bytes], CipherContext]


class MaskAdder(Protocol):
    """Puts masks on an accumulator, or takes them off."""

    def add_(self, accumulator: Words, key: bytes, sign: int) -> None:
        """Add (sign +1) or subtract (-1) one mask in place. key: 32 bytes, of one mask only."""
        ...

    def add_all_(self, accumulator: Words, masks: Iterable[tuple[bytes, int]]) -> None:
        """Add or subtract the masks of (key, sign) in place, taking keys from `masks` as they are needed."""
        ...


class PairwiseMasks:
    """The protection `masking`."""

    __slots__ = ("_buffer", "_keystream", "_zeros")

    def __init__(self, words: int, modulus_bits: int = 32) -> None:
        """words: length of the vectors to come; modulus_bits: of their ring. One adder serves one thread."""
        kind = word_type(modulus_bits)
        size = min(_CHUNK_BYTES, -(-kind.itemsize * words // _BLOCK_BYTES) * _BLOCK_BYTES)
        self._zeros = memoryview(bytes(size))
        room = np.empty(size + _BLOCK_BYTES - 1 + _LINE_BYTES, np.uint8)  # update_into wants one block to spare
        aligned = room[-room.ctypes.data % _LINE_BYTES :]  # additions that cross no line of the cache save 2 %
        self._buffer = aligned.data
        self._keystream = aligned[:size].view(kind)

    def add_(self, accumulator: Words, key: bytes, sign: int) -> None:
        """Add or subtract the mask of `key` in place, modulo the word."""
        self.add_all_(accumulator, [(key, sign)])

    def add_all_(self, accumulator: Words, masks: Iterable[tuple[bytes, int]]) -> None:
        """Add or subtract many masks in place, modulo the word; some of them at a time, whatever their number."""
        remaining = iter(masks)
        in_two = _LONG_BYTES <= accumulator.nbytes <= _LONGEST_BYTES and is_gcm_faster()
        skipped = _SKIPPED_BYTES // accumulator.itemsize
        while batch := list(islice(remaining, _STREAMS)):
            if in_two:
                self._add_(accumulator[:skipped], batch, _from_first_block)
                self._add_(accumulator[skipped:], batch, _from_third_block)
            else:
                self._add_(accumulator, batch, _from_first_block)
        self._keystream[:] = 0  # a mask lives until it is added

    def _add_(self, words: Words, batch: list[tuple[bytes, int]], stream_of: _StreamOf) -> None:
        streams = [(stream_of(key), np.add if sign > 0 else np.subtract) for key, sign in batch]
        size, step = self._keystream.itemsize, len(self._keystream)
        for start in range(0, len(words), step):
            part = words[start : start + step]
            blocks = -(-size * len(part) // _BLOCK_BYTES)
            zeros, keystream = self._zeros[: blocks * _BLOCK_BYTES], self._keystream[: len(part)]
            for stream, operation in streams:
                stream.update_into(zeros, self._buffer)
                operation(part, keystream, out=part)


def _from_first_block(key: bytes) -> CipherContext:
    return Cipher(algorithms.AES(key), _COUNTERS).encryptor()


def _from_third_block(key: bytes) -> CipherContext:
    return Cipher(algorithms.AES(key), _SAME_COUNTERS).encryptor()


@lru_cache(maxsize=1)
def is_gcm_faster() -> bool:
    """Return whether this processor makes a long stream sooner through GCM; measured once, in a millisecond.

    Both ways give the same words, so nothing but time depends on the answer.
    """
    zeros, room = bytes(_CHUNK_BYTES), bytearray(_CHUNK_BYTES + _BLOCK_BYTES - 1)

    def fastest_ns(stream_of: _StreamOf) -> int:
        stream = stream_of(bytes(32))  # a key of zeros: it masks nothing
        spent = []
        for _ in range(7):
            start = time.perf_counter_ns()
            stream.update_into(zeros, room)
            spent.append(time.perf_counter_ns() - start)
        return min(spent)

    return fastest_ns(_from_third_block) < fastest_ns(_from_first_block)


class NoMasks:
    """No mask words. Under ckks vectors are encrypted; under unsafe-plain, an attack's control, nothing is hidden."""

    def add_(self, accumulator: Words, key: bytes, sign: int) -> None:
        """Leave the accumulator as it is."""

    def add_all_(self, accumulator: Words, masks: Iterable[tuple[bytes, int]]) -> None:
        """Leave the accumulator as it is."""


def mask_adder(constants: SumConstants) -> MaskAdder:
    """Return what the charter's `protection` asks for. Raises CharterRefused for an unknown word."""
    if constants.protection in (MASKING, CKKS_MASKING):
        return PairwiseMasks(constants.length + 4, constants.modulus_bits)
    if constants.protection in (CKKS, UNSAFE_PLAIN):
        return NoMasks()
    raise CharterRefused(
        f"expected protection {', '.join(PROTECTIONS)}, got {constants.protection!r}. Sign a charter that names one."
    )
