"""The outer form of a ciphertext, read by hand before TenSEAL sees a byte of it.

A chunk is the one protobuf message that an honest site can make: one size, 2048; one SEAL ciphertext behind its header
of 16 bytes; the scale, 2^40. TenSEAL's own parser takes far more: two sizes, two ciphertexts, no scale, NaN as scale,
and a message of four bytes with a size and no ciphertext, which kills the process at the next addition.
This is called on authenticated bytes only. It says nothing about the ciphertext inside; that is what the guarded worker
is for.
Source: docs/protocol.md, section 18; SEAL 4, serialization.h (SEALHeader).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from secure_frl.encoding.slots import MAX_CHUNK_BYTES, PREFIX_BYTES, SCALE_BITS, SLOTS, ChunkPlan
from secure_frl.errors import EnvelopeRefused

_SIZES = bytes((0x0A, 0x02, 0x80 | SLOTS & 0x7F, SLOTS >> 7, 0x12))  # field 1, packed: one varint; then field 2's tag
_SCALE = b"\x19" + struct.pack("<d", 2.0**SCALE_BITS)  # field 3, a double
_VARINT_BYTES = 3  # of every ciphertext between 2^14 and 2^21 bytes
_SEAL_HEADER = struct.Struct("<HBBBBHQ")  # magic, its size, version major and minor, compression, reserved, size
_SEAL_START = (0xA15E, _SEAL_HEADER.size, 4)
_ZSTANDARD = 2
_LEAST_CHUNK_BYTES = len(_SIZES) + _VARINT_BYTES + (1 << 14) + len(_SCALE)


def check_chunk(chunk: bytes | memoryview) -> None:
    """Raise EnvelopeRefused unless a chunk has the outer form of an honest one, byte for byte."""
    if not _LEAST_CHUNK_BYTES <= len(chunk) <= MAX_CHUNK_BYTES:
        raise _refused(f"{_LEAST_CHUNK_BYTES} to {MAX_CHUNK_BYTES} bytes", f"{len(chunk)}")
    head = len(_SIZES) + _VARINT_BYTES
    inner = len(chunk) - head - len(_SCALE)
    varint = bytes((inner & 0x7F | 0x80, inner >> 7 & 0x7F | 0x80, inner >> 14))
    if bytes(chunk[:head]) != _SIZES + varint:
        raise _refused("one size of 2048 and one ciphertext", "another beginning")
    if bytes(chunk[-len(_SCALE) :]) != _SCALE:
        raise _refused("the scale 2^40 at the end", "another end")
    magic, header_bytes, major, _minor, compression, reserved, size = _SEAL_HEADER.unpack_from(chunk, head)
    if (magic, header_bytes, major) != _SEAL_START or (compression, reserved, size) != (_ZSTANDARD, 0, inner):
        raise _refused("a ciphertext of SEAL 4 of its stated size", "another header")


def pack_chunks(chunks: Sequence[bytes]) -> bytes:
    """Return the body that carries them: each chunk after its 4-byte big-endian length."""
    return b"".join(part for chunk in chunks for part in (len(chunk).to_bytes(PREFIX_BYTES, "big"), chunk))


def unpack_chunks(body: bytes | memoryview, plan: ChunkPlan) -> list[memoryview]:
    """Return the chunks of a body as views. Raises EnvelopeRefused unless there are exactly the plan's, each in form.

    body: authenticated bytes.
    """
    view, at = memoryview(body), 0
    chunks: list[memoryview] = []
    if len(view) > plan.max_body_bytes:
        raise _refused(f"at most {plan.max_body_bytes} bytes", f"{len(view)}")
    while at < len(view):
        start = at + PREFIX_BYTES
        at = start + int.from_bytes(view[at:start], "big")
        if start > len(view) or at > len(view):
            raise _refused(f"{plan.chunks} whole chunks", "other lengths")
        check_chunk(view[start:at])
        chunks.append(view[start:at])
    if len(chunks) != plan.chunks:
        raise _refused(f"{plan.chunks} chunks", f"{len(chunks)}")
    return chunks


def _refused(expected: str, found: str) -> EnvelopeRefused:
    return EnvelopeRefused(f"expected {expected}, got {found}. Leave its sender out of this round.")
