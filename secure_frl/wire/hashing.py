"""Length-prefixed encoding of fields, with the labelled hash of protocol v1 over it.

Encoding (docs/protocol.md, section 2): each field is preceded by its 4-byte big-endian length. An integer is 8
bytes big-endian, text is ASCII, a list or tuple is one field that holds the encoding of its elements, a real is its
8-byte big-endian IEEE form. Two different field lists never encode to the same bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from secure_frl.errors import InvalidParameter

LABEL = "secure_frl/secagg/v1"  # changes when any derived key or frame changes

Field = bytes | str | int | float | Sequence["Field"]

_LONG = 64  # elements from which one call to NumPy costs less than one call each
_length = struct.Struct(">I").pack
_two_integers = struct.Struct(">IQIQ").pack
_two_hashes = struct.Struct(">I32sI32s").pack
_integer = struct.Struct(">IQ").pack  # an integer with its own length of 8 before it


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
    if len(field) > _LONG and set(map(type, field)) == {int}:
        return _integers(field)  # type: ignore[arg-type]  # their types were just looked at
    return lp(*field)


def _integers(values: Sequence[int]) -> bytes:
    """Return lp of integers, at once: cohorts and survivors of 10,000 sites are in many hashes of a round."""
    rows = np.empty(len(values), [("size", ">u4"), ("value", ">u8")])
    rows["size"], rows["value"] = 8, np.fromiter(values, np.uint64, count=len(values))
    return rows.tobytes()


def lp(*fields: Field) -> bytes:
    """Encode fields so that their boundaries cannot be moved."""
    parts: list[bytes] = []
    for field in fields:  # a site encodes some 50 fields a neighbour and round: the two common kinds come first
        kind = type(field)
        if kind is bytes:
            parts += (_length(len(field)), field)  # type: ignore[arg-type]  # the type was just looked at
        elif kind is int:
            parts.append(_integer(8, field))
        else:
            encoded = _encode(field)
            parts += (_length(len(encoded)), encoded)
    return b"".join(parts)


def lp_of_ids(one: int, other: int) -> bytes:
    """Return lp(one, other), in one call: a site needs it some ten times a neighbour and round."""
    return _two_integers(8, one, 8, other)


def lp_of_hashes(one: bytes, other: bytes) -> bytes:
    """Return lp(one, other) of two fields of 32 bytes, in one call; they must have that size."""
    return _two_hashes(32, one, 32, other)


def encode_integers(values: Sequence[int]) -> bytes:
    """Return lp(*values), at once: as one bytes field it is what a list of integers is. values: 0 to 2^32 - 1."""
    return _encoded_tuple(tuple(values))


@lru_cache(maxsize=4)  # one list, a cohort or survivors, is in several hashes of a round; nothing in it is secret
def _encoded_tuple(values: tuple[int, ...]) -> bytes:
    rows = np.empty((len(values), 3), ">u4")
    rows[:, 0], rows[:, 1], rows[:, 2] = 8, 0, np.fromiter(values, np.uint32, count=len(values))
    return rows.tobytes()


@lru_cache(maxsize=64)  # a purpose is one of some twenty words in the code, never data
def labelled(purpose: str) -> bytes:
    """Return lp(LABEL, purpose), with which every labelled hash, derived key and signature begins."""
    return lp(LABEL, purpose)


def labelled_hash(purpose: str, *fields: Field) -> bytes:
    """Return H(purpose, fields...) = SHA-256 of lp(LABEL, purpose, fields...), 32 bytes."""
    return hashlib.sha256(labelled(purpose) + lp(*fields)).digest()
