"""Bytes in text: one spelling, and no value in an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_frl.errors import MalformedMessage
from secure_frl.wire.canonical import hex_bytes


@given(st.binary(max_size=40))
def test_bytes_read_back_from_their_lower_case_hex(data: bytes) -> None:
    assert hex_bytes(data.hex(), len(data)) == data


@pytest.mark.parametrize(
    "value", ["AB01", "ab 01", " ab01", "ab01\n", "ab0", "ab", "ab0101", "ab0g", "", 43777, None, b"ab01"]
)
def test_any_other_spelling_size_or_type_is_refused_without_showing_it(value: object) -> None:
    with pytest.raises(MalformedMessage, match="a key of 2 bytes") as caught:
        hex_bytes(value, 2, what="a key")
    assert not value or str(value) not in str(caught.value)
