"""Model bytes: one encoding a state, and a decoder that refuses everything else."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_frl.errors import InvalidParameter, MalformedMessage
from secure_frl.federation.training_state import MAX_MANIFEST_BYTES, TrainingState

STATE = TrainingState(
    parameters=np.array([1.5, -2.0, 0.1]),
    momentum=np.array([0.0, -0.0, 1e-300]),
    critic=np.array([0.5, 0.6]),
    visits=np.array([10.0, 0.0]),
    round=7,
    predecessor=bytes(range(32)),
)
CONTENT = STATE.to_bytes()


def _with_manifest(change: object) -> bytes:
    (size,) = struct.unpack_from(">I", CONTENT)
    fields = json.loads(CONTENT[4 : 4 + size])
    fields.update(change)  # type: ignore[call-overload]
    manifest = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return struct.pack(">I", len(manifest)) + manifest + CONTENT[4 + size :]


def test_a_state_survives_its_bytes() -> None:
    found = TrainingState.from_bytes(CONTENT)

    assert found.to_bytes() == CONTENT
    assert found.parameters.tolist() == [1.5, -2.0, 0.1]
    assert np.signbit(found.momentum[1])
    assert (found.round, found.predecessor) == (7, bytes(range(32)))


def test_arrays_are_little_endian_after_the_manifest() -> None:
    assert CONTENT.endswith(struct.pack("<10d", 1.5, -2.0, 0.1, 0.0, -0.0, 1e-300, 0.5, 0.6, 10.0, 0.0))


def test_the_clip_in_force_stands_behind_the_arrays_when_there_is_one() -> None:
    content = replace(STATE, clip_norm=0.375).to_bytes()

    assert TrainingState.from_bytes(content).clip_norm == 0.375
    assert TrainingState.from_bytes(CONTENT).clip_norm is None
    assert content.endswith(struct.pack("<2d", 0.0, 0.375))
    for wrong in (0.0, -1.0, np.inf):
        with pytest.raises(MalformedMessage):
            TrainingState.from_bytes(content[:-8] + struct.pack("<d", wrong))
        with pytest.raises(InvalidParameter, match="clip_norm"):
            replace(STATE, clip_norm=wrong)


def test_second_moments_stand_last_when_there_are_any() -> None:
    moments = replace(STATE, second_moment=np.array([0.25, -1.0, 3.0]))
    both = replace(moments, clip_norm=0.375).to_bytes()

    for state in (moments, replace(moments, clip_norm=0.375)):
        found = TrainingState.from_bytes(state.to_bytes())
        assert found.to_bytes() == state.to_bytes()
        assert found.second_moment is not None
        assert found.second_moment.tolist() == [0.25, -1.0, 3.0]
    assert both.endswith(struct.pack("<4d", 0.375, 0.25, -1.0, 3.0))
    assert b"second_moment" not in CONTENT
    assert TrainingState.from_bytes(CONTENT).second_moment is None
    with pytest.raises(MalformedMessage, match="finite"):
        TrainingState.from_bytes(both[:-8] + struct.pack("<d", np.nan))
    with pytest.raises(InvalidParameter, match="equal shapes"):
        replace(STATE, second_moment=np.zeros(2))


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_decoder(content: bytes) -> None:
    with pytest.raises(MalformedMessage):
        TrainingState.from_bytes(content)


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_is_another_state(position: int, flip: int) -> None:
    altered = bytearray(CONTENT)
    altered[position] ^= flip

    try:
        found = TrainingState.from_bytes(bytes(altered))
    except MalformedMessage:
        return

    assert found.to_bytes() == bytes(altered) != CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"\0", CONTENT[:3], b"", CONTENT[:40], CONTENT * 2])
def test_another_length_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedMessage):
        TrainingState.from_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "secure_frl/model/v2"},
        {"round": -1},
        {"round": 1.0},
        {"round": True},
        {"round": "7"},
        {"predecessor": "00"},
        {"predecessor": "zz" * 32},
        {"predecessor": "AA" * 32},
        {"arrays": []},
        {"arrays": None},
        {"arrays": [{"shape": [2**40]}] * 4},
        {"extra": 1},
    ],
)
def test_another_manifest_is_refused(change: object) -> None:
    with pytest.raises(MalformedMessage):
        TrainingState.from_bytes(_with_manifest(change))


def test_a_second_spelling_of_a_manifest_is_refused() -> None:
    (size,) = struct.unpack_from(">I", CONTENT)
    spaced = CONTENT[4 : 4 + size].replace(b":7", b": 7")

    with pytest.raises(MalformedMessage, match="canonical"):
        TrainingState.from_bytes(struct.pack(">I", len(spaced)) + spaced + CONTENT[4 + size :])


def test_a_manifest_beyond_its_limit_is_refused_unread() -> None:
    nested = b"[" * (MAX_MANIFEST_BYTES + 1)

    with pytest.raises(MalformedMessage, match="at most"):
        TrainingState.from_bytes(struct.pack(">I", len(nested)) + nested)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(MalformedMessage, match="finite"):
        TrainingState.from_bytes(CONTENT[:-8] + struct.pack("<d", value))


def test_a_state_with_arrays_that_do_not_fit_cannot_be_made() -> None:
    good = np.zeros(2)
    with pytest.raises(InvalidParameter, match="finite"):
        TrainingState(np.array([np.nan]), np.zeros(1), good, good, 0, bytes(32))
    with pytest.raises(InvalidParameter, match="equal shapes"):
        TrainingState(np.zeros(3), good, good, good, 0, bytes(32))
    with pytest.raises(InvalidParameter, match="32 bytes"):
        TrainingState(good, good, good, good, 0, bytes(31))


def test_nothing_of_a_state_is_in_its_repr() -> None:
    assert "1.5" not in repr(STATE)
