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
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import secure_frl
from secure_frl.ckks.requests import LENGTH_BYTES, MAX_FRAME_BYTES, REFUSED, Op
from secure_frl.encoding.slots import POLY_DEGREE, ChunkPlan
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
        """Return the answer to one request. Raises as `ask_each`."""
        return self.ask_each(op, (payload,))[0]

    def ask_each(self, op: Op, payloads: Iterable[bytes | memoryview]) -> list[bytes]:
        """Return the answers to requests of one kind, in order; the next is under way while one is answered.

        Raises CiphertextRefused when the worker could not decode a payload, after all were asked: what it holds of the
        sum is as before. WorkerDied when it ended or passed a limit, which takes what it held along. KeyRefused for a
        key of other parameters.
        """
        return self._exchange(self._process or self._start(), op, payloads)

    def notice_end(self) -> None:
        """Forget a process that ended while nobody asked it: it ended over nobody's bytes, and the next may serve."""
        if self._process is not None and self._process.poll() is not None:
            self.close()

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

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = (_ROOT, str(self._limits.address_bytes), str(self._limits.cpu_s))
        process = self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and program
            [sys.executable, "-I", "-c", _PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=_ENVIRONMENT | {name: os.environ[name] for name in _INHERITED if name in os.environ},
            process_group=0,  # a keyboard's interrupt is the caller's to handle
        )
        for stream in (process.stdin, process.stdout):
            os.set_blocking(_number(stream), False)
        if self._secret_context is not None:
            try:
                self._exchange(process, Op.TAKE_KEY, (self._secret_context,))
            except CiphertextRefused:
                self.close()
                raise KeyRefused(
                    "expected a CKKS key of the fixed parameters, got another. Ask the steward for a new package."
                ) from None
        return process

    def _exchange(
        self, process: subprocess.Popen[bytes], op: Op, payloads: Iterable[bytes | memoryview]
    ) -> list[bytes]:
        line, asked = _Line(_number(process.stdin), _number(process.stdout), self._limits.wall_s), 0
        try:
            for asked, payload in enumerate(payloads, start=1):
                line.send(b"".join(((1 + len(payload)).to_bytes(LENGTH_BYTES, "big"), bytes((op,)), payload)))
                line.receive(asked - 1)
            line.receive(asked)
        except OSError:
            self.close()
            raise WorkerDied(
                f"expected an answer to {op.name} within {self._limits.wall_s:g} s, the worker ended or was ended. "
                "Go on without what it was given."
            ) from None
        except BaseException:  # an interrupt: the answer under way must not be taken for that of the next request
            self.close()
            raise
        if line.is_refused:
            raise CiphertextRefused(
                f"expected bytes that {op.name} can decode, got others. Leave their sender out of this round."
            )
        return line.replies


class _Line:
    """Both directions of one exchange; it reads whenever there is something, so that neither end waits for the other.

    Raises OSError for an end, for what is no reply, and for a reply that takes longer than wall_s.
    """

    def __init__(self, to_worker: int, from_worker: int, wall_s: float) -> None:
        self._to, self._from, self._wall_s = to_worker, from_worker, wall_s
        self._arrived = bytearray()
        self._deadline = time.monotonic() + wall_s
        self.replies: list[bytes] = []  # without their first byte
        self.is_refused = False  # one of them at least
        self._reading, self._both = select.poll(), select.poll()
        for polled in (self._reading, self._both):
            polled.register(from_worker, select.POLLIN)
        self._both.register(to_worker, select.POLLOUT)

    def send(self, request: bytes) -> None:
        """Write one request."""
        left = memoryview(request)
        while left:
            if self._to in self._ready(self._both):
                left = left[os.write(self._to, left) :]

    def receive(self, count: int) -> None:
        """Read until there are `count` replies."""
        while len(self.replies) < count:
            self._ready(self._reading)

    def _ready(self, polled: select.poll) -> list[int]:
        """Wait, take what has arrived, and return the descriptors that are ready."""
        found = [number for number, _ in polled.poll(max(0.0, self._deadline - time.monotonic()) * 1000)]
        if not found:
            raise TimeoutError
        if self._from in found:
            part = os.read(self._from, MAX_FRAME_BYTES)
            if not part:
                raise BrokenPipeError
            self._arrived += part
            self._cut()
        return found

    def _cut(self) -> None:
        """Move whole replies out of what has arrived."""
        while len(self._arrived) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(self._arrived[:LENGTH_BYTES], "big")
            if not LENGTH_BYTES < end <= LENGTH_BYTES + MAX_FRAME_BYTES:
                raise BrokenPipeError
            if len(self._arrived) < end:
                return
            self.is_refused |= self._arrived[LENGTH_BYTES : LENGTH_BYTES + 1] == REFUSED
            self.replies.append(bytes(memoryview(self._arrived)[LENGTH_BYTES + 1 : end]))
            del self._arrived[:end]
            self._deadline = time.monotonic() + self._wall_s


def _number(stream: object) -> int:
    descriptor: int = stream.fileno()  # type: ignore[attr-defined]  # both are pipes, whatever Popen's types say
    return descriptor
