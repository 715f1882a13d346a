"""Length-prefixed encoding of fields, with the labelled hash of protocol v1 over it.

Encoding (secure_aggregation.md, section 3): each field is preceded by its 4-byte big-endian length. An integer is 8
bytes big-endian, text is ASCII, a list or tuple is one field that holds the encoding of its elements, a real is its
8-byte big-endian IEEE form. Two different field lists never encode to the same bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from secure_frl.errors import InvalidParameter

LABEL = "secure_frl/secagg/v1"  # changes when any derived key or frame changes

Field = bytes | str | int | float | Sequence["Field"]


def _encode(field: Field) -> bytes:
    if isinstance(field, bytes | bytearray | memoryview):
        return bytes(field)
    if isinstance(field, str):
        return field.encode("ascii")
    if isinstance(field, bool):
        raise InvalidParameter("expected bytes, text, an integer, a real or a list, got a bool. Encode it as 0 or 1.")
    if isinstance(field, int):
        return struct.pack(">Q", field)
    if isinstance(field, float):
        return struct.pack(">d", field)
    return lp(*field)


def lp(*fields: Field) -> bytes:
    """Encode fields so that their boundaries cannot be moved."""
    encoded = [_encode(field) for field in fields]
    return b"".join(struct.pack(">I", len(field)) + field for field in encoded)


def labelled_hash(purpose: str, *fields: Field) -> bytes:
    """Return H(purpose, fields...) = SHA-256 of lp(LABEL, purpose, fields...), 32 bytes."""
    return hashlib.sha256(lp(LABEL, purpose, *fields)).digest()
