"""Ten thousand ciphertexts that no honest site makes: each puts its sender out, or is a vector of its sender's choice.

Every mutant is what an insider could send: its frame's tag would be right. It is mutated in the outer form, in SEAL's
header, in the compressed words, or in what these unpack to, which is packed again; and it is made a bomb. A mutant that
was taken spoils its round, as any garbage of an insider does, and every site sees that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow
import pytest
from ciphertext_families import FAMILIES, FIELDS_BYTES, repacked, unpacked, wrapped

from secure_frl.ckks.ciphertexts import encrypt, open_sum
from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.ckks.envelopes import pack_chunks, unpack_chunks
from secure_frl.ckks.keys import make_key
from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Limits, Worker
from secure_frl.encoding.slots import ChunkPlan, plan_chunks
from secure_frl.errors import CiphertextRefused, DecryptionFailed, EnvelopeRefused

pytestmark = pytest.mark.campaign

MUTANTS = 12_000
LIMITS = Limits(address_bytes=1 << 29, cpu_s=2)
KEY_ID = b"k" * 32
SEED = 20


def mutants(random: np.random.Generator, honest: list[bytes]) -> Iterator[tuple[str, bytes]]:
    names = list(FAMILIES)
    weights = np.array([FAMILIES[name][0] for name in names], float)
    for name in random.choice(names, MUTANTS, p=weights / weights.sum()):
        one, other = (honest[int(at)] for at in random.choice(len(honest), 2, replace=False))
        yield str(name), FAMILIES[name][1](random, one, other)


def test_packing_again_changes_nothing() -> None:
    with Worker(LIMITS) as steward:
        context = make_key(steward, bytes(32)).context
    with Worker(LIMITS, context) as site:
        honest = site.ask(Op.ENCRYPT, bytes(16_384))
        assert site.ask(Op.DECRYPT, repacked(unpacked(honest))) == bytes(16_384)


def test_words_that_unpack_to_more_than_the_worker_may_hold_put_their_site_out() -> None:
    """A gigabyte of zeros in the form of an honest chunk, under a limit of half of it."""
    plan = plan_chunks(sites=3, length=30, modulus_bits=30)
    with Worker(LIMITS) as steward:
        context = make_key(steward, bytes(32)).context
    with Worker(LIMITS, context) as site, Worker(LIMITS) as coordinator:
        vectors = [np.full(plan.words, site_id, np.uint32) for site_id in range(2)]
        honest = [encrypt(words, plan, site) for words in vectors]
        start = unpacked(bytes(unpack_chunks(honest[0], plan)[0]))
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(start[:FIELDS_BYTES] + np.random.default_rng(SEED).bytes(20_000))
            for _ in range(1024):
                stream.write(bytes(1 << 20))
        packed = sink.getvalue().to_pybytes()

        assert one_round(plan, honest, vectors, wrapped(packed), coordinator, site) == "refused by the worker"


def test_no_mutant_ends_a_coordinator_or_changes_the_sum_of_the_others() -> None:
    plan = plan_chunks(sites=3, length=30, modulus_bits=30)
    random, seen, deaths = np.random.default_rng(SEED), Counter[tuple[str, str]](), 0
    with Worker(LIMITS) as steward:
        context = make_key(steward, bytes(32)).context
    with Worker(LIMITS, context) as site, Worker(LIMITS) as coordinator:
        vectors = [random.integers(0, 1 << 30, plan.words, np.uint64).astype(np.uint32) for _ in range(6)]
        honest = [encrypt(words, plan, site) for words in vectors]
        chunks = [bytes(unpack_chunks(body, plan)[0]) for body in honest]
        coordinator.ask(Op.CLEAR)
        before = coordinator.process_id
        for name, mutant in mutants(random, chunks[2:]):
            outcome = one_round(plan, honest, vectors, mutant, coordinator, site)
            seen[name, outcome] += 1
            deaths, before = deaths + (coordinator.process_id != before), coordinator.process_id

    print(f"\nseed {SEED}, {MUTANTS} mutants, workers that died: {deaths}")
    for (name, outcome), count in sorted(seen.items()):
        print(f"  {name:18} {outcome:40} {count:6}")
    assert sum(seen.values()) >= 10_000
    assert {name for name, _ in seen} == set(FAMILIES)
    assert sum(count for (_, outcome), count in seen.items() if outcome == "refused by the worker") > 1000


def one_round(
    plan: ChunkPlan, honest: list[bytes], vectors: list[np.ndarray], mutant: bytes, coordinator: Worker, site: Worker
) -> str:
    """Add site 0, the mutant as site 1, site 2; return what became of the mutant."""
    total = EncryptedSum(plan, KEY_ID, coordinator)
    coordinator.ask(Op.CLEAR)
    coordinator.holds = total  # else each sum begins in a new process, and no mutant follows on another
    total.add(0, KEY_ID, honest[0])
    try:
        total.add(1, KEY_ID, pack_chunks([mutant]))
        outcome = "taken"
    except EnvelopeRefused:
        outcome = "refused by its form"
    except CiphertextRefused:
        outcome = "refused by the worker"
    total.add(2, KEY_ID, honest[1])
    others = (vectors[0] + vectors[1]) & np.uint32((1 << 30) - 1)
    if outcome != "taken":
        assert total.contributors == (0, 2)
        assert open_sum(total.body, plan, 2, site).tolist() == others.tolist()
        return outcome
    try:
        opened = open_sum(total.body, plan, 3, site)
    except DecryptionFailed:
        return "taken, and every site refuses the sum"
    chosen = (opened - others) & np.uint32((1 << 30) - 1)
    assert any((chosen == words).all() for words in vectors[2:]), "a vector that nobody made"
    return "taken: the vector it was made of"
