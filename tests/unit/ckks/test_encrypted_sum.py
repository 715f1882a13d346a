"""The running sum: exact at both ends of the range, blind, and whole after every contribution that was none."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tenseal
from plain_sums import KEY_ID, ROOMY, modular_sum
from tenseal import sealapi

from secure_frl.ckks.ciphertexts import encrypt, open_sum
from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.ckks.envelopes import check_chunk, pack_chunks, unpack_chunks
from secure_frl.ckks.requests import Op
from secure_frl.ckks.worker import Worker
from secure_frl.encoding.slots import SLOTS, ChunkPlan, plan_chunks, to_slots
from secure_frl.errors import (
    BitBudget,
    CiphertextRefused,
    EnvelopeRefused,
    KeyRefused,
    LocalProtocolError,
    UnexpectedMessage,
    UnexpectedState,
)
from secure_frl.masking.keys import KeyPair, pair_key, self_key
from secure_frl.masking.prg import PairwiseMasks


@pytest.mark.parametrize("how", ["lowest", "highest", "uniform"])
@pytest.mark.parametrize(("sites", "modulus_bits"), [(3, 31), (10, 64), (16, 29), (100, 26)])
def test_the_sum_is_exact_at_both_ends_of_the_range_and_between(
    sites: int, modulus_bits: int, how: str, site_worker, coordinator_worker, vector
) -> None:
    """Every limb but a last one at its greatest width; 16 sites meet the bound with equality."""
    plan = plan_chunks(sites=sites, length=200, modulus_bits=modulus_bits)
    vectors = [vector(plan, seed if how == "uniform" else how) for seed in range(sites)]
    total = EncryptedSum(plan, KEY_ID, coordinator_worker)

    for site, words in enumerate(vectors):
        total.add(site, KEY_ID, encrypt(words, plan, site_worker))

    assert open_sum(total.body, plan, sites, site_worker).tolist() == modular_sum(vectors, modulus_bits)


def test_control_one_bit_beyond_wraps_without_a_sign_and_a_plan_of_it_is_refused(
    site_worker, coordinator_worker
) -> None:
    """16 sites at -2^(b-1): the library's sum at 29 bits is right, at 30 bits every slot is wrong and looks fine."""

    def summed(bits: int) -> np.ndarray:
        slots = np.full(SLOTS, -(1 << (bits - 1)), np.int64)
        coordinator_worker.holds = None
        coordinator_worker.ask(Op.CLEAR)
        for _ in range(16):
            coordinator_worker.ask(Op.STAGE, site_worker.ask(Op.ENCRYPT, slots.tobytes()))
            coordinator_worker.ask(Op.COMMIT)
        return np.frombuffer(site_worker.ask(Op.DECRYPT, coordinator_worker.ask(Op.SAVE, bytes(4))), "<i8")

    assert (summed(29) == -16 * 2**28).all()
    assert (summed(30) != -16 * 2**29).all()
    with pytest.raises(BitBudget):
        ChunkPlan(sites=16, words=12, modulus_bits=30, limb_bits=30)


