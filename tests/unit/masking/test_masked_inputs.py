"""What a masked input looks like: uniform words, fresh in every attempt, and gone when the process ends in between."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_schedules import examples
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from secure_frl.encoding.ring import word_type
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES, read_header
from secure_frl.wire.messages import MessageType

LENGTH = 20_000


def inputs(parties, site):
    kind = word_type(parties.constants.modulus_bits).newbyteorder("<")
    return [
        np.frombuffer(frame[HEADER_BYTES:-TAG_BYTES], kind)
        for direction, who, frame in parties.frames
        if (direction, who) == ("up", site) and read_header(frame).type == MessageType.R2
    ]


def uniform_p_values(words: np.ndarray, bits: int) -> tuple[float, float]:
    """Monobit over all bits, and chi-square over the top byte of each word: 256 cells."""
    on_top = (words << words.dtype.type(8 * words.itemsize - bits)).astype(words.dtype.newbyteorder(">"))
    monobit = float(stats.binomtest(int(np.unpackbits(on_top.view(np.uint8)).sum()), bits * len(words), 0.5).pvalue)
    cells = np.bincount((words >> words.dtype.type(bits - 8)).astype(np.int64), minlength=256)
    return monobit, float(stats.chisquare(cells).pvalue)


@pytest.mark.parametrize(("protection", "is_uniform"), [("masking", True), ("unsafe-plain", False)])
def test_one_masked_input_is_uniform_and_the_control_is_not(federation, protection, is_uniform):
    # one vector of 20,004 words mod 2^24, seed 1; each test at 1e-6
    parties = federation(3, length=LENGTH, protection=protection)
    parties.drive(parties.begin(parties.open()))

    p_values = uniform_p_values(inputs(parties, 0)[0], 24)

    assert (min(p_values) > 1e-6) == is_uniform


def test_under_the_same_keys_two_inputs_differ_by_their_values_and_under_new_keys_by_noise(federation):
    def masked(change: bool, seed: int) -> np.ndarray:
        parties = federation(3, seed=seed, length=LENGTH)
        parties.values[0] = 7 if change else 0
        parties.drive(parties.begin(parties.open()))
        return inputs(parties, 0)[0]

    same = (masked(True, 1) - masked(False, 1)) & np.uint32(2**24 - 1)
    assert same.tolist() == [0, 0, *[7] * LENGTH, 0, 0]
    new = (masked(True, 1) - masked(False, 2)) & np.uint32(2**24 - 1)
    assert min(uniform_p_values(new, 24)) > 1e-6


VECTOR = st.sampled_from([-1000, 0, 1000]).map(lambda value: np.full(4000, value)) | st.integers(0, 10**6).map(
    lambda seed: np.random.default_rng(seed).integers(-1000, 1001, 4000)
)


@given(
    site=st.integers(0, 2),
    bits=st.integers(14, 64),
    one=VECTOR,
    other=VECTOR,
    again=st.sampled_from([(1, 1), (2, 0)]),  # the next attempt, or the next round
)
@example(site=0, bits=32, one=np.full(4000, -1000), other=np.full(4000, 1000), again=(1, 1))
@example(site=2, bits=64, one=np.zeros(4000, np.int64), other=np.zeros(4000, np.int64), again=(2, 0))
@examples(10)
def test_3_any_two_inputs_differ_by_their_values_under_the_same_keys_and_by_noise_under_new_ones(
    federation, site, bits, one, other, again
):
    # inputs of 4,004 words, two of each vector; each of six tests an example at 1e-9
    def masked(vector: np.ndarray) -> list[np.ndarray]:
        parties = federation(3, length=4000, modulus_bits=bits)
        parties.values[site] = vector
        epoch = parties.open()
        for place in ((1, 0), again):
            machine = parties.begin(epoch, *place)
            parties.exchange(machine)
            machine.close_stage()
            parties.exchange(machine)
        return inputs(parties, site)

    first, second = masked(one), masked(other)
    width = first[0].dtype.type(2**bits - 1)

    apart = np.pad(other - one, 2).astype(first[0].dtype) & width
    for early, late in zip(first, second, strict=True):
        assert ((late - early) & width).tolist() == apart.tolist()
    for words in (*first, (first[1] - first[0]) & width):
        assert int(words.max()).bit_length() <= bits
        assert min(uniform_p_values(words, bits)) > 1e-9


def test_a_second_attempt_sends_other_words_for_the_same_values(federation):
    parties = federation(5, length=LENGTH)
    epoch = parties.open()
    machine = parties.begin(epoch)
    for _ in range(2):
        parties.exchange(machine)
        if machine.state_name == "AskingKeys":
            machine.close_stage()
    parties.drive(parties.begin(epoch, 1, 1))

    first, second = inputs(parties, 0)

    assert min(uniform_p_values((first - second) & np.uint32(2**24 - 1), 24)) > 1e-6


class Killed(BaseException):
    """The process ends here: nobody catches it."""


@pytest.mark.parametrize("stage", ["R1", "R2", "R3b", "R4"])
@pytest.mark.parametrize("is_synced", [False, True], ids=["before the sync", "after the sync"])
def test_a_site_killed_around_a_sync_never_gives_a_second_answer(federation, stage, is_synced):
    parties = federation(5)
    register, genuine = parties.registers[0], parties.registers[0].record

    def dying(round_number, attempt, name, digest):
        if name != stage or is_synced:
            genuine(round_number, attempt, name, digest)
        if name == stage:
            raise Killed

    register.record = dying
    machine = parties.begin(parties.open())
    deaths = 0
    for _ in range(4):
        for site, request in list(machine.requests()):
            try:
                reply = parties.sites[site].handle(request)
            except Killed:
                deaths += 1
                register.record = genuine
                parties.restart(site)
                reply = parties.sites[site].handle(request)
                assert parties.refusal(site, request, reply) in {"AlreadyAnswered", "UnexpectedMessage"}
            if parties.refusal(site, request, reply) is None:
                machine.receive(site, reply)
        machine.close_stage()

    assert deaths == 1
    expected = [0, 1, 2, 3, 4] if stage in ("R3b", "R4") else [1, 2, 3, 4]
    assert machine.outcome().integers.tolist() == parties.plain_sum(expected).tolist()
    assert all(register.trail.count(f"record {name}") <= 1 for name in ("R3b", "R4"))
