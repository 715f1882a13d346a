"""Epsilon: against closed forms, dp-accounting's published figures and each other; and the guard."""

import dataclasses
import math

import pytest
from sum_events import event, gaussian_epsilon

from secure_frl.errors import BudgetExhausted, InvalidParameter, LedgerCorrupt
from secure_frl.privacy import accountant
from secure_frl.privacy.accountant import as_read_one_by_one, epsilon, guard
from secure_frl.privacy.charging import WhatIf
from secure_frl.privacy.events import GaussianSumEvent
from secure_frl.secure_sum import Block, Budget


def windows(count: int, **changes: object) -> list[GaussianSumEvent]:
    return [event(window=str(number), **changes) for number in range(count)]  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize("sigma", [0.653, 1.081, 1.194, 3.731, 4.225])
@pytest.mark.parametrize("delta", [1e-5, 1e-6])
def test_epsilon_is_the_exact_one_of_a_gaussian_and_never_below_it(sigma: float, delta: float) -> None:
    exact = gaussian_epsilon(sigma, delta)

    found = epsilon([event(sigma, delta=delta)], delta)

    assert exact <= found <= exact * 1.0015 + 1e-3  # the grid of 1e-3, rounded up


@pytest.mark.parametrize(
    ("sigma", "delta", "stated"),
    [(3.731, 1e-5, 1), (1.391, 1e-5, 3), (0.600, 1e-5, 8), (1.081, 1e-5, 4), (4.225, 1e-6, 1), (1.194, 1e-6, 4)],
)
def test_smallest_sigmas_of_one_release(sigma: float, delta: float, stated: float) -> None:
    # privacy.md, section 6, made with dp-accounting on the ideal Gaussian; figures given to a thousandth.
    assert epsilon([event(sigma, delta=delta)], delta) == pytest.approx(stated, rel=2.5e-3)


@pytest.mark.parametrize(
    ("count", "rate", "sigma", "stated"),
    [(50, 1.0, 26.4, 1), (50, 1.0, 9.83, 3), (200, 1.0, 8.49, 8), (50, 0.1, 1.350, 3), (200, 0.1, 1.129, 8)],
)
def test_smallest_sigmas_of_many_releases_on_one_data_set(count: int, rate: float, sigma: float, stated: float) -> None:
    # privacy.md, section 6.
    sampler = "all" if rate == 1 else "poisson"
    made = windows(count, sigma=sigma, honest=99, composition_group="ward", sampling_rate=rate, sampler=sampler)

    assert epsilon(made, 1e-5) == pytest.approx(stated, rel=4e-3)


def test_a_person_at_two_sites_of_one_sum_moves_it_twice_in_one_direction() -> None:
    # Exact for shift 2 at sigma 1.081: 9.086; two releases of one shift each would be 5.99.
    assert 9.08 <= epsilon([event(max_sites_per_person=2)], 1e-5) <= 9.10
    assert epsilon([event(max_sites_per_person=3)], 1e-5) == pytest.approx(15.1, abs=0.05)


def test_a_person_in_two_or_three_rounds_pays_for_compositions() -> None:
    assert epsilon(windows(2, max_rounds_per_person=2), 1e-5) == pytest.approx(5.99, abs=0.01)
    assert epsilon(windows(3, max_rounds_per_person=3), 1e-5) == pytest.approx(7.63, abs=0.01)


def test_under_local_noise_two_sites_are_two_messages() -> None:
    assert epsilon([event(noise="local", max_sites_per_person=2)], 1e-5) == pytest.approx(5.99, abs=0.01)


def test_fresh_windows_cost_the_worst_one_and_not_their_sum() -> None:
    fresh = windows(15)

    assert epsilon(fresh, 1e-5) == epsilon(fresh[:1], 1e-5)
    assert epsilon([*fresh, event(0.9, window="worse")], 1e-5) == epsilon([event(0.9)], 1e-5)
    # The control: the same people in every window pay for each.
    assert epsilon(windows(15, composition_group="ward"), 1e-5) > 3 * epsilon(fresh, 1e-5)


def test_several_events_of_one_window_all_count() -> None:
    assert epsilon([event(), event()], 1e-5) == pytest.approx(5.99, abs=0.01)


def test_charters_on_one_data_set_add_up() -> None:
    assert epsilon([event(), event(charter_hash="bb")], 1e-5) == pytest.approx(5.99, abs=0.01)


def test_two_blocks_cost_one_event() -> None:
    one = event(1.194, length=300, deviation=1024)
    two = dataclasses.replace(one, blocks=(Block("policy", 0, 200, 0.4, 0.85), Block("critic", 200, 300, 1.0, 0.15)))

    assert epsilon([two], 1e-6) == epsilon([one], 1e-6)
    # The control: noise added twice would be two events.
    assert epsilon([two, two], 1e-6) > 1.3 * epsilon([one], 1e-6)


@pytest.mark.parametrize(("noise", "deviation"), [("distributed", 1024), ("local", 4096)])
def test_the_integer_mechanism_costs_at_most_three_thousandths_more(noise: str, deviation: int) -> None:
    # Shipped study: P = 3,427, sigma 1.194, delta 1e-6.
    exact = gaussian_epsilon(1.194, 1e-6)

    found = epsilon([event(1.194, delta=1e-6, noise=noise, deviation=deviation, length=3427)], 1e-6)

    assert exact < found <= 1.003 * exact


