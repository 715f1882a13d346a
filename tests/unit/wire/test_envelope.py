"""Frames: the layout byte by byte, exact lengths, and no byte that signature or tag does not cover."""

from __future__ import annotations

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from secure_frl.errors import BadSignature, MalformedMessage
from secure_frl.wire.envelope import (
    HEADER_BYTES,
    Address,
    Header,
    cut,
    mac_frame,
    read_header,
    seal_frame,
    sign_frame,
    unseal_frame,
    verify_frame,
    verify_mac,
)
from secure_frl.wire.hashing import LABEL, lp

KEY = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
ADDRESS = Address(b"s" * 32, 1, 2, 3, 4, 2**64 - 1, b"f" * 32)


def test_the_header_is_laid_out_as_in_the_design():
    header = Header(19, b"s" * 32, 1, 2, 3, 4, 2**64 - 1, b"f" * 32, 5, b"k" * 32).encode()

    # magic, type, 3 zeros, session 32, five 8-byte numbers, fresh 32, body length 8, key id 32: 152 bytes
    assert header == (
        b"SFS1\x13\x00\x00\x00"
        + b"s" * 32
        + struct.pack(">5Q", 1, 2, 3, 4, 2**64 - 1)
        + b"f" * 32
        + struct.pack(">Q", 5)
        + b"k" * 32
    )
    assert len(header) == 152
    assert read_header(header).encode() == header


@pytest.mark.parametrize("frame", [b"", b"SFS1", bytes(152), b"SFS2" + bytes(148), b"SFS1\x10\x00\x01" + bytes(145)])
def test_what_is_no_header_is_refused(frame):
    with pytest.raises(MalformedMessage):
        read_header(frame)


@given(st.binary(max_size=400))
def test_no_bytes_crash_the_header_decoder(data):
    try:
        header = read_header(data)
    except MalformedMessage:
        return
    assert header.encode() == data[:152]


LIST = b"a list that every site gets"


def frames():
    body = b"body of the message"
    return {
        "signed": sign_frame(ADDRESS.header(1, len(body)), body, KEY),
        "sealed": seal_frame(ADDRESS, 17, body, b"k" * 32),
        "sealed+clear": seal_frame(ADDRESS, 18, body, b"k" * 32, LIST, hashlib.sha256(LIST).digest()),
        "mac": mac_frame(ADDRESS, 19, memoryview(body), b"k" * 32),
    }


def check(kind: str, frame: bytes) -> bytes:
    header = read_header(frame)
    body = cut(frame, header, 64 if kind == "signed" else 16, open_ended=kind == "sealed+clear")
    if kind == "sealed+clear":
        rest = frame[HEADER_BYTES + len(body) + 16 :]
        return unseal_frame(frame, b"k" * 32, len(rest), hashlib.sha256(rest).digest())
    if kind == "signed":
        verify_frame(frame, body, PUBLIC)
        return bytes(body)
    if kind == "sealed":
        return unseal_frame(frame, b"k" * 32)
    verify_mac(frame, b"k" * 32)
    return bytes(body)


@pytest.mark.parametrize("kind", ["signed", "sealed", "sealed+clear", "mac"])
def test_a_frame_opens_and_every_flipped_bit_is_refused(kind):
    frame = frames()[kind]
    assert check(kind, frame) == b"body of the message"

    for position in range(len(frame)):
        for bit in (0, 7):
            flipped = bytearray(frame)
            flipped[position] ^= 1 << bit
            with pytest.raises((BadSignature, MalformedMessage)):
                check(kind, bytes(flipped))


@pytest.mark.parametrize("kind", ["signed", "sealed", "mac"])
def test_a_frame_cut_short_or_with_leftovers_is_refused(kind):
    frame = frames()[kind]

    for other in (frame[:-1], frame + b"\x00", frame[:152], frame[:100]):
        with pytest.raises(MalformedMessage):
            check(kind, other)


def test_a_signature_covers_label_header_and_body():
    frame = frames()["signed"]

    digest = hashlib.sha256(b"body of the message").digest()
    KEY.public_key().verify(frame[-64:], lp(LABEL, "frame", frame[:152], digest))


@pytest.mark.parametrize("rest", [b"", LIST[:-1], LIST + b"\x00", b"another list for this site."])
def test_a_list_behind_a_sealed_frame_is_the_one_that_its_tag_covers(rest):
    frame = frames()["sealed+clear"][: -len(LIST)] + rest

    with pytest.raises(BadSignature):
        check("sealed+clear", frame)


def test_a_mac_frame_carries_its_body_in_clear_and_a_sealed_one_does_not():
    assert b"body of the message" in frames()["mac"]
    assert b"body of the message" not in frames()["sealed"]
