"""Packed records: the lists of a round with one entry a neighbour or a member, each entry of one size.

They are byte strings inside bodies, or behind a frame, so that neither end makes an object of each entry: at 10,000
sites a coordinator holds half a million of each kind. An id is 4 bytes big-endian. A reader compares the ids with the
list that it expects, so a record out of place is refused whatever is in it.
Source: docs/protocol.md, section 12, R1 to R4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import MalformedMessage

SHARE_BYTES = 64  # 16 words mod 65537, four bytes each
SEALED_SHARES_BYTES = 2 * SHARE_BYTES + 16  # with the tag


class DealtShares(NamedTuple):
    """What one site deals to another: commitments and the sealed pair of shares."""

    site: int  # R1: the receiver; R1': the dealer
    commitment_s: bytes  # g, 32
    commitment_b: bytes  # h, 32
    sealed: bytes  # 144

    def __repr__(self) -> str:
        return "<DealtShares>"


class Confirmation(NamedTuple):
    """One site's word to another that it saw this survivor set."""

    sender: int
    receiver: int
    survivors_hash: bytes  # 32
    mac: bytes  # 32

    def __repr__(self) -> str:
        return "<Confirmation>"


class Share(NamedTuple):
    """One share of one site's secret."""

    site: int  # whose secret
    words: bytes  # 64

    def __repr__(self) -> str:
        return "<Share>"


class Member(NamedTuple):
    """One sender of R1."""

    site: int
    public_key: bytes  # s_pk, 32
    seed_commitment: bytes  # H_b, 32

    def __repr__(self) -> str:
        return "<Member>"


RecordT = TypeVar("RecordT", DealtShares, Confirmation, Share)
ID_BYTES = 4
_LAYOUTS: dict[type, struct.Struct] = {
    DealtShares: struct.Struct(f">I32s32s{SEALED_SHARES_BYTES}s"),
    Confirmation: struct.Struct(">II32s32s"),
    Share: struct.Struct(f">I{SHARE_BYTES}s"),
}
DEALT_BYTES, CONFIRMATION_BYTES, SHARE_RECORD_BYTES = (layout.size for layout in _LAYOUTS.values())


def pack_records(records: Iterable[DealtShares | Confirmation | Share]) -> bytes:
    """Return records of one kind, one after the other. Their fields must have their sizes."""
    return b"".join([_LAYOUTS[type(record)].pack(*record) for record in records])


def unpack_records(kind: type[RecordT], data: bytes) -> list[RecordT]:
    """Return the records in `data`. Raises MalformedMessage for a part of one."""
    layout = _LAYOUTS[kind]
    check_whole(data, layout.size)
    return list(map(kind._make, layout.iter_unpack(data)))


def check_whole(data: bytes | memoryview, size: int) -> None:
    """Raise MalformedMessage unless `data` holds whole records of `size` bytes."""
    if len(data) % size:
        raise MalformedMessage(f"expected whole records of {size} bytes, got {len(data)} bytes. Drop it.")


def record_table(data: bytes | memoryview, size: int) -> NDArray[np.uint8]:
    """Return a view of the records, uint8 [records, size]. Raises MalformedMessage for a part of one."""
    check_whole(data, size)
    return np.frombuffer(data, np.uint8).reshape(-1, size)


def ids_of(table: NDArray[np.uint8], at: int = 0) -> NDArray[np.int64]:
    """Return the ids at byte `at` of each record, int64 [records]."""
    return np.ascontiguousarray(table[:, at : at + ID_BYTES]).view(">u4").ravel().astype(np.int64)


# --- the members of an attempt ---------------------------------------------------------------------------------------

_MEMBER = struct.Struct(">IIQI32sI32s")
MEMBER_BYTES = _MEMBER.size
_KEY_AT, _COMMITMENT_AT = 20, 56
_MEMBER_ROW = np.dtype(
    [
        ("row_bytes", ">u4"),
        ("site_bytes", ">u4"),
        ("site", ">u8"),
        ("key_bytes", ">u4"),
        ("key", "V32"),
        ("commitment_bytes", ">u4"),
        ("commitment", "V32"),
    ]
)
_GREATEST_ID = 65_534


def pack_members(members: Iterable[tuple[int, bytes, bytes]]) -> bytes:
    """Return U2, [(site, s_pk, H_b)] ascending, as lp encodes it: what is hashed is what travels."""
    pack = _MEMBER.pack
    return b"".join([pack(84, 8, site, 32, key, 32, commitment) for site, key, commitment in members])


@dataclass(frozen=True, slots=True, eq=False)
class MemberList:
    """U2 as it came: rows are cut out when they are needed."""

    data: bytes
    sites: NDArray[np.int64]

    @classmethod
    def read(cls, data: bytes) -> MemberList:
        """Read the packed list. Raises MalformedMessage for other bytes than `pack_members` writes."""
        check_whole(data, MEMBER_BYTES)
        rows = np.frombuffer(data, _MEMBER_ROW)
        sizes = (("row_bytes", 84), ("site_bytes", 8), ("key_bytes", 32), ("commitment_bytes", 32))
        if not all((rows[name] == size).all() for name, size in sizes) or (rows["site"] > _GREATEST_ID).any():
            raise MalformedMessage("expected a list of members, got other bytes. Drop it.")
        return cls(data, rows["site"].astype(np.int64))

    def row(self, site: int) -> int | None:
        """Return where a site is in a list that ascends, or None."""
        at = int(np.searchsorted(self.sites, site))
        return at if at < len(self.sites) and self.sites[at] == site else None

    def entry(self, row: int) -> tuple[bytes, bytes]:
        """Return s_pk and H_b of one row."""
        start = MEMBER_BYTES * row
        key, commitment = start + _KEY_AT, start + _COMMITMENT_AT
        return self.data[key : key + 32], self.data[commitment : commitment + 32]

    @property
    def public_keys(self) -> NDArray[np.uint8]:
        """Return every s_pk, a view uint8 [members, 32]."""
        return np.frombuffer(self.data, np.uint8).reshape(-1, MEMBER_BYTES)[:, _KEY_AT : _KEY_AT + 32]
