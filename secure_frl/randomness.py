"""The two sources of secret randomness: the operating system's, and a rehearsal's seeded one.

Secrets, masks, dither, privacy noise and unit sampling all draw from a `RandomSource` that is passed in. Only
`--rehearse` builds the seeded one; everything written with it is marked. Training seeds are another matter and never
come from here.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter

_BLOCK_BYTES = 1 << 16  # keystream is drawn in blocks of this size


class CipherStream:
    """AES-256-CTR keystream; each byte is handed out once. The key is never kept.

    Source: NIST SP 800-38A, section 6.5.
    """

    __slots__ = ("_buffer", "_encryptor", "_used", "is_rehearsal")

    def __init__(self, key: bytes, *, is_rehearsal: bool) -> None:
        """key: 32 bytes, used for this stream only; reuse repeats every draw."""
        if len(key) != 32:
            raise InvalidParameter(f"expected a key of 32 bytes, got {len(key)}. Derive one with SHA-256.")
        self._encryptor: CipherContext = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._buffer = b""
        self._used = 0
        self.is_rehearsal = is_rehearsal

    def __repr__(self) -> str:
        return f"CipherStream(is_rehearsal={self.is_rehearsal})"

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count >= _BLOCK_BYTES:  # nothing is left over, so that the next large draw is made without a copy
            rest, self._buffer, self._used = self._buffer[self._used :], b"", 0
            return rest + self._encryptor.update(bytes(count - len(rest)))
        if count > len(self._buffer) - self._used:
            fresh = self._encryptor.update(bytes(max(count, _BLOCK_BYTES)))
            self._buffer = self._buffer[self._used :] + fresh
            self._used = 0
        taken = self._buffer[self._used : self._used + count]
        self._used += count
        return taken

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return the next `count` little-endian 64-bit words."""
        return np.frombuffer(self.take(8 * count), dtype="<u8").astype(np.uint64)


def system_source() -> CipherStream:
    """Return a stream keyed by the operating system's generator; never seedable."""
    return CipherStream(os.urandom(32), is_rehearsal=False)


def rehearsal_source(seed: int, *purpose: str) -> CipherStream:
    """Return a repeatable stream for one party and purpose. Nothing drawn from it protects anybody."""
    label = "\x00".join(("secure_frl/rehearsal", str(seed), *purpose))
    return CipherStream(hashlib.sha256(label.encode()).digest(), is_rehearsal=True)