def test_fewer_shares_cost_what_the_table_says() -> None:
    # privacy.md, section 4, sized for 7 shares, delta 1e-5.
    assert epsilon([event()], 1e-5, WhatIf(shares=6)) == pytest.approx(4.37, abs=0.01)
    assert epsilon([event()], 1e-5, WhatIf(shares=3)) == pytest.approx(6.57, abs=0.01)
    assert epsilon([event()], 1e-5, WhatIf(shares=10)) == pytest.approx(3.26, abs=0.01)


def test_under_local_noise_the_number_of_shares_does_not_matter() -> None:
    local = event(noise="local")

    assert epsilon([local], 1e-5, WhatIf(shares=1)) == epsilon([local], 1e-5)


def test_a_reader_of_single_updates_meets_one_share_of_noise_at_each_site_of_a_person() -> None:
    # One share has sigma / sqrt(7); two updates of one person, each read by itself, compose: another sqrt(2).
    once = epsilon([as_read_one_by_one(event(4.0))], 1e-5)
    at_two_sites = epsilon([as_read_one_by_one(event(4.0, max_sites_per_person=2))], 1e-5)

    assert once == pytest.approx(gaussian_epsilon(4 / 7**0.5, 1e-5), rel=2e-3)
    assert at_two_sites == pytest.approx(gaussian_epsilon(4 / 14**0.5, 1e-5), rel=2e-3)
    for noise in ("local", "unsafe-none"):
        assert as_read_one_by_one(event(noise=noise)) == event(noise=noise)


def test_a_household_moves_the_sum_as_often_as_it_has_members() -> None:
    two = WhatIf(people=2)

    assert epsilon([event()], 1e-5, two) == pytest.approx(9.086, abs=0.01)
    assert epsilon([event(noise="local")], 1e-5, two) == pytest.approx(9.086, abs=0.01)
    assert epsilon([event()], 1e-5, WhatIf(sites=2)) == pytest.approx(9.086, abs=0.01)


def test_with_sampling_a_person_at_two_sites_is_taken_as_wholly_there_or_not() -> None:
    sampled = event(3.0, sampling_rate=0.1, sampler="poisson", max_sites_per_person=2)
    # Shift 2 with rate 1 - .9^2 = .19 is one release at sigma 1.5.
    same = event(1.5, sampling_rate=0.19, sampler="poisson")

    assert epsilon([sampled], 1e-5) == pytest.approx(epsilon([same], 1e-5), rel=1e-3)


def test_no_release_spends_nothing_and_one_without_noise_has_no_epsilon() -> None:
    assert epsilon([], 1e-5) == 0.0
    assert epsilon([event(), event(noise="unsafe-none")], 1e-5) == math.inf


def test_a_delta_that_the_rounding_bound_uses_up_has_no_epsilon() -> None:
    assert epsilon([event()], 1e-12) == math.inf


def test_events_of_two_data_sets_are_not_added() -> None:
    with pytest.raises(InvalidParameter, match="one data set"):
        epsilon([event(), event(dataset_id="other")], 1e-5)


def test_effective_sigma_is_below_the_nominal_one_by_the_price_of_integers() -> None:
    found = accountant.effective_sigma(event(1.194, deviation=1024, length=3427))

    assert 0.998 * 1.194 < found < 1.194


@pytest.mark.parametrize(("noise", "shares"), [("distributed", 7), ("local", 1)])
def test_effective_sigma_gives_up_four_of_the_variance_of_the_sum_of_shares(noise: str, shares: int) -> None:
    made = event(1.194, noise=noise, deviation=64, length=50)  # the smallest deviation: 4 of 64^2 is a thousandth

    exact = math.sqrt(shares * 64**2 - 4) / made.rounding_bound

    assert accountant.effective_sigma(made) == pytest.approx(exact, rel=1e-12)


def test_the_guard_lets_fresh_rounds_pass_and_refuses_a_second_charter() -> None:
    recorded = [made.canonical() for made in windows(14)]
    second = event(charter_hash="bb")

    guard(Budget(4.01, 1e-5), recorded, event(window="14").canonical())
    with pytest.raises(BudgetExhausted) as refusal:
        guard(Budget(4.01, 1e-5), recorded, second.canonical())

    assert "got 5.99" in str(refusal.value)
    assert "(4.00" in str(refusal.value)


def test_the_guard_counts_the_candidate_itself() -> None:
    with pytest.raises(BudgetExhausted):
        guard(Budget(3.9, 1e-5), [], event().canonical())


def test_the_guard_refuses_a_release_without_noise_unless_the_budget_is_infinite() -> None:
    plain = event(noise="unsafe-none").canonical()

    with pytest.raises(BudgetExhausted):
        guard(Budget(100.0, 1e-5), [], plain)
    guard(Budget(math.inf, 1e-5), [], plain)


def test_the_guard_refuses_bytes_that_are_no_event() -> None:
    with pytest.raises(LedgerCorrupt):
        guard(Budget(4.0, 1e-5), [b"{}"], event().canonical())


@pytest.mark.parametrize(("eps", "delta"), [(0.0, 1e-5), (math.nan, 1e-5), (1.0, 0.0), (1.0, 1.0), (1.0, math.nan)])
def test_a_budget_outside_its_range_is_refused(eps: float, delta: float) -> None:
    with pytest.raises(InvalidParameter):
        Budget(eps, delta)


def test_epsilon_of_a_measured_gaussian_is_the_closed_form() -> None:
    for mu in (0.1, 0.8375, 3.0):
        assert accountant.gaussian_epsilon(mu, 1e-6) == pytest.approx(gaussian_epsilon(1 / mu, 1e-6), abs=1e-9)
    assert accountant.gaussian_epsilon(0.0, 1e-6) == 0.0
    with pytest.raises(InvalidParameter):
        accountant.gaussian_epsilon(math.inf, 1e-6)
