"""A capture: every frame that a carrier moved, in one file, chained by SHA-256.

Each record is a 4-byte big-endian length followed by a msgspec MessagePack array. A record's `chain` is the SHA-256 of
the previous record's `chain` with the record's own fields, so a record cannot be taken out unseen. Captures belong to
rehearsals, simulations and attacks; they hold masked inputs and nothing that a carrier would not see.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self

import msgspec

from secure_frl.errors import MalformedMessage
from secure_frl.wire.hashing import lp

FORMAT = "secure_frl/capture/v1"
MAX_RECORD_BYTES = 1 << 30  # refuse a length that no frame of this protocol can have


class Captured(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One frame as the carrier saw it."""

    direction: Literal["to_site", "to_coordinator"]
    site: int
    time_s: float  # seconds on the carrier's clock
    frame: bytes
    chain: bytes  # SHA-256, 32 bytes


def _link(previous: bytes, direction: str, site: int, time_s: float, frame: bytes) -> bytes:
    return hashlib.sha256(lp(FORMAT, previous, direction, site, time_s, frame)).digest()


class CaptureWriter:
    """Appends frames to a capture file. The file is made by this writer and never overwritten."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("xb")
        self._chain = hashlib.sha256(FORMAT.encode()).digest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, direction: Literal["to_site", "to_coordinator"], site: int, time_s: float, frame: bytes) -> None:
        """Append one frame."""
        self._chain = _link(self._chain, direction, site, time_s, frame)
        record = msgspec.msgpack.encode(Captured(direction, site, time_s, frame, self._chain))
        self._file.write(len(record).to_bytes(4, "big") + record)

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()


def read_capture(path: Path) -> Iterator[Captured]:
    """Yield the frames of a capture in order. Raises MalformedMessage at the first record that does not hold."""
    chain = hashlib.sha256(FORMAT.encode()).digest()
    decoder = msgspec.msgpack.Decoder(Captured)
    with path.open("rb") as file:
        number = 0
        while head := file.read(4):
            size = int.from_bytes(head, "big")
            body = file.read(size) if size <= MAX_RECORD_BYTES else b""
            if len(head) != 4 or len(body) != size:
                raise MalformedMessage(
                    f"capture record {number}: expected {size} bytes, got {len(body)}. Capture again."
                )
            try:
                record = decoder.decode(body)
            except (msgspec.DecodeError, RecursionError) as error:
                raise MalformedMessage(f"capture record {number} is not one of {FORMAT}. Capture again.") from error
            chain = _link(chain, record.direction, record.site, record.time_s, record.frame)
            if record.chain != chain:
                raise MalformedMessage(
                    f"capture record {number} breaks the chain. The file was altered; capture again."
                )
            yield record
            number += 1
