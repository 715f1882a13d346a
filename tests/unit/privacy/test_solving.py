"""One unknown from the others: what is found fits, the next value does not, and two unknowns are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secure_frl.errors import CharterRefused, InvalidParameter
from secure_frl.privacy import accountant
from secure_frl.privacy.planning import constants_at, make_plan, planned_event, sum_constants
from secure_frl.privacy.solving import solve
from secure_frl.study import Study
from secure_frl.study_file import load_study, parse_study

BELLMAN = Path(__file__).resolve().parents[3] / "examples/logged_icu/bellman.toml"

LOGGED: dict[str, Any] = {
    "study": {"schema": 1, "name": "logged"},
    "data": {"source": "steps", "path": "steps", "dataset_id": "ward-a", "declared_units": 2000},
    "policy": {"critic": "none"},
    "training": {"objective": "behaviour_cloning", "rounds": 50},
    "privacy": {"target_epsilon": 3.0, "delta": 1e-5, "sampling_rate": 0.1},
}
FRESH: dict[str, Any] = {"study": {"schema": 1, "name": "fresh"}, "privacy": {"target_epsilon": 4.0, "delta": 1e-6}}


def logged(**overrides: object) -> Study:
    return parse_study(LOGGED, {key.replace("__", "."): value for key, value in overrides.items()})


def fresh(**overrides: object) -> Study:
    return parse_study(FRESH, {key.replace("__", "."): value for key, value in overrides.items()})


def spent(study: Study, sigma: float) -> float:
    event = planned_event(study, constants_at(study, sigma))
    return accountant.epsilon_of_schedule(((event, study.training.rounds),))


def test_sigma_under_sampling_is_the_designs_and_the_integers_cost_little() -> None:
    # privacy.md, section 6: 50 releases at q = .1 and epsilon 3 need 1.350 for the ideal Gaussian.
    sigma = sum_constants(logged()).noise_multiplier

    assert 1.350 <= sigma <= 1.350 * 1.005
    assert 2.999 <= spent(logged(), sigma) <= 3.0


def test_the_figures_that_are_found_agree_with_each_other() -> None:
    given = {"training__rounds": 3, "privacy__sampling_rate": 0.3, "privacy__noise": "local"}
    epsilon = solve(logged(**given), "epsilon", sigma=2.0).value
    target = logged(**given, privacy__target_epsilon=epsilon)

    assert solve(target, "sigma").value == pytest.approx(2.0, rel=2e-4)
    rounds = solve(target, "rounds", sigma=2.0)
    assert rounds.value == rounds.plan.rounds == 3
    assert solve(target, "sampling_rate", sigma=2.0).value == pytest.approx(0.3, abs=1e-4)


def test_the_last_round_that_fits_is_found_and_one_more_does_not_fit() -> None:
    found = solve(logged(privacy__sampling_rate=1.0), "rounds", sigma=9.83)

    # privacy.md, section 6: 9.83 for 50 rounds of the ideal Gaussian. Integers of length 1,024 sqrt 7 / 9.83 = 276 and
    # 2,001 rounded values make the shift 1.8 % longer (section 4), so 50 / 1.018^2.
    assert found.value == 48
    assert spent(found.study, 9.83) <= 3.0
    more = logged(privacy__sampling_rate=1.0, training__rounds=int(found.value) + 1)
    assert spent(more, 9.83) > 3.0


def test_fresh_rounds_end_where_delta_would_be_too_large_for_the_people_declared() -> None:
    found = solve(fresh(), "rounds", sigma=1.3)

    assert found.value == 49  # 10 sites x 2,001 people x 49 rounds = 980,490 < 1 / delta = 1,000,000
    assert found.plan.epsilon == pytest.approx(spent(fresh(), 1.3))


@pytest.mark.parametrize(("make", "limit"), [(fresh, 0.01), (logged, 0.2)])
def test_the_fewest_patients_keep_the_noise_below_the_limit(make: Any, limit: float) -> None:
    found = solve(make(), "patients", largest_noise=limit)
    key = "data__declared_units" if make is logged else "training__episodes_per_site"

    assert found.plan.noise_norm <= limit
    assert found.plan.declared_batch * 1.2 > found.plan.noise_norm / limit * found.plan.declared_batch
    fewer = make_plan(make(**{key: int(found.value) - 1}), found.plan.constants.noise_multiplier)
    assert fewer.noise_norm > limit


@pytest.mark.parametrize("unknown", ["epsilon", "rounds", "sampling_rate"])
def test_two_unknowns_are_refused(unknown: str) -> None:
    with pytest.raises(InvalidParameter, match="got two"):
        solve(logged(), unknown)


def test_a_figure_that_is_asked_for_and_given_is_refused_and_so_is_an_unknown_one() -> None:
    with pytest.raises(InvalidParameter, match="asked for and given"):
        solve(logged(), "sigma", sigma=1.0)
    with pytest.raises(InvalidParameter, match="solve for"):
        solve(logged(), "delta")


@pytest.mark.parametrize(
    ("study", "unknown", "options", "words"),
    [
        (logged(), "rounds", {"sigma": 0.3}, "even one round spends"),
        (
            logged(privacy__target_epsilon=0.001, privacy__sampling_rate=0.0002, training__rounds=100),
            "sampling_rate",
            {"sigma": 0.8},
            "even a sampling rate of 0.0001",
        ),
        (fresh(), "sampling_rate", {"sigma": 1.0}, "fresh windows"),
        (fresh(), "epsilon", {"sigma": 0.08}, "Raise --sigma"),
        (fresh(), "patients", {"largest_noise": 1e-5}, "Add sites"),
        (fresh(), "patients", {"sigma": 0.5}, "any number of patients spends"),
        (fresh(), "patients", {"largest_noise": 0.0005}, "declared units"),  # so many people need a smaller delta
        (fresh(privacy__unit="site", privacy__target_epsilon=50.0), "patients", {}, "unit = site"),
        (fresh(privacy__noise="unsafe-none"), "epsilon", {"sigma": 1.0}, "unsafe-none"),
        (fresh(privacy__target_epsilon=0.001), "sigma", {}, "got none"),
    ],
)
def test_what_cannot_be_reached_is_refused_with_what_to_change(
    study: Study, unknown: str, options: dict[str, float], words: str
) -> None:
    with pytest.raises(CharterRefused, match=words):
        solve(study, unknown, **options)


def test_rounds_of_values_share_one_budget_so_the_best_number_is_given_at_the_targets_own_noise() -> None:
    values = load_study(BELLMAN, {"training.rounds": 5})

    found = solve(values, "rounds")

    assert found.value == found.study.training.rounds == 2
    assert found.plan.constants.noise_multiplier == pytest.approx(
        make_plan(values).constants.noise_multiplier,
        rel=0.005,  # more roundings cost a little
    )
    assert "one backup" in found.sentence()
    assert any("rounds = 5" in warning for warning in make_plan(values).warnings)
    assert not any("rounds =" in warning for warning in found.plan.warnings)


def test_rounds_of_values_under_too_little_noise_for_the_target_are_refused() -> None:
    with pytest.raises(CharterRefused, match="one backup spends"):
        solve(load_study(BELLMAN), "rounds", sigma=0.2)

    assert solve(load_study(BELLMAN), "rounds", sigma=20.0).plan.epsilon < 0.3
