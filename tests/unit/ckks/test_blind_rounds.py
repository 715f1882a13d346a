"""Blind rounds, whole: exact sums at every site, losses, the ends of the range, the transcript, epochs, R6."""

from __future__ import annotations

import hashlib
from itertools import count

import numpy as np
import pytest
from blind_federation import BlindFederation
from drawn_schedules import SITE, examples
from hypothesis import example, given
from hypothesis import strategies as st
from small_federation import Federation

from secure_frl.ckks.coordinator_states import encrypted_of
from secure_frl.errors import TooFewSurvivors, UnexpectedState
from secure_frl.wire.hashing import encode_integers, labelled_hash

BOTH = ("ckks", "ckks+masking")


def sums_at(parties: BlindFederation) -> list[list[int] | None]:
    return [None if host.total is None else host.total.integers.tolist() for host in parties.hosts]


@pytest.mark.parametrize("protection", BOTH)
@pytest.mark.parametrize("n", [3, 5, 10])
def test_every_site_has_the_exact_sum_and_the_same_policy_and_the_coordinator_neither(federations, n, protection):
    parties = federations(n, protection)
    before = parties.hosts[0].held_tag()
    machine = parties.next_round()

    outcome = machine.outcome()
    parties.publish_blind(machine)

    assert outcome.contributors == tuple(range(n))
    assert not hasattr(outcome, "integers")
    assert sums_at(parties) == [parties.plain_sum(range(n)).tolist()] * n
    tags = {host.held_tag() for host in parties.hosts}
    assert set(machine.followers.values()) == tags
    assert len(tags) == 1
    assert before not in tags
    assert tuple(machine.followers) == tuple(range(n))
    assert [host.closed[-1] for host in parties.hosts] == ["summed"] * n
    later = {site._state.view.channels.at_round for site in parties.sites}
    assert later == {parties.rounds + 1}  # the closed round's channel keys are gone
    assert parties.errors == {}


LOSSES = [
    ("ckks", {"R0": [2, 7]}, {2, 7}),
    ("ckks+masking", {"R0": [2, 7]}, {2, 7}),
    ("ckks+masking", {"R1p": [2, 7]}, {2, 7}),
    ("ckks+masking", {"R0": [9], "R1p": [0]}, {9, 0}),
    ("ckks+masking", {"R3a": [1, 4]}, set()),
    ("ckks+masking", {"R3c": [1, 4]}, set()),
    ("ckks+masking", {"R1p": [2, 7], "R3a": [3], "R3c": [8]}, {2, 7}),
]


@pytest.mark.parametrize(("protection", "lost", "out"), LOSSES)
def test_a_loss_at_any_stage_leaves_the_exact_sum_of_the_survivors(federations, protection, lost, out):
    parties = federations(10, protection)
    machine = parties.next_round(lost)
    survivors = sorted(set(range(10)) - out)

    parties.publish_blind(machine)

    assert list(machine.outcome().contributors) == survivors
    holders = [site for site in range(10) if site not in lost.get("R0", ()) or protection == "ckks"]
    for site in holders:  # a lost site that is in the attempt learns the sum too
        assert parties.hosts[site].total.integers.tolist() == parties.plain_sum(survivors).tolist(), site
    assert set(machine.followers.values()) == {parties.hosts[3].held_tag()}


def test_masking_and_both_blind_protections_give_one_integer_sum_and_policy(federations):
    """The same vectors, the same two sites lost before their vectors are in."""
    masked = Federation(10)
    machine = masked.begin(masked.open())
    expected = masked.drive(machine, {"R1p": [2, 7]}).integers.tolist()
    found = {}
    for protection, stage in (("ckks", "R0"), ("ckks+masking", "R1p")):
        parties = federations(10, protection)
        for host, values in zip(parties.hosts, masked.values, strict=True):
            host.values, host.model = values, b"first model"
        parties.publish_blind(parties.next_round({stage: [2, 7]}))
        found[protection] = (sums_at(parties)[0], parties.hosts[0].model)

    masked.publish(machine)
    assert found == dict.fromkeys(BOTH, (expected, masked.hosts[0].model))


LARGEST = 2**30 - 1  # of a ring of 31 bits: limbs of 30 bits and 1, so that -1 and 0 are the ends of the lower one
MOST = LARGEST // 5
VECTOR = st.sampled_from([-MOST, -1, 0, MOST]).map(lambda value: np.full(17, value)) | st.integers(0, 99).map(
    lambda seed: np.random.default_rng(seed).integers(-MOST, MOST + 1, 17)
)


def test_10_the_three_protections_give_one_integer_sum_of_any_vectors_whoever_is_lost(federations):
    constants = {"modulus_bits": 31, "bound": MOST, "noise_bound": LARGEST % 5}
    masked, numbers = Federation(5, **constants), count(1)
    epoch = masked.open()

    @given(vectors=st.lists(VECTOR, min_size=5, max_size=5), lost=st.none() | SITE)
    @example(vectors=[np.full(17, -1)] * 5, lost=None)
    @example(vectors=[np.zeros(17, np.int64)] * 5, lost=3)
    @example(vectors=[np.full(17, -MOST)] * 4 + [np.full(17, MOST)], lost=4)
    @examples(4)
    def summing(vectors, lost):
        gone = [] if lost is None else [lost]
        survivors = [site for site in range(5) if site != lost]
        exact = [sum(int(vectors[site][at]) for site in survivors) for at in range(17)]
        masked.values[:] = vectors
        found = [masked.drive(masked.begin(epoch, next(numbers)), {"R1p": gone}).integers.tolist()]
        for protection, stage in (("ckks", "R0"), ("ckks+masking", "R1p")):
            parties = federations(5, protection, **constants)
            for host, vector in zip(parties.hosts, vectors, strict=True):
                host.values = vector
            parties.publish_blind(parties.next_round({stage: gone}))
            found.append(sums_at(parties)[survivors[0]])

        assert found == [exact] * 3

    summing()