def test_masked_plain_and_encrypted_paths_give_one_sum(site_worker, coordinator_worker, vector) -> None:
    """Five sites, one of which is lost after the masks were agreed: the sums of ring words are the same three times."""
    plan, ctx2 = plan_chunks(sites=5, length=300, modulus_bits=32), b"\x44" * 32
    inputs = [vector(plan, seed) for seed in range(5)]
    pairs = [KeyPair.from_secret(bytes((0x21 + site,)) * 32) for site in range(5)]
    seeds, masks, survivors = [bytes((0x31 + site,)) * 32 for site in range(5)], PairwiseMasks(plan.words), (0, 1, 3, 4)

    def pairwise(one: int, other: int) -> tuple[bytes, int]:
        return pair_key(pairs[one], pairs[other].public, ctx2, one, other), 1 if one < other else -1

    def masked(site: int) -> np.ndarray:
        words = inputs[site].copy()
        masks.add_(words, self_key(seeds[site], ctx2, site), +1)
        masks.add_all_(words, [pairwise(site, other) for other in range(5) if other != site])
        return words

    def unmasked(words: np.ndarray) -> list[int]:
        words = words.copy()
        masks.add_all_(words, [(self_key(seeds[site], ctx2, site), -1) for site in survivors])
        masks.add_all_(words, [pairwise(2, site) for site in survivors])  # what the lost site's masks left over
        return words.tolist()

    def encrypted(vectors: list[np.ndarray]) -> np.ndarray:
        total = EncryptedSum(plan, KEY_ID, coordinator_worker)
        for site, words in zip(survivors, vectors, strict=True):
            total.add(site, KEY_ID, encrypt(words, plan, site_worker))
        return open_sum(total.body, plan, len(survivors), site_worker)

    sent = [masked(site) for site in survivors]
    expected = modular_sum([inputs[site] for site in survivors], 32)

    assert unmasked(np.sum(sent, axis=0, dtype=np.uint32)) == expected
    assert encrypted([inputs[site] for site in survivors]).tolist() == expected
    assert unmasked(encrypted(sent)) == expected


def test_the_wrong_key_a_second_contribution_and_one_too_many_are_refused(small, bodies, coordinator_worker) -> None:
    total = EncryptedSum(small, KEY_ID, coordinator_worker)
    with pytest.raises(UnexpectedState):
        _ = total.body
    with pytest.raises(KeyRefused):
        total.add(0, b"o" * 32, bodies[0])
    total.add(2, KEY_ID, bodies[0])
    with pytest.raises(UnexpectedMessage):
        total.add(2, KEY_ID, bodies[1])
    total.add(0, KEY_ID, bodies[1])
    total.add(1, KEY_ID, bodies[2])

    with pytest.raises(LocalProtocolError):
        total.add(3, KEY_ID, bodies[2])

    assert total.contributors == (0, 1, 2)


def wrapped(inner: bytes) -> bytes:
    size = len(inner)
    varint = bytes((size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14))
    return bytes.fromhex("0a02801012") + varint + inner + bytes.fromhex("190000000000007042")


def crafted(name: str, honest: bytes, folder: Path) -> bytes:
    """Return a chunk as a site with the right tools would make it: its outer form is that of an honest one."""
    if name == "not of the field":
        return wrapped(honest[8:24] + bytes(len(honest) - 33))
    if name == "another library's parameters":
        context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[54, 50])
        context.global_scale = 2.0**40
        return tenseal.ckks_vector(context, np.zeros(SLOTS)).serialize()
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(4096)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(4096, [54, 54]))
    context, path = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128), str(folder / "crafted")
    Path(path).write_bytes(honest[8:-9])
    cipher = sealapi.Ciphertext()
    cipher.load(context, path)
    if name == "of the key's level":
        cipher = sealapi.Ciphertext(context)
        cipher.resize(context, context.key_parms_id(), 2)
    else:
        cipher.resize(
            context, context.first_parms_id(), {"of three polynomials": 3, "of sixteen polynomials": 16}[name]
        )
    cipher.save(path)
    return wrapped(Path(path).read_bytes())


@pytest.mark.parametrize(
    "name",
    [
        "not of the field",
        "another library's parameters",
        "of the key's level",
        "of three polynomials",
        "of sixteen polynomials",
    ],
)
def test_a_crafted_ciphertext_puts_its_site_out_and_nobody_else(
    name: str, small, bodies, site_worker, coordinator_worker, vector, tmp_path: Path
) -> None:
    honest = [bytes(chunk) for chunk in unpack_chunks(bodies[1], small)]
    bad = crafted(name, honest[1], tmp_path)
    total = EncryptedSum(small, KEY_ID, coordinator_worker)
    total.add(0, KEY_ID, bodies[0])
    before = coordinator_worker.process_id

    with pytest.raises((CiphertextRefused, EnvelopeRefused)):
        total.add(1, KEY_ID, pack_chunks([honest[0], bad]))
    total.add(2, KEY_ID, bodies[2])

    assert coordinator_worker.process_id == before
    assert total.contributors == (0, 2)
    expected = modular_sum([vector(small, 0), vector(small, 2)], 30)
    assert open_sum(total.body, small, 2, site_worker).tolist() == expected


