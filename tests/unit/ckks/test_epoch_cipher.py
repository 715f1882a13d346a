"""An epoch's key at work: one worker for the newest key, failures that count, nothing secret to be seen."""

from __future__ import annotations

import os
import signal

import pytest

from secure_frl.ckks.epoch_cipher import MOST_FAILURES, EpochCipher, SiteWorkers
from secure_frl.ckks.keys import EpochKey
from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Limits, Worker
from secure_frl.errors import DecryptionFailed, KeySuspect

ROOMY = Limits(address_bytes=1 << 30)


@pytest.fixture
def cipher(key: EpochKey, small, site_worker: Worker) -> EpochCipher:
    return EpochCipher(key, small, site_worker)


def test_words_come_back_and_the_key_is_the_epochs(cipher, key, small, vector):
    words = vector(small, 1)
    one, two = cipher.encrypt(words), cipher.encrypt(words)

    assert cipher.key_id == key.key_id
    assert one != two
    assert cipher.open_sum(one, 1).tolist() == words.tolist()


def test_three_failures_make_the_key_suspect_and_nothing_takes_them_back(cipher, small, vector):
    body = cipher.encrypt(vector(small, 1))
    for count in range(MOST_FAILURES):
        cipher.check_trusted()
        with pytest.raises(DecryptionFailed):
            cipher.open_sum(body, 2)
        cipher.note_failure()
        assert cipher.failures == count + 1

    assert MOST_FAILURES == 3
    assert cipher.open_sum(body, 1).tolist() == vector(small, 1).tolist()
    with pytest.raises(KeySuspect):
        cipher.check_trusted()


def test_a_worker_that_dies_is_a_sum_that_does_not_open_and_the_next_one_opens(key, small, vector):
    workers = SiteWorkers(ROOMY)
    try:
        cipher = EpochCipher(key, small, workers.holding(key.context))
        body = cipher.encrypt(vector(small, 1))
        os.kill(cipher.worker.process_id, signal.SIGKILL)
        with pytest.raises(DecryptionFailed):
            cipher.open_sum(body, 1)
        assert cipher.open_sum(body, 1).tolist() == vector(small, 1).tolist()
    finally:
        workers.close()


def test_a_new_key_ends_the_worker_of_the_old_one_and_one_key_has_one_worker(key):
    workers = SiteWorkers(ROOMY)
    try:
        first = workers.holding(key.context)
        assert workers.holding(key.context) is first
        first.ask(Op.DROP)
        assert first.process_id is not None
        maker = workers.fresh()
        other = maker.ask(Op.MAKE_KEY)
        maker.close()

        second = workers.holding(other)

        assert second is not first
        assert first.process_id is None
        second.ask(Op.DROP)
    finally:
        workers.close()
    assert second.process_id is None
    assert workers._context == b""
    workers.close()


def test_no_repr_shows_key_or_secret(cipher, key):
    workers = SiteWorkers(ROOMY)
    workers.holding(key.context)
    shown = repr(cipher) + repr(workers) + repr(workers.holding(key.context)) + repr(cipher.key)

    for secret in (key.context, key.site_secret):
        assert secret.hex()[:64] not in shown
        assert repr(secret)[2:40] not in shown
