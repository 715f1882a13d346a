"""A site's half: what it sends, and that it opens nothing but the sum of the named sites."""

from __future__ import annotations

import os
import signal

import pytest
import tenseal

from secure_frl.ckks.ciphertexts import encrypt, open_sum
from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.ckks.envelopes import pack_chunks, unpack_chunks
from secure_frl.ckks.lattice import RESIDUAL_LIMIT
from secure_frl.ckks.worker import Limits, Worker
from secure_frl.encoding.slots import plan_chunks
from secure_frl.errors import DecryptionFailed

REFUSED = "expected the encrypted sum of the named sites, got other ciphertexts. Discard this round."


def test_one_vector_is_encrypted_to_other_bytes_each_time(small, site_worker, vector) -> None:
    words = vector(small, 5)

    one, two = (encrypt(words, small, site_worker) for _ in range(2))

    assert one != two
    blocks = [{body[at : at + 16] for at in range(200, len(body) - 16, 16)} for body in (one, two)]
    assert len(blocks[0] & blocks[1]) < 10  # chance and compression's own words
    for body in (one, two):
        assert open_sum(body, small, 1, site_worker).tolist() == words.tolist()


def test_a_vector_is_not_found_in_what_is_sent(small, site_worker, vector) -> None:
    words = vector(small, 5)
    body = encrypt(words, small, site_worker)

    for form in (words, words.astype("<i8"), words.astype("<f4"), words.astype("<f8")):
        data = form.tobytes()
        assert not [at for at in range(0, 800, 8) if data[at : at + 8] in body]


def test_everything_else_is_refused_with_the_same_words(small, bodies, site_worker, key) -> None:
    def shifted(steps: float) -> bytes:
        """Return body 0 with something added to every value, as a coordinator can; the marks stay what they were."""
        context = tenseal.context_from(key.context)
        vectors = [tenseal.ckks_vector_from(context, bytes(chunk)) for chunk in unpack_chunks(bodies[0], small)]
        return pack_chunks([vector.add([0.0, 0.0, *[steps / 2**20] * 2046]).serialize() for vector in vectors])

    one, two = (bytes(chunk) for chunk in unpack_chunks(bodies[0], small))
    other = bytes(unpack_chunks(bodies[1], small)[1])
    cases = {
        "nothing": (b"", 1),
        "chunks swapped": (pack_chunks([two, one]), 1),
        "a chunk twice": (pack_chunks([one, one]), 1),
        "one site's vector as the sum of two": (bodies[0], 2),
        "a third of a step added": (shifted(1 / 3), 1),
        "no ciphertext inside": (pack_chunks([one[:40] + bytes(len(one) - 49) + one[-9:], two]), 1),
    }
    for name, (body, contributors) in cases.items():
        with pytest.raises(DecryptionFailed) as caught:
            open_sum(body, small, contributors, site_worker)
        assert str(caught.value) == REFUSED, name
    # Chunks of two vectors that stand in their places are a vector that nobody sent. Only the sender's tag over its
    # whole body tells: the sum of one site cannot.
    assert open_sum(pack_chunks([one, other]), small, 1, site_worker) is not None


def test_a_chunk_of_another_site_inside_a_sum_shows_in_no_mark_but_a_missing_one_does(
    small, bodies, site_worker, coordinator_worker
) -> None:
    total = EncryptedSum(small, b"k" * 32, coordinator_worker)
    for site in range(2):
        total.add(site, b"k" * 32, bodies[site])
    first = bytes(unpack_chunks(total.body, small)[0])
    second = bytes(unpack_chunks(bodies[0], small)[1])

    with pytest.raises(DecryptionFailed):
        open_sum(pack_chunks([first, second]), small, 2, site_worker)


def test_noise_of_a_hundred_sites_stays_far_below_the_limit(key) -> None:
    """The deviation that the limit was derived from, measured: 3.2 sqrt(n N / 2) / 2^20 = .00138 for n = 100."""
    context = tenseal.context_from(key.context)
    total = tenseal.ckks_vector(context, [0.0] * 2048)
    for _ in range(99):
        total.add_(tenseal.ckks_vector(context, [0.0] * 2048))

    slots = [value * 2**20 for value in total.decrypt()]

    deviation = (sum(value * value for value in slots) / 2048) ** 0.5
    assert 0.5 < deviation / (3.2 * (100 * 2048) ** 0.5 / 2**20) < 2
    assert max(map(abs, slots)) < RESIDUAL_LIMIT / 25


def test_a_plan_of_another_size_opens_nothing(small, bodies, site_worker) -> None:
    with pytest.raises(DecryptionFailed):
        open_sum(bodies[0], plan_chunks(sites=3, length=10, modulus_bits=30), 1, site_worker)


def test_a_site_s_worker_that_died_while_nobody_asked_it_is_replaced(small, bodies, key, vector) -> None:
    with Worker(Limits(address_bytes=1 << 30), key.context) as worker:
        for _ in range(2):
            words = vector(small, 0)
            assert open_sum(encrypt(words, small, worker), small, 1, worker).tolist() == words.tolist()
            assert worker.process_id is not None
            os.kill(worker.process_id, signal.SIGKILL)
            os.waitid(os.P_PID, worker.process_id, os.WEXITED | os.WNOWAIT)
        assert open_sum(bodies[0], small, 1, worker).tolist() == vector(small, 0).tolist()
