"""CKKS by its polynomials, as anybody without a key may read a ciphertext; for evaluations only.

TenSEAL shows no coefficients of a ciphertext, but decrypting it under two keys of one's own gives two linear
combinations of them. This runs TenSEAL in this process, on ciphertexts that the suite itself has made.
"""

from __future__ import annotations

import numpy as np
import tenseal
import tenseal.sealapi as seal
from numpy.typing import NDArray

from secure_frl.encoding.slots import POLY_DEGREE, PRIME_BITS, SCALE_BITS

Polynomial = NDArray[np.uint64]  # [4096], values at the roots (number-theoretic transform), modulo `modulus`


class Lattice:
    """The fixed parameters, and two keys that open nothing."""

    def __init__(self) -> None:
        self._context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS,
            poly_modulus_degree=POLY_DEGREE,
            coeff_mod_bit_sizes=list(PRIME_BITS),
            n_threads=1,
            encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        )
        self._context.global_scale = 2.0**SCALE_BITS
        self._seal = self._context.seal_context().data
        self._encoder = seal.CKKSEncoder(self._seal)
        self._keys = [seal.KeyGenerator(self._seal).secret_key() for _ in range(2)]
        self.modulus = int(self._seal.first_context_data().parms().coeff_modulus()[0].value())

    def polynomials(self, chunk: bytes) -> tuple[Polynomial, Polynomial]:
        """Return (c0, c1) of a ciphertext with c0 + c1 s = message + noise."""
        vector, q = tenseal.ckks_vector_from(self._context, chunk).ciphertext()[0], self.modulus
        opened, keys = [], []
        for key in self._keys:
            plain = seal.Plaintext()
            seal.Decryptor(self._seal, key).decrypt(vector, plain)
            opened.append(_words(plain))
            keys.append(_words(key.data()))
        slope = [(a - b) * pow(x - y, -1, q) % q for a, b, x, y in zip(*opened, *keys, strict=True)]
        start = [(a - b * x) % q for a, b, x in zip(opened[0], slope, keys[0], strict=True)]
        return np.array(start, dtype=np.uint64), np.array(slope, dtype=np.uint64)

    def encoded(self, reals: NDArray[np.float64]) -> Polynomial:
        """Return real slots [2048] as a polynomial, rounded to integers at the scale."""
        plain = seal.Plaintext()
        self._encoder.encode(reals.tolist(), 2.0**SCALE_BITS, plain)
        return np.array(_words(plain), dtype=np.uint64)


def raw_reals(secret_context: bytes, chunk: bytes) -> NDArray[np.float64]:
    """Return what TenSEAL decrypts a ciphertext to, noise and all: what the guarded worker never lets out."""
    context = tenseal.context_from(secret_context, n_threads=1)
    return np.array(tenseal.ckks_vector_from(context, chunk).decrypt(), dtype=np.float64)


def key_of(secret_context: bytes) -> Polynomial:
    """Return the secret key in a context, for a scorer."""
    context = tenseal.context_from(secret_context, n_threads=1)
    return np.array(_words(context.secret_key().data.data()), dtype=np.uint64)


def _words(plain: seal.Plaintext) -> list[int]:
    return [plain.data(place) for place in range(POLY_DEGREE)]
