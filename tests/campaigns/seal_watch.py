"""Which key has sealed or tagged which message, while an honest party of a schedule speaks: no key may do two."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from secure_frl.wire import envelope


class SealWatch:
    """Which key has sealed which message, or made its tag, while an honest party speaks; no key may do two."""

    def __init__(self) -> None:
        self.sealed: dict[bytes, bytes] = {}
        self.is_on = False
        self.reused = 0

    @contextmanager
    def watching(self) -> Iterator[SealWatch]:
        genuine, genuine_tag, watch = envelope.AESGCM, envelope.gmac, self

        class Watched:
            def __init__(self, key: bytes) -> None:
                self._key, self._cipher = key, genuine(key)

            def encrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
                watch._note(self._key, nonce + bytes(associated) + b"|" + bytes(data))
                return self._cipher.encrypt(nonce, data, associated)

            def decrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
                return self._cipher.decrypt(nonce, data, associated)

        def tag(key: bytes, *parts: bytes) -> bytes:
            watch._note(key, b"tag of " + b"".join(parts))
            return genuine_tag(key, *parts)

        envelope.AESGCM, envelope.gmac = Watched, tag  # type: ignore[misc, assignment]
        try:
            yield self
        finally:
            envelope.AESGCM, envelope.gmac = genuine, genuine_tag  # type: ignore[misc]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Watch what is sealed in here."""
        self.is_on = True
        try:
            yield
        finally:
            self.is_on = False

    def _note(self, key: bytes, message: bytes) -> None:
        if self.is_on:
            digest = hashlib.sha256(message).digest()
            self.reused += self.sealed.setdefault(bytes(key), digest) != digest
