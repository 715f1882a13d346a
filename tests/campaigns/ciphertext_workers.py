"""What befalls a guarded worker in the campaigns: its machine ends it, it hangs, or whoever took it over answers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random

from secure_frl.ckks import worker as worker_module
from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Worker
from secure_frl.errors import CiphertextRefused, KeyRefused, WorkerDied

_PATIENCE_S = 1.0  # with a worker that hangs, or never ends its answer
_READ = r"""
import os, random
def read(count):
    data = b""
    while len(data) < count:
        part = os.read(0, count - len(data))
        if not part:
            raise SystemExit
        data += part
    return data
"""
# Answers of every size a reader may stumble over, framed rightly nine times of ten; what the sum needs is mostly
# granted, so that the lie comes where it is read. The sum that it hands out is at times a chunk that it was given.
_TAKEN_OVER = (
    _READ
    + r"""
r, given = random.Random({seed}), []
while True:
    request = read(int.from_bytes(read(4), "big"))
    op = request[0]
    if op == 7:
        given.append(request[1:])
    size = r.choice((0, 8, 100, 16380, 16384, 16392, 61774, 66001))
    reply = b"\x00" + (bytes(size) if r.random() < .5 else r.randbytes(size))
    if op in (2, 5, 6, 7, 8) and r.random() < .9:
        reply = b"\x00"
    if op == 9 and given and r.random() < .9:
        reply = b"\x00" + r.choice(given)
    frame = len(reply).to_bytes(4, "big") + reply
    if r.random() < .1:
        frame = r.choice((bytes(4), b"\xff" * 4, b"\x00\x04\x00\x01" + bytes(9), frame[:3], frame[:5], frame * 2))
    at = 0
    while at < len(frame):
        at += os.write(1, frame[at:])
"""
)
# It refuses some requests and grants all others, and never ends.
_REFUSING = (
    _READ
    + r"""
while True:
    op = read(int.from_bytes(read(4), "big"))[0]
    os.write(1, b"\x00\x00\x00\x01" + (b"\x01" if op in {ops} else b"\x00"))
"""
)
_OF_THE_SUM = (Op.CLEAR, Op.DROP, Op.STAGE, Op.COMMIT)


def end(worker: Worker) -> None:
    """Its machine ends it, as one does that runs out of memory."""
    if worker.process_id is not None:
        os.kill(worker.process_id, signal.SIGKILL)
        os.waitid(os.P_PID, worker.process_id, os.WEXITED | os.WNOWAIT)


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
    worker.close()
    with _impatience(worker):
        _start(worker, _TAKEN_OVER.format(seed=seed))
        yield


def refuse(worker: Worker, total: EncryptedSum, random: Random) -> None:
    """A program in its place refuses what belongs to the sum itself, and lives on; nobody may be out for it.

    While it is believed to hold the sum it refuses what comes before a contribution; it may refuse any single request
    of the sum when it does not: what a contribution's own request meets is that contribution's.
    """
    holds = random.random() < 0.5
    ops = [random.choice(_OF_THE_SUM)] if not holds and random.random() < 0.7 else _OF_THE_SUM
    _start(worker, _REFUSING.format(ops={int(op) for op in ops}))
    worker.holds = total if holds else None


def _start(worker: Worker, program: str) -> None:
    genuine, worker_module._PROGRAM = worker_module._PROGRAM, program
    worker.close()
    try:
        worker._process = worker._start()
    except (CiphertextRefused, KeyRefused, WorkerDied):  # it shows itself at once
        worker.close()
    finally:
        worker_module._PROGRAM = genuine


@contextmanager
def _impatience(worker: Worker) -> Iterator[None]:
    """Its caller waits less long than usual, but for the next one's start as long; at the end the worker is another."""
    limits = worker._limits
    worker._limits = replace(limits, wall_s=_PATIENCE_S)

    def close() -> None:
        if worker.process_id is not None:
            worker._limits = limits
        Worker.close(worker)

    vars(worker)["close"] = close
    try:
        yield
    finally:
        del vars(worker)["close"]
        worker.close()
        worker._limits = limits
