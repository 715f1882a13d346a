"""The registry: the design's numbers, strict bounded decoding, and only MalformedMessage out of a decoder."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_frl.errors import MalformedMessage
from secure_frl.wire import messages
from secure_frl.wire.messages import (
    STAGE_NAMES,
    Inbox,
    MessageType,
    Nothing,
    PublishedSum,
    RefusalCode,
    RoundKeys,
    decode_body,
    encode_body,
)
from secure_frl.wire.records import Confirmation, DealtShares, Share, pack_records
from secure_frl.wire.registry import REGISTRY, Sizes, check_length, greatest_model_bytes

BODIES = [spec.body for spec in REGISTRY.values() if spec.body is not None]


def test_the_type_numbers_are_those_of_the_design():
    assert {kind.name: int(kind) for kind in MessageType} == {
        "E0": 1, "E0_REPLY": 2, "E1": 3, "E1_REPLY": 4, "E2": 5, "E2_REPLY": 6, "R0": 16,
        "R1": 17, "R1P": 18, "R2": 19, "BAD_SHARE": 20, "R3A": 21, "R3B": 22, "R3C": 23,
        "R4": 24, "R5": 25, "R5_REPLY": 26, "REFUSAL": 31,
        "E3": 7, "E3_REPLY": 8, "PACKAGE": 9, "PACKAGE_REPLY": 10, "R6": 27, "R6_REPLY": 28,
        "R2C": 29, "R5C": 30, "R5C_REPLY": 32,
    }  # fmt: skip
    assert set(REGISTRY) == set(MessageType)
    assert (STAGE_NAMES[MessageType.R1P], STAGE_NAMES[MessageType.BAD_SHARE]) == ("R1p", "BadShare")


def test_every_message_states_direction_protection_and_readers():
    kinds = {"signed", "signed+sealed", "sealed", "sealed+clear", "mac"}
    assert {spec.protection for spec in REGISTRY.values()} == kinds
    down = {kind.name for kind, spec in REGISTRY.items() if spec.to_site}
    assert down == {"E0", "E1", "E2", "R0", "R1P", "R3A", "R3C", "R5", "E3", "PACKAGE", "R5C", "R6"}
    assert all(spec.readers for spec in REGISTRY.values())


def test_the_masked_input_has_exactly_its_size():
    # header 152 + 4 * (17 + 4) words + tag 16 = 252
    assert check_length(19, 252, Sizes(10, 17)).name == "R2"
    for size in (251, 253, 0):
        with pytest.raises(MalformedMessage):
            check_length(19, size, Sizes(10, 17))


def test_a_ring_beyond_32_bits_doubles_the_words():
    # header 152 + 8 * (17 + 4) words + tag 16 = 336
    assert check_length(19, 252, Sizes(10, 17, 32)).name == check_length(19, 336, Sizes(10, 17, 33)).name == "R2"
    with pytest.raises(MalformedMessage):
        check_length(19, 252, Sizes(10, 17, 33))
    with pytest.raises(MalformedMessage):
        check_length(19, 336, Sizes(10, 17, 32))


@pytest.mark.parametrize("number", [0, 11, 15, 33, 255])
def test_unknown_types_are_refused(number):
    with pytest.raises(MalformedMessage):
        check_length(number, 200, Sizes(10, 17))


@pytest.mark.parametrize("n", [3, 100])
def test_the_largest_honest_bodies_fit_their_limit_and_nothing_much_larger_does(n):
    dealt = pack_records(DealtShares(site, b"g" * 32, b"h" * 32, b"s" * 144) for site in range(1, n))
    honest = {
        MessageType.R1: RoundKeys(b"p" * 32, b"h" * 32, b"o" * 32, dealt),
        MessageType.R1P: Inbox(dealt),
        MessageType.R4: messages.ReturnedShares(pack_records(Share(site, b"w" * 64) for site in range(n)), b""),
        MessageType.R3B: messages.Confirmations(
            pack_records(Confirmation(0, site, b"h" * 32, b"m" * 32) for site in range(1, n))
        ),
        MessageType.R3A: messages.Survivors(tuple(range(n)), b"s" * 64),
        MessageType.E1: messages.EpochList(
            tuple(messages.EpochEntry(site, b"p" * 32, b"", b"s" * 64) for site in range(n))
        ),
        MessageType.R5: PublishedSum(tuple(range(n)), bytes(4 * 21), b"t" * 32, b"h" * 32, b"s" * 64),
        MessageType.R0: messages.Announcement(tuple(range(n)), b"f" * 32, b"c" * 32, b"t" * 32, b"d" * 32),
    }
    for kind, body in honest.items():
        size, limit = len(encode_body(body)), REGISTRY[kind].limit(Sizes(n, 17))
        assert size <= limit <= 1.3 * size + 300, kind


def test_a_message_beyond_its_limit_is_refused_before_it_is_read():
    for kind, spec in REGISTRY.items():
        sizes = Sizes(10, 17, ciphertext_bytes=70_000)
        limit = 152 + spec.limit(sizes) + spec.trailer_bytes
        behind = {MessageType.R0: greatest_model_bytes(17), MessageType.R1P: 10 * 88, MessageType.R5C: 70_000}
        check_length(kind, limit + behind.get(kind, 0), sizes)
        with pytest.raises(MalformedMessage):
            check_length(kind, limit + behind.get(kind, 0) + 1, sizes)


@pytest.mark.parametrize("body_type", BODIES, ids=lambda body: body.__name__)
@given(data=st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_no_bytes_crash_a_decoder(body_type, data):
    try:
        decoded = decode_body(body_type, data)
    except MalformedMessage:
        return
    assert isinstance(decoded, body_type)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=70) | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize("body_type", BODIES, ids=lambda body: body.__name__)
@given(value=JSON)
@settings(max_examples=60, deadline=None)
def test_no_structure_crashes_a_decoder(body_type, value):
    try:
        decode_body(body_type, msgspec.msgpack.encode(value))
    except MalformedMessage:
        return
    assert value == [] or body_type is not Nothing


@pytest.mark.parametrize("body_type", BODIES, ids=lambda body: body.__name__)
def test_bytes_nested_too_deep_are_malformed(body_type):
    with pytest.raises(MalformedMessage):
        decode_body(body_type, b"\x91" * 200_000)


def test_leftovers_and_unknown_fields_and_wrong_types_are_refused():
    good = encode_body(RefusalCode(3))

    assert decode_body(RefusalCode, good).code == 3
    for bad in (
        good + b"\x00",
        b"\x92\x03\x04",
        b"\x91\xa1a",
        b"\x90",
        b"\x81\xa4code\x03",
        b"\x91\xcc\x80",
        b"\x91\xff",
    ):
        with pytest.raises(MalformedMessage):
            decode_body(RefusalCode, bad)


def test_sizes_inside_a_body_are_exact():
    good = PublishedSum((1,), b"", b"t" * 32, b"h" * 32, b"s" * 64)
    assert decode_body(PublishedSum, encode_body(good)) == good

    for sites, tag in (((1,), b"t" * 31), ((1,), b"t" * 33), ((65_535,), b"t" * 32), ((-1,), b"t" * 32)):
        with pytest.raises(MalformedMessage):
            decode_body(PublishedSum, encode_body(PublishedSum(sites, b"", tag, b"h" * 32, b"s" * 64)))


def test_a_body_with_shares_has_no_content_in_its_repr():
    body = messages.ReturnedShares(pack_records([Share(1, b"secret words" * 5 + b"abcd")]), b"")

    assert "secret" not in repr(body) + str(Inbox(b"secret"))
