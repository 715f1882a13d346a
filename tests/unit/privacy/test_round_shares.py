"""One budget over rounds that fill different blocks: what each spends, and that all together spend it once."""

from __future__ import annotations

import dataclasses
import math

import pytest
from sum_events import release_of, sum_constants

from secure_frl.errors import InvalidParameter
from secure_frl.privacy import accountant
from secure_frl.privacy.events import GaussianSumEvent, decode_event, event_in_round
from secure_frl.privacy.round_shares import blocks_in_round, is_partial, share_of
from secure_frl.secure_sum import Block

SIGMA, DELTA = 1.25, 1e-6
VALUES = (
    Block("policy", 0, 60, 0.3, 0.87),
    Block("pair_counts", 60, 90, 2.0, 0.08),
    Block("returns", 90, 100, 0.6, 0.05),
)
WHOLE = (Block("policy", 0, 80, 0.4, 0.85), Block("critic", 80, 100, 1.0, 0.15))


def release(blocks: tuple[Block, ...], round_number: int = 1) -> GaussianSumEvent:
    constants = sum_constants(scale=1024 * 7**0.5 / SIGMA, blocks=blocks, noise_multiplier=SIGMA)
    return release_of(
        constants, composition_group="ward", round_number=round_number, window=f"round {round_number}", delta=DELTA
    )


def study_of(rounds: int) -> list[GaussianSumEvent]:
    return [release(blocks_in_round(VALUES, rounds, number), number) for number in range(1, rounds + 1)]


@pytest.mark.parametrize("rounds", [2, 3, 5])
def test_the_shares_of_all_rounds_add_to_the_charters_block_by_block(rounds: int) -> None:
    spent = [blocks_in_round(VALUES, rounds, number) for number in range(1, rounds + 1)]

    for place, block in enumerate(VALUES):
        assert math.fsum(blocks[place].noise_share for blocks in spent) == pytest.approx(block.noise_share)
    assert [share_of(blocks) > 0.5 for blocks in spent[:1]] == [False]
    assert [block.noise_share for block in spent[0]] == [0.0, 0.08, 0.05]
    assert [block.noise_share for block in spent[-1]][1:] == [0.0, 0.0]


def test_a_message_without_a_value_start_is_the_same_in_every_round() -> None:
    assert blocks_in_round(WHOLE, 5, 1) is WHOLE
    assert blocks_in_round(WHOLE, 5, 4) is WHOLE
    assert not is_partial(WHOLE)


def test_a_partial_release_is_of_the_third_version_and_a_whole_one_of_the_second() -> None:
    start = study_of(2)[0]

    assert b'"format":"secure_frl/gaussian_sum_event/v3"' in start.canonical()
    assert decode_event(start.canonical()) == start
    assert b'"format":"secure_frl/gaussian_sum_event/v2"' in release(WHOLE).canonical()
    assert [event.purpose for event in study_of(2)] == ["value_start", "policy_update"]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},  # which says that the whole budget was spent
        {"rounding_bound": 100.0},  # less than one unit's shift
        {"blocks": tuple(dataclasses.replace(block, noise_share=0.0) for block in VALUES)},
        {"blocks": (dataclasses.replace(VALUES[0], noise_share=-0.1), *VALUES[1:])},
        {"blocks": (dataclasses.replace(VALUES[0], noise_share=1.0), *VALUES[1:])},  # 1.13 in all
        {"blocks": VALUES},  # the whole budget, under a version and a bound of a part
    ],
)
def test_shares_and_what_follows_from_them_must_agree(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter):
        dataclasses.replace(study_of(2)[0], **changes)  # type: ignore[arg-type]


def test_a_whole_event_may_not_hold_a_block_without_a_share() -> None:
    with pytest.raises(InvalidParameter):
        release((Block("policy", 0, 80, 0.4, 1.0), Block("critic", 80, 100, 1.0, 0.0)))


def _sigma(event: GaussianSumEvent) -> float:
    """The multiplier of one continuous Gaussian, from the event's fields alone."""
    return math.sqrt(event.honest_shares * event.integer_noise_scale**2 - 4) / event.rounding_bound


@pytest.mark.parametrize("rounds", [2, 4])
def test_all_rounds_together_cost_what_one_release_of_the_whole_budget_costs(rounds: int) -> None:
    events = study_of(rounds)

    # Gaussians of shifts sqrt(s_r) compose to one of shift 1: 1 / sigma^2 = sum s_r / sigma^2 (Dong et al. 2022).
    composed = 1 / math.sqrt(sum(1 / _sigma(event) ** 2 for event in events))
    assert composed == pytest.approx(SIGMA, rel=5e-3)
    assert composed < SIGMA  # rounding costs a little, and what it costs is counted
    ideal = accountant.gaussian_epsilon(1 / composed, DELTA)
    assert accountant.epsilon(events, DELTA) == pytest.approx(ideal, rel=3e-3)
    assert accountant.epsilon(events, DELTA) >= ideal


def test_the_value_start_alone_costs_the_root_of_its_share() -> None:
    start = study_of(2)[0]

    assert _sigma(start) == pytest.approx(SIGMA / math.sqrt(0.13), rel=5e-3)
    ideal = accountant.gaussian_epsilon(math.sqrt(0.13) / SIGMA, DELTA)
    assert accountant.epsilon([start], DELTA) == pytest.approx(ideal, rel=1e-2)


def test_what_is_announced_is_what_is_booked() -> None:
    first, *others = study_of(3)

    announced = [event_in_round(first, VALUES, 3, number) for number in (1, 2, 3)]

    windows = [first.window, *(event.window for event in others)]
    assert [dataclasses.replace(one, window=name) for one, name in zip(announced, windows, strict=True)] == [
        first,
        *others,
    ]
    schedule = ((first, 1), (others[0], 2))
    assert accountant.epsilon_of_schedule(schedule) == accountant.epsilon([first, *others], DELTA)
