"""Packed records byte by byte; lists of members that are not lp of rows are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_frl.errors import MalformedMessage
from secure_frl.wire.hashing import lp
from secure_frl.wire.records import (
    CONFIRMATION_BYTES,
    DEALT_BYTES,
    MEMBER_BYTES,
    SHARE_RECORD_BYTES,
    Confirmation,
    DealtShares,
    Member,
    MemberList,
    Share,
    ids_of,
    pack_members,
    pack_records,
    record_table,
    unpack_records,
)

KINDS = [
    (DealtShares(7, b"g" * 32, b"h" * 32, b"s" * 144), b"\0\0\0\x07" + b"g" * 32 + b"h" * 32 + b"s" * 144),
    (Confirmation(7, 300, b"u" * 32, b"m" * 32), b"\0\0\0\x07\0\0\x01\x2c" + b"u" * 32 + b"m" * 32),
    (Share(65_534, b"w" * 64), b"\0\0\xff\xfe" + b"w" * 64),
]


@pytest.mark.parametrize(("record", "packed"), KINDS, ids=lambda part: type(part).__name__)
def test_records_are_their_fields_one_after_the_other(record, packed):
    assert pack_records([record, record]) == packed + packed
    assert unpack_records(type(record), packed + packed) == [record, record]
    for part in (packed[:-1], packed + packed[:5]):
        with pytest.raises(MalformedMessage):
            unpack_records(type(record), part)


def test_the_sizes_of_records_are_those_of_the_page():
    assert (DEALT_BYTES, CONFIRMATION_BYTES, SHARE_RECORD_BYTES, MEMBER_BYTES) == (212, 72, 68, 88)


def test_a_table_has_the_ids_where_they_stand():
    table = record_table(KINDS[1][1] * 2, CONFIRMATION_BYTES)

    assert ids_of(table).tolist() == [7, 7]
    assert ids_of(table, 4).tolist() == [300, 300]
    with pytest.raises(MalformedMessage):
        record_table(KINDS[1][1][:-1], CONFIRMATION_BYTES)


MEMBERS = [Member(site, bytes([site]) * 32, bytes([site + 1]) * 32) for site in (0, 3, 200)]


def test_a_list_of_members_gives_each_row_back():
    found = MemberList.read(pack_members(MEMBERS))

    assert found.sites.tolist() == [0, 3, 200]
    assert [found.row(site) for site in (0, 3, 200, 1, 201)] == [0, 1, 2, None, None]
    assert [found.entry(row) for row in range(3)] == [member[1:] for member in MEMBERS]
    assert found.public_keys.tobytes() == b"".join(member.public_key for member in MEMBERS)


@given(at=st.integers(0, 3 * 88 - 1), bit=st.integers(0, 7))
def test_a_list_is_read_only_if_it_is_lp_of_its_rows(at, bit):
    changed = bytearray(pack_members(MEMBERS))
    changed[at] ^= 1 << bit

    try:
        found = MemberList.read(bytes(changed))
    except MalformedMessage:
        assert at % 88 < 20 or 52 <= at % 88 < 56  # a length, or an id beyond all
        return
    rows = [[site, *found.entry(row)] for row, site in enumerate(found.sites.tolist())]
    assert lp(*rows) == changed
    assert max(found.sites.tolist()) <= 65_534


@pytest.mark.parametrize("size", [1, 87, 89])
def test_a_list_of_members_has_whole_rows(size):
    with pytest.raises(MalformedMessage):
        MemberList.read(bytes(size))


def test_no_record_shows_its_fields():
    records = [record for record, _ in KINDS] + MEMBERS

    assert {repr(record) for record in records} == {"<DealtShares>", "<Confirmation>", "<Share>", "<Member>"}