def test_sums_that_share_a_worker_in_turns_do_not_mix(small, bodies, site_worker, coordinator_worker, vector) -> None:
    one, two = (EncryptedSum(small, KEY_ID, coordinator_worker) for _ in range(2))
    one.add(0, KEY_ID, bodies[0])
    two.add(0, KEY_ID, bodies[2])
    one.add(1, KEY_ID, bodies[1])
    two.add(1, KEY_ID, bodies[1])

    for total, seed in ((one, 0), (two, 2)):
        expected = modular_sum([vector(small, seed), vector(small, 1)], 30)
        assert open_sum(total.body, small, 2, site_worker).tolist() == expected


def test_what_a_coordinator_holds_has_no_part_of_the_key_in_it(small, bodies, coordinator_worker, key) -> None:
    """Searched as windows of 12 bytes; the same search finds the key in what a site is given."""
    total = EncryptedSum(small, KEY_ID, coordinator_worker)
    for site, body in enumerate(bodies):
        total.add(site, KEY_ID, body)
    parameters = 100  # a context begins with them; they are public
    secret = {key.context[at : at + 12] for at in range(parameters, len(key.context) - 12)}

    def found(data: bytes) -> int:
        return sum(data[at : at + 12] in secret for at in range(len(data) - 12))

    assert sum(map(found, (total.body, *bodies))) == 0
    assert found(key.context) > 60_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_many_contributions_take_the_memory_of_a_few(site_worker, vector) -> None:
    plan = plan_chunks(sites=100, length=20 * 2046 - 4, modulus_bits=26)
    body = encrypt(vector(plan, 1), plan, site_worker)

    def resident_kib(worker: Worker) -> int:
        status = Path(f"/proc/{worker.process_id}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    with Worker(ROOMY) as worker:
        total = EncryptedSum(plan, KEY_ID, worker)
        for site in range(10):  # what an allocator takes for one sum, it has taken by then
            total.add(site, KEY_ID, body)
        early = resident_kib(worker)
        for site in range(10, 60):
            total.add(site, KEY_ID, body)

        assert resident_kib(worker) - early < 5 * len(body) / 1024  # of 50 that came


def flipped(random: np.random.Generator, chunk: bytes) -> bytes:
    changed = bytearray(chunk)
    for at in random.integers(24, len(chunk) - 9, random.integers(1, 4)):
        changed[at] ^= 1 << int(random.integers(8))
    return bytes(changed)


def test_mutants_end_no_coordinator_and_no_sum_of_others(
    small, bodies, site_worker, coordinator_worker, vector
) -> None:
    """Seed 1, 20 ciphertexts with changed bytes inside an honest form; ten thousand in the campaign."""
    random, refused = np.random.default_rng(1), 0
    honest = [bytes(chunk) for chunk in unpack_chunks(bodies[1], small)]
    expected = modular_sum([vector(small, 0), vector(small, 2)], 30)

    def begun() -> EncryptedSum:
        total = EncryptedSum(small, KEY_ID, coordinator_worker)
        total.add(0, KEY_ID, bodies[0])
        return total

    total = begun()
    for _ in range(20):
        mutant, before = flipped(random, honest[1]), total.body
        check_chunk(mutant)
        try:
            total.add(1, KEY_ID, pack_chunks([honest[0], mutant]))
        except CiphertextRefused:
            refused += 1
            assert total.body == before
        else:
            total = begun()  # what decodes is a contribution: only its sender's words can be wrong
    total.add(2, KEY_ID, bodies[2])

    assert open_sum(total.body, small, 2, site_worker).tolist() == expected
    assert refused > 0


def test_slots_are_those_that_sites_encrypt(small, site_worker, vector, bodies) -> None:
    rows = [np.frombuffer(site_worker.ask(Op.DECRYPT, chunk), "<i8") for chunk in unpack_chunks(bodies[0], small)]

    assert [row.tolist() for row in rows] == [slots.tolist() for slots in to_slots(vector(small, 0), small)]
