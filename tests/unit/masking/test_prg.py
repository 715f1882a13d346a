"""Mask words against the design's fixed points and NIST SP 800-38A; the control adds nothing."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from drawn_schedules import examples
from hypothesis import example, given
from hypothesis import strategies as st

from secure_frl.errors import CharterRefused
from secure_frl.masking import prg
from secure_frl.masking.prg import NoMasks, PairwiseMasks, mask_adder

NIST_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")


def mask(key: bytes, words: int) -> np.ndarray:
    accumulator = np.zeros(words, np.uint32)
    PairwiseMasks(words).add_(accumulator, key, +1)
    return accumulator


def electronic_codebook(block: bytes) -> bytes:
    return Cipher(algorithms.AES(NIST_KEY), modes.ECB()).encryptor().update(block)


def test_the_cipher_is_that_of_nist():
    # SP 800-38A, F.1.5 and F.5.5, first block
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")
    counter = Cipher(algorithms.AES(NIST_KEY), modes.CTR(bytes(range(0xF0, 0x100)))).encryptor()

    assert electronic_codebook(plain).hex() == "f3eed1bdb5d2a03c064b5a7e3db181f8"
    assert counter.update(plain).hex() == "601ec313775789a5b7a7f504bbf3d228"


def test_words_of_64_bits_read_the_same_stream():
    blocks = b"".join(electronic_codebook(number.to_bytes(16, "big")) for number in range(300))
    wide = np.zeros(599, np.uint64)
    PairwiseMasks(599, 33).add_(wide, NIST_KEY, -1)

    assert (-wide).tolist() == np.frombuffer(blocks, "<u8")[:599].tolist()


def test_a_mask_is_the_encrypted_counter_from_zero():
    blocks = b"".join(electronic_codebook(number.to_bytes(16, "big")) for number in range(300))

    assert mask(NIST_KEY, 1200).tolist() == np.frombuffer(blocks, "<u4").tolist()


@pytest.mark.parametrize(
    ("purpose", "words"),
    [
        ("pair", ["4c257cb5", "72bbf89f", "17403555", "7c96b521"]),
        ("self", ["fb12f4ec", "c4837879", "1179158a", "61f82cc1"]),
    ],
)
def test_mask_words_are_those_of_the_design(purpose, words):
    # secure_aggregation.md, section 9; test_keys.py shows the first half of these keys against the same table
    from secure_frl.masking.contexts import attempt_context, epoch_hash, mask_context, members_hash, session_id
    from secure_frl.masking.keys import KeyPair, pair_key, self_key
    from secure_frl.wire.hashing import labelled_hash
    from secure_frl.wire.records import Member, pack_members

    channel = [KeyPair.from_secret(bytes([0x11 + i]) * 32).public for i in range(3)]
    masks = [KeyPair.from_secret(bytes([0x21 + i]) * 32) for i in range(3)]
    session = session_id(b"charter")
    epoch = epoch_hash(session, 1, [(i, channel[i], b"") for i in range(3)], KeyPair.from_secret(b"\x1f" * 32).public)
    ctx1 = attempt_context(session, epoch, 1, 0, (0, 1, 2))
    members = [Member(i, masks[i].public, labelled_hash("b-commit", ctx1, i, bytes([0x31 + i]) * 32)) for i in range(3)]
    ctx2 = mask_context(ctx1, b"\x44" * 32, b"\x55" * 32, members_hash(pack_members(members)))
    key = pair_key(masks[0], masks[1].public, ctx2, 0, 1) if purpose == "pair" else self_key(b"\x31" * 32, ctx2, 0)

    assert [f"{word:08x}" for word in mask(key, 4)] == words


@pytest.mark.parametrize("words", [1, 3, 4, 5, 4095, 4096, 4097, 10_001])
def test_chunks_join_without_a_seam(monkeypatch, words):
    whole = mask(NIST_KEY, words)
    monkeypatch.setattr(prg, "_CHUNK_BYTES", 4096)

    assert mask(NIST_KEY, words).tolist() == whole.tolist()


@pytest.mark.parametrize("bits", [24, 32, 33, 64])
@pytest.mark.parametrize("words", [1, 3, 4, 7, 8, 9, 1023, 4101])
def test_a_stream_through_gcm_has_the_words_of_counter_mode(monkeypatch, words, bits):
    kind = np.uint32 if bits <= 32 else np.uint64
    keys = [NIST_KEY, bytes(range(32)), bytes(32)]
    found = {}
    for is_faster in (False, True):
        monkeypatch.setattr(prg, "is_gcm_faster", lambda answer=is_faster: answer)
        monkeypatch.setattr(prg, "_LONG_BYTES", 0)
        monkeypatch.setattr(prg, "_CHUNK_BYTES", 1024)
        found[is_faster] = np.zeros(words, kind)
        PairwiseMasks(words, bits).add_all_(found[is_faster], [(key, 1) for key in keys])

    assert found[True].tolist() == found[False].tolist()
    stream = Cipher(algorithms.AES(keys[0]), modes.CTR(bytes(16))).encryptor().update(bytes(8 * words + 16))
    alone = np.zeros(words, kind)  # still through GCM: against the library's counter mode itself
    PairwiseMasks(words, bits).add_(alone, keys[0], 1)
    assert alone.tolist() == np.frombuffer(stream, kind, count=words).tolist()


@given(
    words=st.integers(1, 3000),
    bits=st.sampled_from([24, 32, 33, 64]),
    chunk=st.sampled_from([64, 256, 1024, 4096]),
    signs=st.lists(st.sampled_from([-1, 1]), min_size=1, max_size=4),
    is_long=st.booleans(),
)
@example(words=1025, bits=64, chunk=64, signs=[-1, 1, 1], is_long=True)
@examples(60)
def test_16_every_word_of_a_sum_of_masks_is_that_of_their_streams_wherever_they_are_cut(
    words, bits, chunk, signs, is_long
):
    kind = np.dtype("<u4" if bits <= 32 else "<u8")
    keys = [bytes([number + 1]) * 32 for number in range(len(signs))]
    expected = np.zeros(words, kind)
    for key, sign in zip(keys, signs, strict=True):
        stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(words * kind.itemsize))
        expected += kind.type(sign % 2 ** (8 * kind.itemsize)) * np.frombuffer(stream, kind)

    found = np.zeros(words, kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prg, "_CHUNK_BYTES", chunk)
        patch.setattr(prg, "_LONG_BYTES", 0 if is_long else 1 << 19)
        patch.setattr(prg, "is_gcm_faster", lambda: True)
        PairwiseMasks(words, bits).add_all_(found, list(zip(keys, signs, strict=True)))

    assert found.tolist() == expected.tolist()


def test_both_ways_are_measured():
    assert prg.is_gcm_faster() in (True, False)


def test_many_masks_at_once_are_the_same_as_one_after_the_other(monkeypatch):
    monkeypatch.setattr(prg, "_CHUNK_BYTES", 4096)
    keys = [bytes([number]) * 32 for number in range(131)]  # more than are open at once, twice over
    signed = [(key, 1 if number % 3 else -1) for number, key in enumerate(keys)]
    together, apart = np.zeros(3001, np.uint32), np.zeros(3001, np.uint32)

    PairwiseMasks(3001).add_all_(together, iter(signed))

    for key, sign in signed:
        apart += np.uint32(sign % 2**32) * mask(key, 3001)
    assert together.tolist() == apart.tolist()


def test_a_mask_added_and_subtracted_is_gone():
    start = np.arange(1001, dtype=np.uint32) * np.uint32(4_000_037)
    vector = start.copy()
    adder = PairwiseMasks(1001)
    adder.add_(vector, NIST_KEY, +1)
    assert (vector != start).mean() > 0.99

    adder.add_(vector, NIST_KEY, -1)

    assert vector.tolist() == start.tolist()


def test_only_the_charter_leaves_masks_out(make_constants):
    words = np.arange(21, dtype=np.uint32)
    plain = mask_adder(make_constants(3, protection="unsafe-plain"))
    plain.add_(words, NIST_KEY, +1)

    assert isinstance(plain, NoMasks)
    assert words.tolist() == list(range(21))
    assert isinstance(mask_adder(make_constants(3)), PairwiseMasks)
    with pytest.raises(CharterRefused):
        mask_adder(make_constants(3, protection="plain"))
