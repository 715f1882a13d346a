"""What may be asked of the guarded worker, and how requests and replies are framed. Both ends read this file.

A frame is a 4-byte big-endian length, one byte that says what it is, and a payload.
"""

from __future__ import annotations

from enum import IntEnum

LENGTH_BYTES = 4
MAX_FRAME_BYTES = 1 << 18  # either way; a chunk has at most 66,000 bytes, a key about 62,000
OK, REFUSED = b"\x00", b"\x01"  # how a reply begins


class Op(IntEnum):
    """How a request begins."""

    MAKE_KEY = 1  # -> secret context
    TAKE_KEY = 2  # secret context ->
    ENCRYPT = 3  # slot integers, int64 [2048] -> chunk
    DECRYPT = 4  # chunk -> slot integers
    CLEAR = 5  # -> ; no sum and nothing staged
    DROP = 6  # -> ; nothing staged
    STAGE = 7  # chunk -> ; the next of one contribution
    COMMIT = 8  # -> ; what is staged is added to the sum
    SAVE = 9  # chunk number, 4 bytes -> that chunk of the sum
