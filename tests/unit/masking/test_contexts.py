"""Contexts against the fixed points of secure_aggregation.md, section 9, and constants that no site may accept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from secure_frl.errors import BitBudget, CharterRefused
from secure_frl.masking.contexts import (
    attempt_context,
    check_constants,
    config_hash,
    epoch_hash,
    mask_context,
    members_hash,
    model_tag,
    session_id,
    survivors_hash,
    transcript_hash,
)
from secure_frl.masking.keys import KeyPair
from secure_frl.secure_sum import Block
from secure_frl.wire.hashing import labelled_hash
from secure_frl.wire.records import Member, pack_members

# the design's inputs: charter = ASCII "charter"; raw private keys c_i = (0x11 + i) x 32, S's 0x1f x 32,
# s_i = (0x21 + i) x 32, b_i = (0x31 + i) x 32; epoch 1, round 1, attempt 0; empty nonces; tag 0x44, config 0x55
CHANNEL_KEYS = [KeyPair.from_secret(bytes([0x11 + i]) * 32) for i in range(3)]
MASK_KEYS = [KeyPair.from_secret(bytes([0x21 + i]) * 32) for i in range(3)]
SESSION = session_id(b"charter")
EPOCH = epoch_hash(
    SESSION, 1, [(i, CHANNEL_KEYS[i].public, b"") for i in range(3)], KeyPair.from_secret(b"\x1f" * 32).public
)
CTX1 = attempt_context(SESSION, EPOCH, 1, 0, (0, 1, 2))
SEEDS = [labelled_hash("b-commit", CTX1, i, bytes([0x31 + i]) * 32) for i in range(3)]
MEMBERS = [Member(i, MASK_KEYS[i].public, SEEDS[i]) for i in range(3)]
CTX2 = mask_context(CTX1, b"\x44" * 32, b"\x55" * 32, members_hash(pack_members(MEMBERS)))


@pytest.mark.parametrize(
    ("value", "first_16_bytes"),
    [
        (SESSION, "532ea558c0fe0376bfba5915aae77b04"),
        (EPOCH, "861e3bf5d82c799cf9ab29af78ecb8ff"),
        (CTX1, "391a1473e27b92a8fc3e5708fb49f707"),
        (SEEDS[0], "2394928e5d6c0f3a6ac560a2a0351d91"),
        (members_hash(pack_members(MEMBERS)), "5e6138c5e2c9df7c99fb13536b9fc981"),
        (CTX2, "e7507a485e6baeed03988cdd83f1d5b0"),
        (survivors_hash(CTX2, (0, 1, 2)), "2834941f564307e383544bd3fda5837a"),
    ],
    ids=["session", "epoch_hash", "ctx1", "H_b_0", "U2_hash", "ctx2", "U3"],
)
def test_contexts_are_those_of_the_design(value, first_16_bytes):
    assert value.hex()[:32] == first_16_bytes


def test_every_field_of_ctx1_and_ctx2_changes_it():
    ones = {
        CTX1,
        attempt_context(SESSION[::-1], EPOCH, 1, 0, (0, 1, 2)),
        attempt_context(SESSION, EPOCH[::-1], 1, 0, (0, 1, 2)),
        attempt_context(SESSION, EPOCH, 2, 0, (0, 1, 2)),
        attempt_context(SESSION, EPOCH, 1, 1, (0, 1, 2)),
        attempt_context(SESSION, EPOCH, 1, 0, (0, 1)),
    }
    twos = {
        CTX2,
        mask_context(CTX1[::-1], b"\x44" * 32, b"\x55" * 32, members_hash(pack_members(MEMBERS))),
        mask_context(CTX1, b"\x45" * 32, b"\x55" * 32, members_hash(pack_members(MEMBERS))),
        mask_context(CTX1, b"\x44" * 32, b"\x56" * 32, members_hash(pack_members(MEMBERS))),
        mask_context(CTX1, b"\x44" * 32, b"\x55" * 32, members_hash(pack_members(MEMBERS[:2]))),
    }

    assert (len(ones), len(twos)) == (6, 5)
    assert transcript_hash(CTX2, b"a" * 32, b"b" * 32) != transcript_hash(CTX2, b"b" * 32, b"a" * 32)
    assert model_tag(b"one") != model_tag(b"two")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sites", 6),
        ("threshold", 5),
        ("max_colluders", 1),
        ("min_survivors", 5),
        ("honest_shares", 3),
        ("profile", "cross_device"),
        ("neighbours", 2),
        ("protection", "unsafe-plain"),
        ("length", 18),
        ("modulus_bits", 25),
        ("scale", 64.00000001),
        ("bound", 1001),
        ("noise_bound", 51),
        ("blocks", (Block("policy", 0, 17, 1.0, 0.5),)),
        ("noise", "local"),
        ("noise_multiplier", 1.25),
        ("integer_noise_scale", 4096),
        ("weight", 2),
    ],
)
def test_every_constant_changes_the_config_hash(make_constants, name, value):
    constants = make_constants(5)

    assert config_hash(replace(constants, **{name: value})) != config_hash(constants)


def test_an_integral_real_hashes_like_the_real(make_constants):
    assert config_hash(make_constants(5, scale=64)) == config_hash(make_constants(5, scale=64.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 3, "max_colluders": 1},  # 2t > n + c fails for n = 5
        {"threshold": 2, "max_colluders": 2},
        {"max_colluders": 0, "honest_shares": 4},
        {"min_survivors": 3, "honest_shares": 1},
        {"honest_shares": 3},
        {"sites": 2},
        {"protection": "none"},
        {"profile": "cross_device"},
        {"length": 0},
        {"weight": 0},
    ],
)
def test_constants_that_break_the_claims_are_refused(make_constants, changes):
    with pytest.raises(CharterRefused):
        check_constants(make_constants(5, **changes))


def test_the_bit_budget_is_exact(make_constants):
    # n*B + tau = 5 * 1000 + 50 = 5050 < 2^(14 - 1) = 8192; at w = 13 the half is 4096
    check_constants(make_constants(5, modulus_bits=14))
    with pytest.raises(BitBudget):
        check_constants(make_constants(5, modulus_bits=13))
    check_constants(make_constants(5, modulus_bits=14, noise_bound=8191 - 5000))
    with pytest.raises(BitBudget):
        check_constants(make_constants(5, modulus_bits=14, noise_bound=8192 - 5000))
    check_constants(make_constants(5, modulus_bits=64, bound=(2**63 - 1) // 5, noise_bound=(2**63 - 1) % 5))
    with pytest.raises(BitBudget):
        check_constants(make_constants(5, modulus_bits=64, bound=(2**63 - 1) // 5, noise_bound=(2**63 - 1) % 5 + 1))
    with pytest.raises(BitBudget):
        check_constants(make_constants(5, modulus_bits=65))
