"""What a masked input looks like: uniform words, fresh in every attempt, and gone when the process ends in between."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES, read_header
from secure_frl.wire.messages import MessageType

LENGTH = 20_000


def inputs(parties, site):
    return [
        np.frombuffer(frame[HEADER_BYTES:-TAG_BYTES], "<u4")
        for direction, who, frame in parties.frames
        if (direction, who) == ("up", site) and read_header(frame).type == MessageType.R2
    ]


def uniform_p_values(words: np.ndarray, bits: int) -> tuple[float, float]:
    """Monobit over all bits, and chi-square over the top byte of each word: 256 cells."""
    ones = int(np.unpackbits((words << np.uint32(32 - bits)).astype(">u4").view(np.uint8)).sum())
    monobit = float(stats.binomtest(ones, bits * len(words), 0.5).pvalue)
    return monobit, float(stats.chisquare(np.bincount(words >> (bits - 8), minlength=256)).pvalue)


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
