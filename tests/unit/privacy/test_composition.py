"""What counts how often: noised sums, relations, households, sampling, and fresh beside logged on one data set."""

import ast
import dataclasses
import math
from functools import partial
from pathlib import Path

import dp_accounting
import pytest
import sum_events
from dp_accounting.rdp import RdpAccountant
from sum_events import gaussian_epsilon

import secure_frl
from secure_frl.errors import BudgetExhausted, InvalidParameter
from secure_frl.privacy.accountant import epsilon, guard
from secure_frl.privacy.charging import WhatIf, charge, merge
from secure_frl.privacy.events import GaussianSumEvent
from secure_frl.secure_sum import Budget

DELTA = 1e-5
event = partial(sum_events.event, honest=99)  # so many shares of the finest grid are nearly the ideal Gaussian


def windows(count: int, sigma: float) -> list[GaussianSumEvent]:
    return [event(sigma, window=str(number)) for number in range(count)]


def logged(sigma: float, rate: float = 1.0, **changes: object) -> GaussianSumEvent:
    sampler = "all" if rate == 1 else "poisson"
    return event(sigma, composition_group="ward", sampling_rate=rate, sampler=sampler, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_a_release_of_several_noised_sums_costs_each_of_them(noise: str) -> None:
    steps = event(noise=noise, noised_sums=4)

    assert epsilon([steps], DELTA) == pytest.approx(gaussian_epsilon(1.081 / 2, DELTA), rel=2e-3)
    # Fresh: R times the worst window, each with all its sums.
    twice = [dataclasses.replace(steps, window=name, max_rounds_per_person=2) for name in ("a", "b", "c")]
    assert epsilon(twice, DELTA) == pytest.approx(gaussian_epsilon(1.081 / 8**0.5, DELTA), rel=2e-3)


def test_noised_sums_on_logged_data_all_count_under_sampling() -> None:
    # privacy.md, section 6: 50 releases at q = .1 and sigma 1.350 cost 3; here ten releases of five sums.
    parts = [logged(1.350, 0.1, window=str(n), noised_sums=5) for n in range(10)]

    assert epsilon(parts, DELTA) == pytest.approx(3, rel=4e-3)


@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_a_replaced_unit_moves_the_sum_twice(noise: str) -> None:
    replaced = event(2.5, noise=noise, relation="replace_one")

    assert epsilon([replaced], DELTA) == pytest.approx(gaussian_epsilon(1.25, DELTA), rel=2e-3)
    household = epsilon([replaced], DELTA, WhatIf(people=2))
    assert household == pytest.approx(gaussian_epsilon(0.625, DELTA), rel=2e-3)


def test_a_household_of_sampled_people_comes_with_the_rate_of_any_of_them() -> None:
    made = logged(4.0, 0.1)

    found = epsilon([made], DELTA, WhatIf(people=4))

    assert found == pytest.approx(epsilon([logged(1.0, 1 - 0.9**4)], DELTA), rel=1e-3)
    assert found > epsilon([logged(1.0, 0.1)], DELTA)  # at the rate of one of them it would be stated too low


def test_the_rate_of_any_dominates_the_exact_mixture_of_shifts() -> None:
    """Two sites, each with rate .3: the shift is 0, 1 or 2 by chance; dp-accounting has that mixture exactly."""
    from dp_accounting import pld

    mixture = pld.privacy_loss_distribution.from_mixture_gaussian_mechanism(
        3.0, [0, 1, 2], [0.49, 0.42, 0.09], value_discretization_interval=1e-2
    ).self_compose(5)
    stated = epsilon([logged(3.0, 0.3, window=str(n), max_sites_per_person=2) for n in range(5)], DELTA)

    exact = mixture.get_epsilon_for_delta(DELTA)

    assert exact < stated < 2 * exact


def test_fresh_and_logged_events_on_one_data_set_add_up() -> None:
    fresh, steps = windows(9, sigma=2.0), [logged(4.0, charter_hash="bb", window=str(n)) for n in range(4)]

    # 1/2^2 once, for each person is in one window; 1/4^2 four times: one Gaussian of multiplier sqrt 2.
    assert epsilon([*fresh, *steps], DELTA) == pytest.approx(gaussian_epsilon(2**0.5, DELTA), rel=2e-3)


def test_the_worst_fresh_window_has_the_least_noise_and_the_most_sums_of_any() -> None:
    quiet, many = event(1.5, window="a"), event(3.0, window="b", noised_sums=4)

    assert epsilon([quiet, many], DELTA) == pytest.approx(gaussian_epsilon(1.5 / 2, DELTA), rel=2e-3)


def test_failures_of_the_rounding_bound_count_each_sum_and_each_shift() -> None:
    """At beta 1e-9 ten thousand shifts use up a delta of 1e-5, and nothing may be stated."""
    few = event(900.0, rounding_beta=1e-9, noised_sums=1000)
    many = dataclasses.replace(few, noised_sums=10_000)

    assert math.isfinite(epsilon([few], 1e-5))
    assert epsilon([many], 1e-5) == math.inf
    six = dataclasses.replace(few, noised_sums=6_000)
    assert math.isfinite(epsilon([six], 1e-5))
    assert epsilon([dataclasses.replace(six, relation="replace_one")], 1e-5) == math.inf


@pytest.mark.parametrize("changes", [{"unit": "trajectory"}, {"unit": "site"}, {"relation": "replace_one"}])
def test_units_of_two_kinds_on_one_data_set_have_no_epsilon_together(changes: dict[str, str]) -> None:
    before, other = event(30.0), event(30.0, charter_hash="bb", **changes)  # type: ignore[arg-type]

    with pytest.raises(InvalidParameter, match="one unit and relation"):
        epsilon([before, other], DELTA)
    with pytest.raises(BudgetExhausted, match="no epsilon covers both"):
        guard(Budget(4.0, DELTA), [before.canonical()], other.canonical())


def test_no_other_accountant_can_be_reached_from_the_package() -> None:
    """Opacus' GDP accountant, by the central limit theorem, states far less than is spent."""
    from opacus.accountants.analysis import gdp

    spent = [logged(0.6, 0.02, window=str(n)) for n in range(100)]
    assert gdp.compute_eps_poisson(steps=100, noise_multiplier=0.6, sample_rate=0.02, delta=DELTA) < 3.28
    assert epsilon(spent, DELTA) == pytest.approx(5.85, abs=0.01)

    found = []
    for path in Path(secure_frl.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            found += [f"{path.name}: {name}" for name in names if "accountants" in name or name == "PrivacyEngine"]
            text = node.value if isinstance(node, ast.Constant) else getattr(node, "attr", None)
            if text in ("GaussianAccountant", "create_accountant", "gdp"):
                found.append(f"{path.name}: {text}")
    assert found == []


def renyi_epsilon(spent: list[GaussianSumEvent]) -> float:
    """By Rényi DP, which is looser. Source: Mironov, Talwar and Zhang 2019; the conversion is dp-accounting's."""
    renyi = RdpAccountant()
    for sigma, rate, copies in merge(tuple(sorted(charge(spent)))):
        one = dp_accounting.GaussianDpEvent(sigma)
        renyi.compose(one if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, one), copies)
    return float(renyi.get_epsilon(DELTA))


def test_renyi_accounting_agrees_from_above() -> None:
    for spent in ([event(2.0)], [logged(2.179, 0.1, window=str(n)) for n in range(200)]):
        found, renyi = epsilon(spent, DELTA), renyi_epsilon(spent)
        assert found < renyi < 1.35 * found
