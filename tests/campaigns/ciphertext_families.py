"""Ciphertexts that no honest site makes: what an insider can do to a chunk before it is sealed.

A chunk is mutated in its outer form, in SEAL's header, in the compressed words, or in what these unpack to, which is
packed again; and it is made a bomb.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

import numpy as np
import pyarrow
import tenseal.sealapi as sealapi

_HEAD, _SEAL_HEADER, _TAIL = 8, 16, 9
FIELDS_BYTES = 120  # of a ciphertext before its words: level, form, sizes, scale, correction factor
Mutate = Callable[[np.random.Generator, bytes, bytes], bytes]


def wrapped(packed: bytes) -> bytes:
    """Return compressed words in the outer form of an honest chunk."""
    inner = bytes.fromhex("5ea1100403020000") + (_SEAL_HEADER + len(packed)).to_bytes(8, "little")
    size = _SEAL_HEADER + len(packed)
    varint = bytes((size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14 & 0x7F))
    return bytes.fromhex("0a02801012") + varint + inner + packed + bytes.fromhex("190000000000007042")


def unpacked(chunk: bytes) -> bytes:
    packed = chunk[_HEAD + _SEAL_HEADER : -_TAIL]
    with pyarrow.CompressedInputStream(pyarrow.BufferReader(packed), "zstd") as stream:
        return stream.read()


def repacked(words: bytes) -> bytes:
    return wrapped(pyarrow.compress(words, codec="zstd", asbytes=True))


def changed(random: np.random.Generator, data: bytes, start: int, stop: int) -> bytes:
    """Return data with one to four bytes between start and stop set, or a bit of them turned."""
    found = bytearray(data)
    for at in random.integers(start, stop, random.integers(1, 5)):
        found[at] = random.choice([found[at] ^ 1 << int(random.integers(8)), 0, 0xFF, int(random.integers(256))])
    return bytes(found)


def cut(random: np.random.Generator, data: bytes) -> bytes:
    at, size = int(random.integers(len(data))), int(random.integers(1, 200))
    return data[:at] + data[at + size :] if random.integers(3) else data[:at]


def spliced(random: np.random.Generator, one: bytes, other: bytes) -> bytes:
    at = int(random.integers(len(one)))
    return one[:at] + other[at:]


def bomb(random: np.random.Generator, one: bytes, _: bytes) -> bytes:
    """Return a chunk whose words go on for up to 16 MB of zeros, behind honest or changed fields."""
    words = unpacked(one)
    if random.integers(2):
        words = changed(random, words, 0, FIELDS_BYTES)
    packed = pyarrow.compress(
        words[:40_000] + bytes(int(random.integers(1 << 20, 1 << 24))), codec="zstd", asbytes=True
    )
    return wrapped(packed)


def _recast(chunk: bytes, place: slice, field: bytes, factor: float = 1) -> bytes:
    """Return a chunk with one of its fields another, and as many more words, zeros, as then belong to it."""
    words = bytearray(unpacked(chunk))
    words[place] = field
    count = int(factor * int.from_bytes(words[_COUNT], "little"))
    words[_SIZE] = (24 + 8 * count).to_bytes(8, "little")
    words[_COUNT] = count.to_bytes(8, "little")
    return repacked(bytes(words[:_WORDS]) + bytes(words[_WORDS:]).ljust(8 * count, b"\x00"))


@cache
def _key_level() -> bytes:
    """Return level, form, size, degree and number of primes of a ciphertext at the level of keys, with both primes."""
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(4096)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(4096, [54, 54]))
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    return struct.pack("<4QB3Q", *context.key_parms_id(), 1, 2, 4096, 2)


# Fields of a ciphertext, in order: level, form, polynomials, degree, primes, scale, correction factor; then its words,
# behind their size and their number.
_POLYNOMIALS, _SCALE, _LEVEL = slice(33, 41), slice(57, 65), slice(0, 57)
_SIZE, _COUNT, _WORDS = slice(81, 89), slice(89, 97), 97
FORMS: dict[str, Callable[[bytes], bytes]] = {  # sound ciphertexts, of another form than a contribution
    "of three polynomials": lambda chunk: _recast(chunk, _POLYNOMIALS, (3).to_bytes(8, "little"), 1.5),
    "of the key's level": lambda chunk: _recast(chunk, _LEVEL, _key_level(), 2),
    "of another scale": lambda chunk: _recast(chunk, _SCALE, struct.pack("<d", 2.0**39)),
}

FAMILIES: dict[str, tuple[int, Mutate]] = {  # name: (weight, mutation)
    "outer form": (2, lambda random, one, other: changed(random, one, 0, _HEAD)),
    "end": (1, lambda random, one, other: changed(random, one, len(one) - _TAIL, len(one))),
    "SEAL's header": (1, lambda random, one, other: changed(random, one, _HEAD, _HEAD + _SEAL_HEADER)),
    "compressed words": (5, lambda random, one, other: changed(random, one, _HEAD + _SEAL_HEADER, len(one) - _TAIL)),
    "cut": (1, lambda random, one, other: cut(random, one)),
    "cut inside": (2, lambda random, one, other: wrapped(cut(random, one[_HEAD + _SEAL_HEADER : -_TAIL]))),
    "spliced": (1, spliced),
    "fields": (8, lambda random, one, other: repacked(changed(random, unpacked(one), 0, FIELDS_BYTES))),
    "words": (2, lambda random, one, other: repacked(changed(random, unpacked(one), FIELDS_BYTES, 65_000))),
    "words cut": (1, lambda random, one, other: repacked(cut(random, unpacked(one)))),
    "words spliced": (1, lambda random, one, other: repacked(spliced(random, unpacked(one), unpacked(other)))),
    "random words": (1, lambda random, one, other: repacked(unpacked(one)[:FIELDS_BYTES] + random.bytes(60_000))),
    "bomb": (1, bomb),
}
