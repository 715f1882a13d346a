"""A site in another process, reached through a pipe: length-prefixed frames on its standard input and output.

The process opens the site from its own folder and shares nothing with the coordinator's. It ends when the pipe does,
closing its books first.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from secure_frl.errors import MalformedMessage
from secure_frl.secure_sum import Site

MAX_FRAME_BYTES = 1 << 30  # no frame of this protocol is larger
STUDY_DONE = b""  # an empty frame, which no party sends: the site exports its ledger before it ends
_LENGTH_BYTES = 4


def write_frame(stream: IO[bytes], frame: bytes) -> None:
    """Write one frame after its length and flush."""
    stream.write(len(frame).to_bytes(_LENGTH_BYTES, "big") + frame)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Return the next frame, or None at a clean end. Raises MalformedMessage when it is cut short or too long."""
    head = stream.read(_LENGTH_BYTES)
    if not head:
        return None
    size = int.from_bytes(head, "big")
    frame = stream.read(size) if len(head) == _LENGTH_BYTES and size <= MAX_FRAME_BYTES else b""
    if len(head) != _LENGTH_BYTES or len(frame) != size:
        raise MalformedMessage(f"expected a frame of {size} bytes, got {len(frame)}. The other process has ended.")
    return frame


def serve(site: Site, incoming: IO[bytes], outgoing: IO[bytes]) -> bool:
    """Answer frames until the pipe ends; return whether the study was said to be done."""
    while (request := read_frame(incoming)) is not None:
        if request == STUDY_DONE:
            return True
        write_frame(outgoing, site.handle(request))
    return False


class PipeSite:
    """The near end of the pipe: a `Site` whose answers come from another process."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start the process. command: for instance from `site_command`."""
        self._process = subprocess.Popen(list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shut_down()

    def handle(self, request: bytes) -> bytes:
        """Send one frame and return the answer. Raises ConnectionError when the process has ended."""
        incoming, outgoing = self._process.stdin, self._process.stdout
        if incoming is None or outgoing is None:
            raise ConnectionError("the site's process has no pipe. Start it again.")
        write_frame(incoming, request)
        reply = read_frame(outgoing)
        if reply is None:
            raise ConnectionError("the site's process has ended. Its books are on disk; start it again.")
        return reply

    def shut_down(self, *, export: bool = False) -> None:
        """End the pipe and wait until the site has closed its books; a second call does nothing.

        export: the study is done, so the site exports its ledger.

        Raises ConnectionError if the site failed.
        """
        if self._process.returncode is not None:
            return
        if self._process.stdin is not None and not self._process.stdin.closed:
            if export:
                write_frame(self._process.stdin, STUDY_DONE)
            self._process.stdin.close()
        code = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if code != 0:
            raise ConnectionError(f"the site's process ended with code {code}. Its books are on disk; see its log.")


def site_command(run_folder: Path, site_name: str) -> tuple[str, ...]:
    """Return the command that serves one simulated site of a run folder."""
    return (sys.executable, "-m", "secure_frl.federation.site_process", str(run_folder), site_name)
