"""The program inside the guarded worker: the only file that imports TenSEAL.

It reads requests on standard input and answers each on standard output. Chunks come one at a time, so it holds a
running sum and one contribution, never more. What it decodes may be hostile: it runs under limits that it cannot raise
again, writes no file and no core, and holds a key only where its caller gave it one, which is at a site. A
coordinator's worker has a context without any key.

A refused chunk leaves the sum as it was. Whatever fails while the sum itself is touched ends the process: its caller
has the sum as bytes, and an honest half is worse than none.
Source: docs/protocol.md, section 18.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

import numpy as np
import tenseal

from secure_frl.ckks.requests import LENGTH_BYTES, MAX_FRAME_BYTES, OK, REFUSED, Op
from secure_frl.encoding.slots import GRID_BITS, POLY_DEGREE, PRIME_BITS, SCALE_BITS, SLOTS

# How far from an integer a decoded slot may be. Noise of n symmetric encryptions has a deviation of 3.2 sqrt(n N / 2)
# in a slot before the scale, .0014 of a step for n = 100: a quarter is more than 170 of them. Under a wrong key a slot
# is uniform between integers, and half of all slots are farther off.
RESIDUAL_LIMIT = 0.25


def _keyed_context() -> tenseal.Context:
    """Return a context of the fixed parameters with a fresh secret key, from SEAL's own generator."""
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=POLY_DEGREE,
        coeff_mod_bit_sizes=list(PRIME_BITS),
        n_threads=1,
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.global_scale = 2.0**SCALE_BITS
    return context


def _serialise(context: tenseal.Context, *, with_secret: bool) -> bytes:
    """Return the bytes of a context: its parameters, and the secret key if asked for."""
    data: bytes = context.serialize(
        save_public_key=False, save_secret_key=with_secret, save_galois_keys=False, save_relin_keys=False
    )
    return data


class Lattice:
    """One worker's state: a context, a key or none, the sum, and the contribution that is being read."""

    def __init__(self) -> None:
        own = _keyed_context()  # to know what an honest ciphertext says of itself; its key is dropped here
        self._form = _form(tenseal.ckks_vector(own, np.zeros(SLOTS)))
        self._parameters = _serialise(own, with_secret=False)
        self._context = tenseal.context_from(self._parameters, n_threads=1)
        self._sum: list[tenseal.CKKSVector] = []
        self._staged: list[tenseal.CKKSVector] = []
        self._own: dict[int, Callable[[bytes], bytes]] = {
            Op.MAKE_KEY: lambda _: _serialise(_keyed_context(), with_secret=True),
            Op.ENCRYPT: self._encrypt,
            Op.CLEAR: self._clear,
            Op.DROP: self._drop,
            Op.COMMIT: self._commit,
            Op.SAVE: self._save,
        }
        self._foreign: dict[int, Callable[[bytes], bytes]] = {
            Op.TAKE_KEY: self._take_key,
            Op.DECRYPT: self._decrypt,
            Op.STAGE: self._stage,
        }

    def answer(self, op: int, payload: bytes) -> bytes:
        """Return the reply to one request: OK and what it asked for, or REFUSED for bytes of others."""
        if op in self._foreign:
            return self._answer_foreign(op, payload)
        return OK + self._own[op](payload)

    def _answer_foreign(self, op: int, payload: bytes) -> bytes:
        """Answer a request that decodes bytes of others: a failure is theirs."""
        try:
            return OK + self._foreign[op](payload)
        except Exception:  # whatever a decoder of foreign bytes raises, MemoryError included
            return REFUSED

    def _take_key(self, data: bytes) -> bytes:
        context = tenseal.context_from(data, n_threads=1)
        same = _serialise(context, with_secret=False) == self._parameters and context.global_scale == 2.0**SCALE_BITS
        if not (same and context.has_secret_key()):
            raise ValueError("a key of other parameters")
        self._context = context
        return b""

    def _encrypt(self, data: bytes) -> bytes:
        slots = (np.frombuffer(data, "<i8") * 2.0**-GRID_BITS).tolist()
        # tenseal.ckks_vector does the same after two more copies into Python lists, a sixth of the whole time
        chunk: bytes = tenseal._ts_cpp.CKKSVector(self._context.data, slots).serialize()
        return chunk

    def _load(self, data: bytes) -> tenseal.CKKSVector:
        vector = tenseal.ckks_vector_from(self._context, data)
        if _form(vector) != self._form:  # size 3, another level, another scale: they load, and end or spoil the sum
            raise ValueError("a ciphertext of another form")
        return vector

    def _decrypt(self, data: bytes) -> bytes:
        """Only integers leave: the noise that rounding takes off would tell who decrypts it about the key."""
        exact = np.array(self._load(data).decrypt()) * 2.0**GRID_BITS
        rounded = np.rint(exact)
        if exact.shape != (SLOTS,) or not np.abs(exact - rounded).max() <= RESIDUAL_LIMIT:  # false for NaN
            raise ValueError("no grid point near a slot")
        return rounded.astype("<i8").tobytes()

    def _clear(self, _: bytes) -> bytes:
        self._sum, self._staged = [], []
        return b""

    def _drop(self, _: bytes) -> bytes:
        self._staged = []
        return b""

    def _stage(self, data: bytes) -> bytes:
        self._staged.append(self._load(data))
        return b""

    def _commit(self, _: bytes) -> bytes:
        if self._sum:
            for total, chunk in zip(self._sum, self._staged, strict=True):
                total.add_(chunk)
        else:
            self._sum = self._staged
        self._staged = []
        return b""

    def _save(self, data: bytes) -> bytes:
        chunk: bytes = self._sum[int.from_bytes(data, "big")].serialize()
        return chunk


def _form(vector: tenseal.CKKSVector) -> tuple[object, ...]:
    """Return what a ciphertext vector says of itself; equal for all honest ones."""
    return (
        vector.size(),
        [
            (it.size(), it.scale, it.coeff_modulus_size(), it.poly_modulus_degree(), it.is_ntt_form(), it.parms_id())
            for it in vector.ciphertext()
        ],
    )


def _read(count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = os.read(0, count - len(parts))
        if not part:
            raise SystemExit(0)  # the caller is done
        parts += part
    return bytes(parts)


def _limit(address_bytes: int) -> None:
    """Bound this process for good: memory, and no files, so that no core and no copy of a key reaches a disk."""
    resource.setrlimit(resource.RLIMIT_AS, (address_bytes, address_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _allow_processor_time(cpu_s: int) -> None:
    """Let the kernel end this process when the next request takes more than `cpu_s` processor seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + cpu_s, hard))


def main(address_bytes: int, cpu_s: int) -> None:
    """Answer requests until standard input ends."""
    _limit(address_bytes)
    lattice, replies = Lattice(), os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no reply
    while True:
        size = int.from_bytes(_read(LENGTH_BYTES), "big")
        if not 1 <= size <= MAX_FRAME_BYTES:
            raise SystemExit(2)
        request = _read(size)
        _allow_processor_time(cpu_s)
        reply = lattice.answer(request[0], request[1:])
        left = memoryview(len(reply).to_bytes(LENGTH_BYTES, "big") + reply)
        while left:
            left = left[os.write(replies, left) :]
