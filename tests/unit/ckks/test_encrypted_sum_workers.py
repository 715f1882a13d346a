"""A sum of ciphertexts outlives its worker: one that dies, is taken over, refuses or is interrupted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator

import pytest
from plain_sums import KEY_ID, ROOMY, modular_sum

from secure_frl.ckks.ciphertexts import open_sum
from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Limits, Worker
from secure_frl.errors import CiphertextRefused


class Fragile(Worker):
    """A worker whose real process is killed before chosen requests: (operation, how many of them went before)."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.fatal: list[tuple[Op, int]] = []
        self.seen: dict[Op, int] = {}

    def ask_each(self, op: Op, payloads: Iterable[bytes | memoryview]) -> list[bytes]:
        def fatal() -> Iterator[bytes | memoryview]:
            for payload in payloads:
                number = self.seen.get(op, 0)
                self.seen[op] = number + 1
                if (op, number) in self.fatal and self.process_id is not None:
                    os.kill(self.process_id, signal.SIGKILL)
                yield payload

        return super().ask_each(op, fatal())


@pytest.mark.parametrize("at", [(Op.DROP, 0), (Op.STAGE, 2), (Op.STAGE, 3), (Op.COMMIT, 1), (Op.SAVE, 2), (Op.SAVE, 3)])
def test_a_worker_that_dies_once_loses_nobody(at: tuple[Op, int], small, bodies, site_worker, vector) -> None:
    with Fragile(ROOMY) as worker:
        worker.fatal = [at]  # while the second of three sites is added
        total = EncryptedSum(small, KEY_ID, worker)
        for site, body in enumerate(bodies):
            total.add(site, KEY_ID, body)

    expected = modular_sum([vector(small, seed) for seed in range(3)], 30)
    assert open_sum(total.body, small, 3, site_worker).tolist() == expected


def test_ciphertexts_over_which_workers_die_put_their_site_out(small, bodies, site_worker, vector) -> None:
    with Fragile(ROOMY) as worker:
        total = EncryptedSum(small, KEY_ID, worker)
        total.add(0, KEY_ID, bodies[0])
        worker.fatal = [(Op.STAGE, 3), (Op.STAGE, 7)]  # 2 and 3 are site 1's; 4 and 5 the sum again; 6 and 7 site 1's
        with pytest.raises(CiphertextRefused, match="site 1 ended the worker 2 times"):
            total.add(1, KEY_ID, bodies[1])
        total.add(2, KEY_ID, bodies[2])

    assert total.contributors == (0, 2)
    expected = modular_sum([vector(small, 0), vector(small, 2)], 30)
    assert open_sum(total.body, small, 2, site_worker).tolist() == expected


def test_a_worker_that_died_while_nobody_asked_it_is_replaced(small, bodies, site_worker, vector) -> None:
    with Worker(ROOMY) as worker:
        EncryptedSum(small, KEY_ID, worker).add(0, KEY_ID, bodies[0])  # an earlier round's
        assert worker.process_id is not None
        os.kill(worker.process_id, signal.SIGKILL)
        os.waitid(os.P_PID, worker.process_id, os.WEXITED | os.WNOWAIT)
        total = EncryptedSum(small, KEY_ID, worker)
        total.add(1, KEY_ID, bodies[1])

    assert open_sum(total.body, small, 1, site_worker).tolist() == modular_sum([vector(small, 1)], 30)


class Sulking(Worker):
    """A worker whose process, taken over by a contribution, refuses requests of one kind as long as it lives."""

    refuses: Op | None = None
    sulking: int | None = None

    def ask_each(self, op: Op, payloads: Iterable[bytes | memoryview]) -> list[bytes]:
        if op == self.refuses and self.process_id == self.sulking is not None:
            raise CiphertextRefused("as it likes")
        return super().ask_each(op, payloads)


