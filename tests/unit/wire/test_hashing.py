"""Length-prefixed encoding: long lists of integers are encoded at once, and to the same bytes."""

from __future__ import annotations

import struct

import pytest

from secure_frl.wire.hashing import lp


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1000])
def test_a_list_of_integers_is_each_with_its_size_before_it(count):
    values = [(number * 2_654_435_761) % 2**64 for number in range(count)]
    if count:
        values[-1] = 2**64 - 1

    encoded = lp(values)

    rows = b"".join(struct.pack(">IQ", 8, value) for value in values)
    assert encoded == struct.pack(">I", 12 * count) + rows


def test_a_long_list_with_something_else_in_it_is_encoded_element_by_element():
    values = [*range(70), b"\x07"]

    assert lp(values) == struct.pack(">I", 12 * 70 + 5) + b"".join(
        struct.pack(">IQ", 8, value) for value in range(70)
    ) + struct.pack(">IB", 1, 7)
