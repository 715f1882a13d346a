"""What a site does with the epoch's key, and how often it was led to decrypt what it could not follow.

A coordinator that chooses ciphertexts learns one bit from each: whether it decrypted to a sum, lanes and range
included, that the site could follow. So a key that was asked to open three things of which this is not true is not used
again; the next epoch brings another.
Source: docs/protocol.md, section 18.
"""

from __future__ import annotations

from dataclasses import dataclass

from secure_frl.ckks.ciphertexts import encrypt, open_sum
from secure_frl.ckks.keys import EpochKey
from secure_frl.ckks.worker import Limits, Worker
from secure_frl.encoding.slots import ChunkPlan
from secure_frl.errors import KeySuspect
from secure_frl.secure_sum import Words

MOST_FAILURES = 3  # of one key


class SiteWorkers:
    """The worker that holds the newest key: keys only go forward, so an older one's worker ends.

    One a site; simulated sites in one process may share one, for every site of an epoch has the same key.
    """

    def __init__(self, limits: Limits) -> None:
        """limits: `worker.limits_for` the charter's plan."""
        self._limits = limits
        self._worker: Worker | None = None
        self._context = b""

    def fresh(self) -> Worker:
        """Return a worker without a key, for the caller to close."""
        return Worker(self._limits)

    def holding(self, context: bytes) -> Worker:
        """Return the worker that holds this secret context. It starts when it is first asked."""
        if self._worker is None or self._context != context:
            self.close()
            self._worker, self._context = Worker(self._limits, context), context
        return self._worker

    def close(self) -> None:
        """End the worker; a second call does nothing."""
        if self._worker is not None:
            self._worker.close()
        self._worker, self._context = None, b""


@dataclass(slots=True, eq=False, repr=False)
class EpochCipher:
    """An epoch's key at work; a `SumCipher`."""

    key: EpochKey
    plan: ChunkPlan
    worker: Worker
    is_own: bool = False  # made here, as the steward
    failures: int = 0

    @property
    def key_id(self) -> bytes:
        """Return SHA-256 of the secret context."""
        return self.key.key_id

    def check_trusted(self) -> None:
        """Raise KeySuspect when this key was asked to open too much that was no sum."""
        if self.failures >= MOST_FAILURES:
            raise KeySuspect(
                f"expected sums that can be opened and followed, {self.failures} of this epoch's could not. Open a new "
                "epoch, with a new key; nothing more is encrypted under this one. This site's log has the reasons."
            )

    def encrypt(self, words: Words) -> bytes:
        """Return the ciphertexts of a ring vector [P + 4]."""
        return encrypt(words, self.plan, self.worker)

    def open_sum(self, body: bytes | memoryview, contributors: int) -> Words:
        """Return the sum of so many vectors modulo 2^w. Raises DecryptionFailed."""
        return open_sum(body, self.plan, contributors, self.worker)

    def note_failure(self) -> None:
        """Count a sum that was not followed: it did not decrypt, or not to what so many sites can add up to, or worse.

        Whether lanes and range hold is as good an answer as whether a ciphertext decrypts, and so is whether what comes
        after them fails: uncounted, they would let a coordinator compare one site's values with numbers of its choice,
        round after round.
        """
        self.failures += 1
