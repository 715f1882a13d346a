"""What befalls a guarded worker in the campaigns: its machine ends it, it hangs, or whoever took it over answers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from secure_frl.ckks import worker as worker_module
from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Worker
from secure_frl.errors import CiphertextRefused, KeyRefused, WorkerDied

_PATIENCE_S = 1.0  # with a worker that hangs, or never ends its answer
# Answers of every size a reader may stumble over, framed rightly nine times of ten; what the sum needs is mostly
# granted, so that the lie comes where it is read.
_TAKEN_OVER = r"""
import os, random
r = random.Random({seed})
def read(count):
    data = b""
    while len(data) < count:
        part = os.read(0, count - len(data))
        if not part:
            raise SystemExit
        data += part
    return data
while True:
    op = read(int.from_bytes(read(4), "big"))[0]
    size = r.choice((0, 8, 100, 16380, 16384, 16392, 61774, 66001))
    reply = b"\x00" + (bytes(size) if r.random() < .5 else r.randbytes(size))
    if op in (2, 5, 6, 7, 8) and r.random() < .9:
        reply = b"\x00"
    frame = len(reply).to_bytes(4, "big") + reply
    if r.random() < .1:
        frame = r.choice((bytes(4), b"\xff" * 4, b"\x00\x04\x00\x01" + bytes(9), frame[:3], frame[:5], frame * 2))
    at = 0
    while at < len(frame):
        at += os.write(1, frame[at:])
"""


def end(worker: Worker) -> None:
    """Its machine ends it, as one does that runs out of memory."""
    if worker.process_id is not None:
        os.kill(worker.process_id, signal.SIGKILL)


@contextmanager
def hanging(worker: Worker) -> Iterator[None]:
    """It stops where it is."""
    if worker.process_id is None:
        worker.ask(Op.CLEAR)
    assert worker.process_id is not None
    os.kill(worker.process_id, signal.SIGSTOP)
    with _impatience(worker):
        yield


@contextmanager
def taken_over(worker: Worker, seed: int) -> Iterator[None]:
    """A program in its place answers what it likes; once that is ended, the next worker is honest."""
    genuine, worker_module._PROGRAM = worker_module._PROGRAM, _TAKEN_OVER.format(seed=seed)
    worker.close()
    with _impatience(worker):
        try:
            worker._process = worker._start()
        except (CiphertextRefused, KeyRefused, WorkerDied):  # it shows itself at once
            worker.close()
        finally:
            worker_module._PROGRAM = genuine
        yield


@contextmanager
def _impatience(worker: Worker) -> Iterator[None]:
    """Its caller waits less long than usual; at the end the worker is another."""
    limits = worker._limits
    worker._limits = replace(limits, wall_s=_PATIENCE_S)
    try:
        yield
    finally:
        worker.close()
        worker._limits = limits
