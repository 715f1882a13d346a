"""A site's half: its words to ciphertexts, and the encrypted sum back to words.

Both run in a worker that holds the epoch's key; the sum comes from a coordinator who may have put anything in its
place, so it is decoded under the same guard as a peer's contribution is at the coordinator.
Source: docs/protocol.md, section 18.
"""

from __future__ import annotations

import numpy as np

from secure_frl.ckks.envelopes import pack_chunks, unpack_chunks
from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Worker
from secure_frl.encoding.slots import ChunkPlan, from_slots, sum_refused, to_slots
from secure_frl.errors import CiphertextRefused, EnvelopeRefused, WorkerDied
from secure_frl.secure_sum import Words


def encrypt(words: Words, plan: ChunkPlan, worker: Worker) -> bytes:
    """Return the body that a site sends: its ciphertexts, each after its length; about 30.2 bytes a value and limb.

    words: the ring vector with lanes, masked or not. worker: holds the epoch's key.
    Two encryptions of one vector differ. Raises InvalidParameter for words of another ring, WorkerDied.
    """
    worker.notice_end()
    return pack_chunks(worker.ask_each(Op.ENCRYPT, (slots.astype("<i8").tobytes() for slots in to_slots(words, plan))))


def open_sum(body: bytes | memoryview, plan: ChunkPlan, contributors: int, worker: Worker) -> Words:
    """Return the sum of `contributors` vectors modulo 2^w: words of the ring's type [P + 4], exact, lanes unchecked.

    body: authenticated bytes of the coordinator. contributors: |U3|.
    Raises DecryptionFailed, and nothing else, for whatever is no sum of so many sites under this key: who chose the
    ciphertexts learns that it failed and not why.
    """
    try:
        worker.notice_end()
        rows = worker.ask_each(Op.DECRYPT, unpack_chunks(body, plan))
        return from_slots((np.frombuffer(row, "<i8").astype(np.int64) for row in rows), plan, contributors)
    except (EnvelopeRefused, CiphertextRefused, WorkerDied):
        raise sum_refused() from None
