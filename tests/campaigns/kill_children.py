"""Children that are killed: forked from a warm process, they say through a pipe what has left, until SIGKILL comes."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from typing import NoReturn

Say = Callable[[str], None]


def fork(work: Callable[[Say], None]) -> tuple[int, int]:
    """Start `work` in a child; return (process id, reading end of its pipe). A line that was said has left."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    os.close(reading)
    _end_after(lambda: work(lambda line: _write(writing, line)), lambda error: _write(writing, f"failed {error!r}"))


def _write(descriptor: int, line: str) -> None:
    os.write(descriptor, line.encode() + b"\n")  # below PIPE_BUF: whole or not at all


def _end_after(work: Callable[[], None], failed: Callable[[BaseException], None]) -> NoReturn:
    try:
        work()
    except BaseException as error:  # told to the parent, never to pytest's own machinery in this copy of it
        failed(error)
    finally:
        os._exit(0)


def killed_after(pid: int, reading: int, delay_s: float, *, said: str = "") -> list[str]:
    """Kill the child at that moment, or reap it if it ended before, and return the lines that had left.

    delay_s: from its start, or from the line `said`.
    """
    data = b""
    while said and f"{said}\n".encode() not in data and (chunk := os.read(reading, 1 << 16)):
        data += chunk
    end = time.monotonic() + delay_s
    while (left_s := end - time.monotonic()) > 0:
        if select.select([reading], [], [], left_s)[0]:
            chunk = os.read(reading, 1 << 16)
            if not chunk:
                break
            data += chunk
    kill(pid)
    return _rest(reading, data)


def moments_of(pid: int, reading: int, *, said: str, times: int) -> tuple[list[float], list[str]]:
    """Return when a child said lines that begin so, in seconds from now; then it is killed. Also all of its lines."""
    start, data, moments = time.monotonic(), b"", []
    while len(moments) < times and (chunk := os.read(reading, 1 << 16)):
        data += chunk
        new = sum(line.startswith(said) for line in data.decode().splitlines()) - len(moments)
        moments += [time.monotonic() - start] * new
    kill(pid)
    return moments, _rest(reading, data)


def _rest(reading: int, data: bytes) -> list[str]:
    while chunk := os.read(reading, 1 << 16):  # what was in the pipe had left
        data += chunk
    os.close(reading)
    lines = data.decode().splitlines()
    failed = [line for line in lines if line.startswith("failed")]
    assert not failed, failed
    return lines


def kill(pid: int) -> None:
    """Send SIGKILL and reap; the child may have ended by itself."""
    os.kill(pid, signal.SIGKILL)  # not reaped yet, so the id is still this child's
    os.waitpid(pid, 0)
