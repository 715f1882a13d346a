"""Fields encoded so that their boundaries cannot be moved, one by one and many at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from secure_frl.masking.contexts import members_hash
from secure_frl.wire.hashing import encode_integers, labelled_hash, lp
from secure_frl.wire.messages import Member


@given(values=st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_many_integers_at_once_are_the_same_integers_one_by_one(values: list[int]) -> None:
    one_by_one = b"".join(b"\0\0\0\x08" + value.to_bytes(8, "big") for value in values)

    assert encode_integers(values) == lp(*values) == one_by_one
    assert labelled_hash("U3", encode_integers(values)) == labelled_hash("U3", values)


def test_members_at_once_are_the_list_of_their_rows() -> None:
    members = [Member(site, bytes([site]) * 32, bytes([site + 1]) * 32) for site in (0, 3, 200)]

    assert members_hash(members) == labelled_hash("U2", [[m.site, m.public_key, m.seed_commitment] for m in members])
