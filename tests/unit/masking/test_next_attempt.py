"""Whom another attempt at a round asks after complaints, and when there is none."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest

from secure_frl.errors import DealerCheated, TooFewSurvivors
from secure_frl.masking.next_attempt import first_cohort, left_out, next_cohort


def test_a_blamed_dealer_stays_out_and_so_does_who_blames_more_than_can_cheat() -> None:
    assert left_out({1: (0,), 2: (0,)}, 2) == {0}
    assert left_out({1: (0, 2, 3)}, 2) == {1}
    assert left_out({1: (0, 2, 3), 4: (2,)}, 2) == {1, 2}
    assert left_out({}, 2) == frozenset()


def test_an_attempt_follows_only_with_enough_sites_that_answered(make_constants: Callable[..., Any]) -> None:
    constants = make_constants(10)  # min_survivors 8, c = 1
    everybody = tuple(range(10))

    def asked(answered: Collection[int], complaints: dict[int, tuple[int, ...]]) -> tuple[int, ...] | None:
        return next_cohort(everybody, answered, complaints, everybody, constants)

    assert asked(everybody, {1: (0,), 2: (0,), 3: (0,)}) == tuple(range(1, 10))
    assert asked(range(9), {1: (0,)}) == tuple(range(1, 10))  # the silent one is asked again
    assert asked(range(8), {1: (0,)}) is None  # seven answered who may stay
    assert asked(range(7), {}) is None  # silence alone: the next attempt would fail as this one did


def test_a_profile_with_fixed_cohorts_takes_another_member_in_place(make_constants: Callable[..., Any]) -> None:
    constants = replace(make_constants(10), profile="cross_device")
    cohort = tuple(range(10))

    assert next_cohort(cohort, cohort, {1: (0,)}, tuple(range(12)), constants) == tuple(range(1, 11))
    assert next_cohort(cohort, cohort, {1: (0,)}, cohort, constants) is None


def test_the_first_attempt_asks_the_whole_epoch_but_for_the_blamed(make_constants):
    constants = make_constants(10)  # min_survivors 8

    assert first_cohort(range(10), {3}, 1, constants) == (0, 1, 2, 4, 5, 6, 7, 8, 9)
    assert first_cohort(range(10), {1, 2, 3}, 1, constants) == tuple(range(10))  # without them too few would remain


def test_fixed_cohorts_are_whole_batches_in_turn(make_constants):
    constants = replace(make_constants(10), profile="cross_device", sites=10)

    cohorts = [first_cohort(range(25), (), number, constants) for number in (1, 2, 3)]

    assert cohorts == [tuple(range(10)), tuple(range(10, 20)), tuple(range(10))]  # equal, or nobody in common
    assert first_cohort(range(11), {0}, 5, constants) == tuple(range(1, 11))


def test_once_survivors_are_named_there_is_no_other_attempt_although_everybody_answered(federation):
    parties = federation(10)
    machine = parties.begin(parties.open())
    for _ in range(3):
        parties.exchange(machine)
        machine.close_stage()
    parties.exchange(machine)
    keys = machine._state.members[0]
    machine._state.members[0] = replace(keys, seed_commitment=bytes(32))  # as if the dealer had lied

    with pytest.raises(DealerCheated):
        machine.close_stage()

    assert machine.next_cohort is None


def test_the_attempt_after_complaints_gives_the_exact_sum_of_those_who_stay(federation):
    parties = federation(10)
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    for holder in (1, 2, 3):
        machine._state.dealt.row(holder)[0, -144:] = 0  # what site 0 dealt to it no longer opens
    machine.close_stage()
    parties.exchange(machine)
    with pytest.raises(TooFewSurvivors):
        machine.close_stage()

    assert machine.complaints == {1: (0,), 2: (0,), 3: (0,)}
    assert machine.next_cohort == tuple(range(1, 10))
    total = parties.drive(parties.begin(machine._view.epoch, attempt=1, cohort=machine.next_cohort))
    assert total.integers.tolist() == parties.plain_sum(range(1, 10)).tolist()
    assert [len(host.contexts) for host in parties.hosts] == [1] + [2] * 9  # new vectors for whoever is asked again
