"""Unmasking on several cores is unmasking: the same sum, with memory for one vector a core."""

from __future__ import annotations

import tracemalloc

import pytest

from secure_frl.masking import unmasking


@pytest.mark.parametrize("cores", [1, 2, 3, 40])
def test_the_sum_is_the_same_on_any_number_of_cores(federation, monkeypatch, cores):
    monkeypatch.setattr(unmasking, "_SHARED_BYTES", 0)
    monkeypatch.setattr(unmasking, "_cores", lambda: cores)
    parties = federation(10)

    total = parties.drive(parties.begin(parties.open()), {"R1p": [3, 7]})

    assert total.integers.tolist() == parties.plain_sum(set(range(10)) - {3, 7}).tolist()


@pytest.mark.parametrize("lost", [0, 2])
def test_memory_of_unmasking_is_one_vector_a_core_whatever_the_number_of_masks(federation, monkeypatch, lost):
    # 10 masks, or 8 + 16, of 400 kB each on two cores: two accumulators and their buffers of 128 KiB.
    monkeypatch.setattr(unmasking, "_cores", lambda: 2)
    parties = federation(10, length=100_000)
    machine = parties.begin(parties.open())
    for stage in ("R0", "R1p", "R3a"):
        parties.exchange(machine, range(lost) if stage == "R1p" else ())
        machine.close_stage()
    parties.exchange(machine)

    tracemalloc.start()
    unmasking.unmask_(machine._state)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 2 * (400_016 + 3 * (1 << 17)) + 200_000


def test_a_failure_in_one_thread_leaves_no_sum(federation, monkeypatch):
    monkeypatch.setattr(unmasking, "_SHARED_BYTES", 0)
    monkeypatch.setattr(unmasking, "_cores", lambda: 2)

    def broken(*arguments):
        raise MemoryError

    monkeypatch.setattr(unmasking, "pair_key", broken)
    parties = federation(10)

    with pytest.raises(MemoryError):
        parties.drive(parties.begin(parties.open()), {"R1p": [3]})
