"""Fields encoded so that their boundaries cannot be moved, one by one and many at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from secure_frl.masking.contexts import members_hash
from secure_frl.wire.hashing import encode_integers, labelled_hash, lp, lp_of_hashes, lp_of_ids
from secure_frl.wire.records import Member, pack_members


@given(values=st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_many_integers_at_once_are_the_same_integers_one_by_one(values: list[int]) -> None:
    one_by_one = b"".join(b"\0\0\0\x08" + value.to_bytes(8, "big") for value in values)

    assert encode_integers(values) == lp(*values) == one_by_one
    assert labelled_hash("U3", encode_integers(values)) == labelled_hash("U3", values)


def test_members_at_once_are_the_list_of_their_rows() -> None:
    members = [Member(site, bytes([site]) * 32, bytes([site + 1]) * 32) for site in (0, 3, 200)]

    assert pack_members(members) == lp(*([m.site, m.public_key, m.seed_commitment] for m in members))
    rows = [[m.site, m.public_key, m.seed_commitment] for m in members]
    assert members_hash(pack_members(members)) == labelled_hash("U2", rows)


def test_two_ids_and_two_hashes_at_once_are_the_same_fields_one_by_one() -> None:
    assert lp_of_ids(3, 2**64 - 1) == lp(3, 2**64 - 1)
    assert lp_of_hashes(b"a" * 32, b"b" * 32) == lp(b"a" * 32, b"b" * 32)
