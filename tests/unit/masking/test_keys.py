"""Keys against the design's fixed points and published vectors; ratchet; refused keys; nothing secret in a repr."""

from __future__ import annotations

import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from secure_frl.errors import KeyRefused, LocalProtocolError
from secure_frl.masking.contexts import attempt_context, epoch_hash, mask_context, members_hash, session_id
from secure_frl.masking.keys import (
    KeyPair,
    _point,
    check_all_distinct,
    check_distinct,
    confirmations,
    derive,
    first_words,
    link_key,
    open_channels,
    pair_key,
    self_key,
    share_key,
)
from secure_frl.secure_sum import COORDINATOR_ID
from secure_frl.wire.hashing import LABEL, labelled_hash, lp
from secure_frl.wire.messages import MessageType
from secure_frl.wire.records import Member, pack_members

CHANNEL = [KeyPair.from_secret(bytes([0x11 + i]) * 32) for i in range(3)]
COORDINATOR = KeyPair.from_secret(b"\x1f" * 32)
MASKS = [KeyPair.from_secret(bytes([0x21 + i]) * 32) for i in range(3)]
SESSION = session_id(b"charter")
EPOCH = epoch_hash(SESSION, 1, [(i, CHANNEL[i].public, b"") for i in range(3)], COORDINATOR.public)
CTX1 = attempt_context(SESSION, EPOCH, 1, 0, (0, 1, 2))
COMMITMENTS = [labelled_hash("b-commit", CTX1, i, bytes([0x31 + i]) * 32) for i in range(3)]
CTX2 = mask_context(
    CTX1,
    b"\x44" * 32,
    b"\x55" * 32,
    members_hash(pack_members(Member(i, MASKS[i].public, COMMITMENTS[i]) for i in range(3))),
)
PUBLIC = {0: CHANNEL[0].public, 1: CHANNEL[1].public, 2: CHANNEL[2].public, COORDINATOR_ID: COORDINATOR.public}


def channels_of(site, first_round=1):
    return open_channels(CHANNEL[site], site, PUBLIC, EPOCH, first_round)


def test_every_key_is_that_of_the_design():
    channels = channels_of(0)
    start = channels.key(1)
    channels.advance_to(1)
    found = [
        start,
        channels.key(1),
        share_key(channels.key(1), CTX1, 0, 1, MASKS[0].public, COMMITMENTS[0]),
        link_key(channels.key(COORDINATOR_ID), CTX2, MessageType.R2, b"\x66" * 32),
        pair_key(MASKS[0], MASKS[1].public, CTX2, 0, 1),
        self_key(b"\x31" * 32, CTX2, 0),
    ]

    assert [key.hex()[:32] for key in found] == [  # secure_aggregation.md, section 9
        "cda5e2e05a086b6e7620a584aab571a5",
        "050010ddce572b90d0ec9fde8978b993",
        "43540a11c21068742b0c65162528a81d",
        "298b99458b277d5d820859df506b9c69",
        "1fe231397223218c91257f5aeccb9e6b",
        "5f17d4ac7b6f624a70bf6b76f8b465a4",
    ]


def test_both_ends_derive_the_same_channel_and_pair_keys():
    zero, one = channels_of(0), channels_of(1)
    zero.advance_to(4)
    one.advance_to(2)
    one.advance_to(4)  # skipped numbers are stepped through

    assert zero.key(1) == one.key(0)
    assert pair_key(MASKS[0], MASKS[1].public, CTX2, 0, 1) == pair_key(MASKS[1], MASKS[0].public, CTX2, 1, 0)


