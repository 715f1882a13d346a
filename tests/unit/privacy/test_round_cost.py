"""What a plan says of a round's bytes, beside real ciphertexts."""

from __future__ import annotations

import numpy as np
import pytest
from sum_events import sum_constants

from secure_frl.ckks.ciphertexts import encrypt
from secure_frl.ckks.keys import make_key
from secure_frl.ckks.worker import Worker, limits_for
from secure_frl.encoding.ring import word_type
from secure_frl.privacy.round_cost import ciphertext_plan, cost, costs


@pytest.mark.parametrize(("modulus_bits", "ciphertexts"), [(29, 2), (34, 4)])  # ten sites: limbs of 29 bits
def test_the_bytes_of_an_encrypted_upload_are_those_of_real_ciphertexts(modulus_bits: int, ciphertexts: int) -> None:
    constants = sum_constants(3427, modulus_bits=modulus_bits)
    chunks = ciphertext_plan(constants)
    words = np.random.default_rng(0).integers(0, 1 << modulus_bits, chunks.words, np.uint64)
    with Worker(limits_for(chunks)) as steward:
        key = make_key(steward, bytes(32))
    with Worker(limits_for(chunks), key.context) as site:
        body = encrypt(words.astype(word_type(modulus_bits)), chunks, site)

    planned = cost(constants, "ckks", 100)

    assert len(key.context) < 66_400  # what the module says of a package
    assert planned.ciphertexts == ciphertexts
    assert planned.upload_bytes == pytest.approx(len(body), rel=0.02)


def test_masks_are_paid_for_beside_ciphertexts_and_no_shares_without_them() -> None:
    masking, ckks, both = costs(sum_constants(3427), 100)

    assert [one.protection for one in (masking, ckks, both)] == ["masking", "ckks", "ckks+masking"]
    assert masking.upload_bytes > 4 * 3427
    assert ckks.upload_bytes == ckks.download_bytes
    assert both.upload_bytes - ckks.upload_bytes == 9 * 330  # nine neighbours' keys and shares
    assert both.download_bytes - both.upload_bytes == 4 * (3427 + 4)  # the masks that are left in the sum
    assert masking.round_seconds < ckks.round_seconds < both.round_seconds


def test_cross_device_is_offered_masking_only() -> None:
    constants = sum_constants(profile="cross_device", sites=1000, neighbours=88)

    assert [one.protection for one in costs(constants, 100)] == ["masking"]