@pytest.mark.parametrize(
    ("protection", "n", "bits", "chunks"),
    [
        ("ckks", 3, 31, 1),
        ("ckks", 10, 29, 1),
        ("ckks", 5, 64, 3),  # limbs of 30, 30 and 4 bits
        ("ckks+masking", 10, 30, 2),  # limbs of 29 bits and 1
        ("ckks+masking", 5, 64, 3),
    ],
)
def test_the_ends_of_the_range_are_exact_at_the_widest_limb_and_in_several(n, protection, bits, chunks):
    """Value 0 is the lowest limb, -2^(b-1), in every slot; value -1 the highest; masked ones are uniform anyway."""
    largest = 2 ** (bits - 1) - 1
    parties = BlindFederation(n, protection, modulus_bits=bits, bound=largest // n, noise_bound=largest % n)
    try:
        parties.next_epoch()
        assert parties.plan.chunks == chunks
        most = largest // n
        ends = np.tile(np.where(np.arange(17) % 2, most, -most), (n, 1))
        uniform = np.random.default_rng(3).integers(-most, most + 1, (n, 17))
        limbs = [np.zeros((n, 17), np.int64), np.full((n, 17), -1)] if protection == "ckks" else []
        for vectors in (*limbs, ends, uniform):
            for host, vector in zip(parties.hosts, vectors, strict=True):
                host.values = vector
            parties.publish_blind(parties.next_round())
            exact = [sum(int(vector[at]) for vector in vectors) for at in range(17)]
            assert sums_at(parties) == [exact] * n
    finally:
        parties.close()


@pytest.mark.parametrize("protection", BOTH)
def test_the_transcript_covers_survivors_masks_and_ciphertexts_and_each_site_checked_it(federations, protection):
    parties = federations(5, protection)
    machine = parties.next_round()
    ciphertexts, ctx2 = encrypted_of(machine._view).body, parties.sites[0]._state.ctx2
    published = hashlib.sha256(machine._summed().total_bytes + hashlib.sha256(ciphertexts).digest()).digest()
    over = labelled_hash("U3", ctx2, encode_integers(range(5)))

    assert machine.transcript_hash == labelled_hash("transcript", ctx2, over, published)
    assert machine.sum_digest != published or protection == "ckks"
    assert machine.outcome().digest == published
    assert len(machine._summed().total_bytes) == (21 * 4 if protection == "ckks+masking" else 0)
    other = parties.total_of(machine, 1, transcript_hash=b"\x02" * 32)
    assert parties.answer(machine, 1, other) == "SurvivorsRefused"


@pytest.mark.parametrize("protection", BOTH)
def test_a_site_that_missed_a_sum_takes_the_policy_that_another_sealed(federations, protection):
    parties = federations(5, protection)
    machine = parties.next_round()
    parties.wire = lambda direction, site, frame: None if site == 4 else frame
    parties.publish_blind(machine)
    parties.wire = lambda direction, site, frame: frame
    tag = parties.hosts[0].held_tag()
    assert tuple(machine.followers) == (0, 1, 2, 3)
    assert parties.hosts[4].held_tag() != tag

    fetching = parties.fetch(tag, [4, 1, 2])  # 4 does not hold it, so 1 is asked
    assert parties.errors == {4: ["Refused"]}
    parcel = fetching.parcel
    without = parties.begin_blind(parties.rounds + 1)
    parties.exchange(without)
    again = parties.begin_blind(parties.rounds + 1, 1, models={4: parcel})
    parties.rounds += 1
    parties.drive_blind(again)
    parties.publish_blind(again)

    assert without.excluded == {4: "ModelMissing"}
    assert parties.hosts[0].model not in parcel
    assert again.outcome().contributors == (0, 1, 2, 3, 4)
    assert len({host.held_tag() for host in parties.hosts}) == 1
    assert parties.fetch(b"\x05" * 32, range(5)).parcel is None  # a tag that nobody holds


@pytest.mark.parametrize("protection", BOTH)
def test_the_next_epoch_has_another_key_and_goes_on_with_the_same_policy(federations, protection):
    parties = federations(5, protection)
    parties.publish_blind(parties.next_round())
    first, held = parties.blind, parties.hosts[0].held_tag()

    second = parties.next_epoch()
    parties.publish_blind(parties.next_round())

    assert second.key_id != first.key_id
    assert second.epoch.epoch == first.epoch.epoch + 1
    assert set(second.tags.values()) == {held}
    assert sums_at(parties) == [parties.plain_sum(range(5)).tolist()] * 5


@pytest.mark.parametrize(("protection", "stage"), [("ckks", "R0"), ("ckks+masking", "R0"), ("ckks+masking", "R1p")])
def test_too_few_ciphertexts_give_no_sum_and_the_next_round_works(federations, protection, stage):
    parties = federations(5, protection)
    machine = parties.next_attempt()

    with pytest.raises(TooFewSurvivors):
        parties.drive_blind(machine, {stage: [1, 2]})
    for ask in (machine.outcome, machine.publish, lambda: machine.transcript_hash):
        with pytest.raises(UnexpectedState):
            ask()

    assert parties.next_round().outcome().contributors == (0, 1, 2, 3, 4)
