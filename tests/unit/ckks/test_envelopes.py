"""The outer form of ciphertexts: the one that honest sites make passes, everything near it is refused unread."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest

from secure_frl.ckks.envelopes import check_chunk, pack_chunks, unpack_chunks
from secure_frl.encoding.slots import ChunkPlan
from secure_frl.errors import EnvelopeRefused, MalformedMessage, PeerError

HEAD = 8  # one size, the ciphertext's tag and length
SCALE = b"\x19" + struct.pack("<d", 2.0**40)
FOUR_BYTES = bytes.fromhex("0a028010")  # a size and no ciphertext
_ADDS_IT = """
import numpy, sys, tenseal
context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[54, 54])
context.global_scale = 2.0**40
honest = tenseal.ckks_vector(context, numpy.zeros(2048))
other = tenseal.ckks_vector_from(context, bytes.fromhex(sys.argv[1])) if sys.argv[1] else honest
print("loaded", flush=True)
honest + other
"""


@pytest.fixture
def chunk(bodies: list[bytes], small: ChunkPlan) -> bytes:
    return bytes(unpack_chunks(bodies[0], small)[0])


def with_inner(inner: bytes) -> bytes:
    size = len(inner)
    varint = bytes((size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14))
    return bytes.fromhex("0a02801012") + varint + inner + SCALE


def test_honest_bodies_come_apart_and_together_again(bodies: list[bytes], small: ChunkPlan) -> None:
    chunks = unpack_chunks(bodies[0], small)

    assert len(chunks) == 2
    assert pack_chunks([bytes(chunk) for chunk in chunks]) == bodies[0]
    assert max(map(len, chunks)) <= 31 * 2046  # the design's bytes a value and limb


def test_control_the_message_of_four_bytes_ends_a_process_that_adds_it() -> None:
    def end(data: bytes) -> tuple[str, int]:
        done = subprocess.run([sys.executable, "-c", _ADDS_IT, data.hex()], capture_output=True, text=True, check=False)
        return done.stdout.strip(), done.returncode

    assert end(b"") == ("loaded", 0)
    loaded, code = end(FOUR_BYTES)
    assert loaded == "loaded"
    assert code < 0  # a signal
    with pytest.raises(EnvelopeRefused):
        check_chunk(FOUR_BYTES)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("nothing", lambda it: b""),
        ("two sizes", lambda it: b"\x0a\x04\x80\x10\x80\x10" + it[4:]),
        ("another size", lambda it: b"\x0a\x02\xff\x0f" + it[4:]),
        ("a size unpacked", lambda it: b"\x08\x80\x10" + it[4:]),
        ("two ciphertexts", lambda it: it[:-9] + it[4:-9] + it[-9:]),
        ("no scale", lambda it: it[:-9]),
        ("two scales", lambda it: it + it[-9:]),
        ("scale 2^41", lambda it: it[:-8] + struct.pack("<d", 2.0**41)),
        ("scale -2^40", lambda it: it[:-8] + struct.pack("<d", -(2.0**40))),
        ("scale NaN", lambda it: it[:-8] + struct.pack("<d", float("nan"))),
        ("an unknown field", lambda it: it[:-9] + b"\x20\x01" + it[-9:]),
        ("fields in another order", lambda it: it[-9:] + it[:-9]),
        ("a longer encoding of its length", lambda it: it[:7] + bytes((it[7] | 0x80, 0)) + it[8:]),
        ("one byte short", lambda it: it[:-10] + it[-9:]),
        ("another magic", lambda it: it[:HEAD] + b"\x5f" + it[HEAD + 1 :]),
        ("another header size", lambda it: it[: HEAD + 2] + b"\x18" + it[HEAD + 3 :]),
        ("SEAL 3", lambda it: it[: HEAD + 3] + b"\x03" + it[HEAD + 4 :]),
        ("no compression", lambda it: it[: HEAD + 5] + b"\x00" + it[HEAD + 6 :]),
        ("something reserved", lambda it: it[: HEAD + 6] + b"\x01" + it[HEAD + 7 :]),
        ("a size of its own", lambda it: it[: HEAD + 8] + struct.pack("<Q", 2**40) + it[HEAD + 16 :]),
        ("too much", lambda it: with_inner(it[HEAD:-9] + bytes(5000))),
        ("too little", lambda it: with_inner(it[HEAD : HEAD + 16] + bytes(100))),
    ],
)
def test_every_other_outer_form_is_refused(name: str, change: object, chunk: bytes) -> None:
    check_chunk(chunk)
    changed = change(chunk)
    assert changed != chunk

    with pytest.raises(EnvelopeRefused) as caught:
        check_chunk(changed)

    assert isinstance(caught.value, MalformedMessage | PeerError)  # its sender is out, the others go on


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("nothing", lambda it: b""),
        ("a chunk missing", lambda it: it[: 4 + int.from_bytes(it[:4], "big")]),
        ("a chunk too many", lambda it: it + it),
        ("half a length", lambda it: it + b"\x00\x00"),
        ("a length beyond the end", lambda it: b"\xff\xff\xff\xff" + it[4:]),
        ("cut short", lambda it: it[:-1]),
        ("empty chunks", lambda it: bytes(8)),
    ],
)
def test_a_body_with_other_chunks_than_the_plans_is_refused(
    name: str, change: object, bodies: list[bytes], small: ChunkPlan
) -> None:
    with pytest.raises(EnvelopeRefused):
        unpack_chunks(change(bodies[0]), small)


def test_a_body_beyond_the_plans_size_is_refused_before_it_is_read(small: ChunkPlan) -> None:
    with pytest.raises(EnvelopeRefused, match=f"at most {small.max_body_bytes} bytes"):
        unpack_chunks(bytes(small.max_body_bytes + 1), small)
