"""Real workers: one that a site would have, with a key, and one of a coordinator, without. Both outlive the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from blind_federation import Federations

from secure_frl.ckks.ciphertexts import encrypt
from secure_frl.ckks.keys import EpochKey, make_key
from secure_frl.ckks.worker import Limits, Worker
from secure_frl.encoding import ring
from secure_frl.encoding.slots import ChunkPlan, plan_chunks
from secure_frl.secure_sum import Words

ROOMY = Limits(address_bytes=1 << 30)


@pytest.fixture(scope="session")
def key() -> EpochKey:
    """A key as a steward makes it."""
    with Worker(ROOMY) as steward:
        return make_key(steward, b"\x07" * 32)


@pytest.fixture(scope="session")
def site_worker(key: EpochKey) -> Iterator[Worker]:
    with Worker(ROOMY, key.context) as worker:
        yield worker


@pytest.fixture(scope="session")
def coordinator_worker() -> Iterator[Worker]:
    with Worker(ROOMY) as worker:
        yield worker


@pytest.fixture(scope="session")
def federations() -> Iterator[Federations]:
    """Return a function: n, protection, changed constants -> a federation in an open epoch, its next round free."""
    made = Federations()
    yield made
    made.close()


@pytest.fixture(scope="session")
def small() -> ChunkPlan:
    """Three sites, one limb, two chunks."""
    return plan_chunks(sites=3, length=2100, modulus_bits=30)


@pytest.fixture(scope="session")
def vector() -> Callable[..., Words]:
    """Return a function: plan, seed or "lowest" or "highest" -> words of its ring."""

    def made(plan: ChunkPlan, how: int | str) -> Words:
        kind = ring.word_type(plan.modulus_bits)
        if isinstance(how, str):  # the least value is -2^(b-1) in the slots of every limb, the greatest 2^(b-1) - 1
            half = 1 << (plan.modulus_bits - 1)
            return np.full(plan.words, half if how == "lowest" else half - 1, kind)
        return np.random.default_rng(how).integers(0, 1 << plan.modulus_bits, plan.words, np.uint64).astype(kind)

    return made


@pytest.fixture(scope="session")
def bodies(small: ChunkPlan, site_worker: Worker, vector: Callable[..., Words]) -> list[bytes]:
    """What three honest sites send: vectors of seeds 0, 1 and 2 under the plan `small`."""
    return [encrypt(vector(small, seed), small, site_worker) for seed in range(3)]