@pytest.mark.parametrize("op", [Op.DROP, Op.STAGE])
def test_a_worker_that_was_taken_over_ends_with_its_sum(op: Op, small, bodies, site_worker, vector) -> None:
    with Sulking(ROOMY) as worker:
        last = EncryptedSum(small, KEY_ID, worker)
        last.add(0, KEY_ID, bodies[0])
        worker.refuses, worker.sulking = op, worker.process_id
        total = EncryptedSum(small, KEY_ID, worker)
        for site, body in enumerate(bodies):
            total.add(site, KEY_ID, body)

    expected = modular_sum([vector(small, seed) for seed in range(3)], 30)
    assert open_sum(total.body, small, 3, site_worker).tolist() == expected


@pytest.mark.parametrize("op", [Op.DROP, Op.CLEAR])
def test_a_worker_that_refuses_the_sum_itself_is_replaced(op: Op, small, bodies, site_worker, vector) -> None:
    with Sulking(ROOMY) as worker:
        total, other = EncryptedSum(small, KEY_ID, worker), EncryptedSum(small, KEY_ID, worker)
        total.add(0, KEY_ID, bodies[0])
        if op == Op.CLEAR:
            other.add(2, KEY_ID, bodies[2])
        worker.refuses, worker.sulking = op, worker.process_id
        total.add(1, KEY_ID, bodies[1])

    expected = modular_sum([vector(small, seed) for seed in range(2)], 30)
    assert open_sum(total.body, small, 2, site_worker).tolist() == expected


class TakenOver(Worker):
    """A worker that answers chosen requests for the sum with something else, as one that a contribution took over."""

    lies: tuple[int, ...] = ()
    saved = 0

    def ask_each(self, op: Op, payloads: Iterable[bytes | memoryview]) -> list[bytes]:
        replies = super().ask_each(op, payloads)
        self.saved += op == Op.SAVE
        return [reply[:-1] for reply in replies] if op == Op.SAVE and self.saved in self.lies else replies


@pytest.mark.parametrize(("lies", "contributors"), [((2,), (0, 1, 2)), ((2, 3), (0, 2))])
def test_a_worker_that_answers_with_no_ciphertexts_is_not_asked_again(
    lies: tuple[int, ...], contributors: tuple[int, ...], small, bodies, site_worker, vector
) -> None:
    with TakenOver(ROOMY) as worker:
        worker.lies, total = lies, EncryptedSum(small, KEY_ID, worker)
        total.add(0, KEY_ID, bodies[0])
        before = worker.process_id
        try:
            total.add(1, KEY_ID, bodies[1])
        except CiphertextRefused:
            assert contributors == (0, 2)
        total.add(2, KEY_ID, bodies[2])
        assert worker.process_id != before

    assert total.contributors == contributors
    expected = modular_sum([vector(small, seed) for seed in contributors], 30)
    assert open_sum(total.body, small, len(contributors), site_worker).tolist() == expected


class Interrupted(Worker):
    """A worker whose caller is interrupted once, while an answer is under way."""

    at: Op | None = None

    def ask_each(self, op: Op, payloads: Iterable[bytes | memoryview]) -> list[bytes]:
        def interrupted() -> Iterator[bytes | memoryview]:
            yield from payloads
            if op == self.at:
                self.at = None
                raise KeyboardInterrupt

        return super().ask_each(op, interrupted())


@pytest.mark.parametrize("at", [Op.DROP, Op.STAGE, Op.COMMIT, Op.SAVE])
def test_an_addition_that_was_interrupted_leaves_no_trace(at: Op, small, bodies, site_worker, vector) -> None:
    with Interrupted(ROOMY) as worker:
        total = EncryptedSum(small, KEY_ID, worker)
        total.add(0, KEY_ID, bodies[0])
        worker.at = at
        with pytest.raises(KeyboardInterrupt):
            total.add(1, KEY_ID, bodies[1])
        total.add(2, KEY_ID, bodies[2])

    expected = modular_sum([vector(small, 0), vector(small, 2)], 30)
    assert open_sum(total.body, small, 2, site_worker).tolist() == expected