def test_the_exchange_is_that_of_rfc_7748():
    # RFC 7748, section 6.1
    alice = KeyPair.from_secret(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    bob = KeyPair.from_secret(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))

    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert alice.exchange(bob.public).hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 from HMAC, apart from the library under test."""
    key = hmac.digest(salt, secret, "sha256")
    block, output = b"", b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        output += block
    return output[:length]


def test_the_derivation_is_that_of_rfc_5869():
    # RFC 5869, appendix A.1
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42).hex() == expected

    derived = derive(b"\x0b" * 32, b"salt", "purpose", 7, b"field")

    assert derived == hkdf(b"\x0b" * 32, b"salt", lp(LABEL, "purpose", 7, b"field"), 32)


def test_a_signature_of_the_frames_is_that_of_rfc_8032():
    # RFC 8032, section 7.1, test 1
    key = Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )

    assert key.public_key().public_bytes_raw().hex() == (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    )
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b"
    )


def test_the_ratchet_drops_older_rounds_and_never_goes_back():
    channels = channels_of(0, first_round=3)
    assert channels.at_round == 2
    later = channels.key_at(1, 5)
    assert channels.at_round == 2  # looking ahead moves nothing

    channels.advance_to(5)

    assert channels.key(1) == later
    with pytest.raises(LocalProtocolError):
        channels.advance_to(4)


# the seven encodings of low order on Curve25519 that RFC 7748, section 6.1, warns of (list: Bernstein, "Contributory")
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def rows_of(keys):
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)


def check_long(keys, beside=()):
    check_all_distinct(rows_of(keys), frozenset(map(_point, beside)), first_words(rows_of(beside)))


@given(data=st.data())
def test_a_long_list_of_keys_is_judged_as_a_short_one(data):
    # few first bytes, few last ones and all encodings of the least points, so that equal ones are no rarity
    ends = st.sampled_from([0, 1, 0x7E, 0x7F, 0x80, 0xFF])
    made = st.builds(lambda a, b, c: bytes([a]) + bytes([b]) * 30 + bytes([c]), st.integers(0xEC, 0xF0), ends, ends)
    keys, beside = data.draw(st.lists(made, min_size=1, max_size=6)), data.draw(st.lists(made, max_size=2))

    def verdict(check):
        try:
            check()
        except KeyRefused:
            return "refused"
        return "distinct"

    points = [(int.from_bytes(key, "little") % 2**255) % (2**255 - 19) for key in keys]
    others = {(int.from_bytes(key, "little") % 2**255) % (2**255 - 19) for key in beside}
    expected = "refused" if len(set(points)) < len(keys) or others & set(points) else "distinct"
    assert verdict(lambda: check_long(keys, beside)) == expected
    assert verdict(lambda: check_distinct(keys, frozenset(map(_point, beside)))) == expected


def test_keys_that_agree_in_their_first_words_only_are_distinct():
    same = [b"\x05" * 8 + bytes([i]) * 24 for i in range(3)]

    check_long(same[:2], same[2:])
    with pytest.raises(KeyRefused):
        check_long(same[:2], same[1:2])


@pytest.mark.parametrize("public", LOW_ORDER)
def test_low_order_keys_are_refused(public):
    with pytest.raises(KeyRefused):
        CHANNEL[0].exchange(bytes.fromhex(public))


def test_equal_keys_are_refused():
    check_distinct([CHANNEL[0].public, CHANNEL[1].public])

    with pytest.raises(KeyRefused):
        check_distinct([CHANNEL[0].public, CHANNEL[1].public, CHANNEL[0].public])


def test_the_same_key_in_another_encoding_is_refused():
    # RFC 7748, section 5: the top bit is masked, so both encodings are one key
    other = bytearray(CHANNEL[0].public)
    other[31] ^= 0x80
    assert CHANNEL[1].exchange(bytes(other)) == CHANNEL[1].exchange(CHANNEL[0].public)

    with pytest.raises(KeyRefused):
        check_distinct([CHANNEL[0].public, bytes(other)])


def test_keys_of_different_purposes_directions_and_stages_differ():
    chan = channels_of(0).key(1)
    keys = [link_key(chan, CTX1, kind, b"\x66" * 32) for kind in MessageType if kind.name in LINKED]
    keys += [*confirmations(chan, CTX1, 0, 1, b"set" * 8), *confirmations(chan, CTX1, 0, 1, b"sit" * 8)]
    keys += [share_key(chan, CTX1, 0, 1, b"p" * 32, b"h" * 32), share_key(chan, CTX1, 1, 0, b"p" * 32, b"h" * 32)]

    assert len(set(keys)) == len(keys)


LINKED = {"R0", "R1", "R1P", "R2", "BAD_SHARE", "R3A", "R3B", "R3C", "R4", "R5", "R5_REPLY"}


def test_both_confirmations_of_a_pair_are_one_derivation_of_64_bytes():
    # secure_aggregation.md has a key each way; here both words are parts of one PRF's output, see docs/protocol.md
    chan, digest = b"k" * 32, b"set" * 8
    both = hkdf(chan, CTX2, lp(LABEL, "confirm", 3, 7, digest), 64)

    assert confirmations(chan, CTX2, 3, 7, digest) == (both[:32], both[32:])
    assert confirmations(chan, CTX2, 7, 3, digest) == (both[32:], both[:32])


def test_a_confirmation_binds_set_context_sender_receiver_and_channel():
    chan, digest = b"k" * 32, b"set" * 8
    words = [
        *confirmations(chan, CTX2, 0, 1, digest),
        *confirmations(chan, CTX2, 0, 2, digest),
        *confirmations(chan, CTX2, 0, 1, b"sit" * 8),
        *confirmations(chan, CTX1, 0, 1, digest),
        *confirmations(b"l" * 32, CTX2, 0, 1, digest),
    ]

    assert len(set(words)) == 10


def test_no_secret_is_in_a_repr():
    channels = channels_of(0)
    texts = repr(channels) + repr(CHANNEL[0])

    assert channels.key(1).hex() not in texts
    assert repr(channels.key(1)) not in texts
    assert repr(CHANNEL[0].secret) not in texts
