"""What a sum of ciphertexts has to be, on Python's integers, and what the tests of it share."""

from __future__ import annotations

import numpy as np

from secure_frl.ckks.worker import Limits

ROOMY = Limits(address_bytes=1 << 30)
KEY_ID = b"k" * 32


def modular_sum(vectors: list[np.ndarray], bits: int) -> list[int]:
    """Return the sum modulo 2^bits, word by word."""
    return [int(total) & ((1 << bits) - 1) for total in np.sum([vector.astype(object) for vector in vectors], axis=0)]
