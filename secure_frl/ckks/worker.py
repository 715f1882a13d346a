"""The near end of the guarded worker: a process in which all ciphertexts are made, decoded, added and opened.

TenSEAL never runs in the caller's process, so nothing that it decodes can end, fill or hang the caller. Address space
and processor time are limited in the worker, time on the clock here; a worker that passes one of them is gone, and the
next request starts another. It begins as a fresh interpreter with an environment of its own and three pipes: it
inherits no memory, no file and no socket of the caller.
The caller has authenticated what it passes here and checked its outer form (`envelopes`).
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import secure_frl
from secure_frl.ckks.chunks import POLY_DEGREE, ChunkPlan
from secure_frl.ckks.requests import LENGTH_BYTES, MAX_FRAME_BYTES, REFUSED, Op
from secure_frl.errors import CiphertextRefused, KeyRefused, WorkerDied

_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from secure_frl.ckks.lattice import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]))"
)
_ROOT = str(Path(secure_frl.__file__).parents[1])
_INHERITED = ("LD_LIBRARY_PATH",)  # where an interpreter may have to look for its own library
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",  # TenSEAL's pool has a thread of its own: a second arena would keep a second sum's memory
}
_DECODED_BYTES = 2 * 8 * POLY_DEGREE  # of one ciphertext: two polynomials of 64-bit words
_BASE_BYTES = 256 << 20  # interpreter, libraries and SEAL's tables take about 125 MiB of address space
_VECTORS = 4  # the sum, a contribution, and as much again for what an allocator keeps


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker may take. address_bytes: in all. cpu_s, wall_s: for one request, which takes milliseconds."""

    address_bytes: int
    cpu_s: int = 5
    wall_s: float = 60.0


def limits_for(plan: ChunkPlan) -> Limits:
    """Return the limits under which any honest sum of this plan is made, with room."""
    return Limits(_BASE_BYTES + _VECTORS * plan.chunks * _DECODED_BYTES)


class Worker:
    """One process at a time, started when it is first asked.

    secret_context: a site's key (`keys.EpochKey`), held here for as long as this object lives and given to each new
    process; the coordinator has none.
    holds: whose sum the process has in memory, None in a fresh one; set by `EncryptedSum`.
    """

    def __init__(self, limits: Limits, secret_context: bytes | None = None) -> None:
        self._limits = limits
        self._secret_context = secret_context
        self._process: subprocess.Popen[bytes] | None = None
        self.holds: object | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process_id(self) -> int | None:
        """Return the process that is alive now, if any."""
        return None if self._process is None else self._process.pid

    def ask(self, op: Op, payload: bytes | memoryview = b"") -> bytes:
        """Return the answer to one request.

        Raises CiphertextRefused when the worker could not decode the payload, which leaves it as it was before;
        WorkerDied when it ended or passed a limit, which takes what it held along; KeyRefused for a key of other
        parameters.
        """
        if self._process is None:
            self._start()
        return self._exchange(op, payload)

    def close(self) -> None:
        """End the process; a second call does nothing."""
        process, self._process, self.holds = self._process, None, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def _start(self) -> None:
        arguments = (_ROOT, str(self._limits.address_bytes), str(self._limits.cpu_s))
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and program
            [sys.executable, "-I", "-c", _PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=_ENVIRONMENT | {name: os.environ[name] for name in _INHERITED if name in os.environ},
            process_group=0,  # a keyboard's interrupt is the caller's to handle
        )
        for stream in (self._process.stdin, self._process.stdout):
            os.set_blocking(_number(stream), False)
        if self._secret_context is not None:
            try:
                self._exchange(Op.TAKE_KEY, self._secret_context)
            except CiphertextRefused:
                self.close()
                raise KeyRefused(
                    "expected a CKKS key of the fixed parameters, got another. Ask the steward for a new package."
                ) from None

    def _exchange(self, op: Op, payload: bytes | memoryview) -> bytes:
        process, deadline = self._process, time.monotonic() + self._limits.wall_s
        if process is None:
            raise WorkerDied("expected a running worker, got none. Ask again.")
        request = b"".join(((1 + len(payload)).to_bytes(LENGTH_BYTES, "big"), bytes((op,)), payload))
        try:
            _send(_number(process.stdin), request, deadline)
            size = int.from_bytes(_receive(_number(process.stdout), LENGTH_BYTES, deadline), "big")
            if not 1 <= size <= MAX_FRAME_BYTES:
                raise OSError
            reply = _receive(_number(process.stdout), size, deadline)
        except OSError:
            self.close()
            raise WorkerDied(
                f"expected an answer to {op.name} within {self._limits.wall_s:g} s, the worker ended or was ended. "
                "Go on without what it was given."
            ) from None
        if reply[:1] == REFUSED:
            raise CiphertextRefused(
                f"expected bytes that {op.name} can decode, got others. Leave their sender out of this round."
            )
        return reply[1:]


def _number(stream: object) -> int:
    descriptor: int = stream.fileno()  # type: ignore[attr-defined]  # both are pipes, whatever Popen's types say
    return descriptor


def _send(descriptor: int, data: bytes, deadline: float) -> None:
    left = memoryview(data)
    while left:
        _wait(descriptor, select.POLLOUT, deadline)
        left = left[os.write(descriptor, left) :]


def _receive(descriptor: int, count: int, deadline: float) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        _wait(descriptor, select.POLLIN, deadline)
        part = os.read(descriptor, count - len(parts))
        if not part:
            raise BrokenPipeError
        parts += part
    return bytes(parts)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    """Return when `descriptor` can move bytes. Raises TimeoutError at the deadline."""
    waiting = select.poll()
    waiting.register(descriptor, event)
    if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError
