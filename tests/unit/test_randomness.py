"""The two sources of secret randomness."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secure_frl.errors import InvalidParameter
from secure_frl.randomness import CipherStream, rehearsal_source, system_source


def test_stream_is_aes_256_in_counter_mode_over_zeros() -> None:
    key = bytes(range(32))
    expected = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(200_000))

    stream = CipherStream(key, is_rehearsal=True)
    taken = b"".join(stream.take(count) for count in (1, 15, 70_000, 0, 129_984))

    assert taken == expected


def test_the_first_block_is_the_published_one() -> None:
    # The first counter block is zero: AES-256 of the zero block under the zero key, as in the GCM specification
    # (McGrew and Viega 2005, test case 13, its value H).
    stream = CipherStream(bytes(32), is_rehearsal=True)

    assert stream.take(16).hex() == "dc95c078a2408989ad48a21492842087"


def test_words_are_little_endian_and_continue_the_bytes() -> None:
    by_bytes, by_words = rehearsal_source(1, "a"), rehearsal_source(1, "a")

    words = by_words.words(3)

    assert words.dtype == np.uint64
    assert words.tolist() == [int.from_bytes(by_bytes.take(8), "little") for _ in range(3)]


def test_rehearsals_repeat_and_differ_by_seed_and_purpose() -> None:
    first = rehearsal_source(7, "site", "3").take(32)

    assert rehearsal_source(7, "site", "3").take(32) == first
    assert rehearsal_source(8, "site", "3").take(32) != first
    assert rehearsal_source(7, "site", "4").take(32) != first
    assert rehearsal_source(7, "site").take(32) != first


def test_only_the_rehearsal_source_says_that_it_is_one() -> None:
    assert rehearsal_source(0).is_rehearsal
    assert not system_source().is_rehearsal


def test_two_system_sources_never_repeat_each_other() -> None:
    assert system_source().take(32) != system_source().take(32)


def test_repr_shows_no_key_and_no_keystream() -> None:
    stream = CipherStream(bytes(32), is_rehearsal=False)
    stream.take(16)

    assert repr(stream) == "CipherStream(is_rehearsal=False)"


def test_a_short_key_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="32 bytes, got 16"):
        CipherStream(bytes(16), is_rehearsal=True)
