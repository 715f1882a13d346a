"""A stated epsilon: everything it rests on stands beside it, in figures and in words."""

from __future__ import annotations

import dataclasses
import json

import pytest

from secure_frl.privacy.planning import make_plan
from secure_frl.privacy.statement import Statement, trust_in
from secure_frl.study_file import parse_study


def stated(**overrides: object) -> Statement:
    raw = {"study": {"schema": 1, "name": "x"}}
    return make_plan(parse_study(raw, {key.replace("__", "."): value for key, value in overrides.items()})).statement


def test_every_term_is_in_the_figures_and_in_the_sentence() -> None:
    found = stated(privacy__max_rounds_per_person=2, privacy__relation="replace_one", data__dataset_id="ward-a")
    plain = json.loads(json.dumps(found.plain(), allow_nan=False))

    for term in (
        "delta 1e-06",
        "one patient",
        "replace_one",
        "ward-a",
        "at most 2 round(s)",
        "at most 1 site(s)",
        f"{found.epsilon_if_one_more_site:.4g}",
        "every unit takes part",
        "distributed noise",
        "7 honest shares (colluders: 1)",
        "PLD",
        "coordinator",
    ):
        assert term in plain["sentence"]
    assert (plain["honest_shares_assumed"], plain["max_colluders"], plain["sampling_rate"]) == (7, 1, 1.0)
    assert plain["composition"] == "fresh windows"


def test_a_replaced_patient_needs_twice_the_noise() -> None:
    once = make_plan(parse_study({"study": {"schema": 1, "name": "x"}})).constants.noise_multiplier
    study = parse_study({"study": {"schema": 1, "name": "x"}}, {"privacy.relation": "replace_one"})

    assert make_plan(study).constants.noise_multiplier == pytest.approx(2 * once, rel=0.01)


def test_a_site_is_charged_for_every_round_and_the_plan_warns_of_its_noise() -> None:
    study = parse_study(
        {"study": {"schema": 1, "name": "x"}}, {"privacy.unit": "site", "privacy.delta": 1e-5, "training.rounds": 3}
    )

    plan = make_plan(study)

    assert (plan.declared_units, plan.declared_batch, plan.statement.composition) == (10, 1, "one data set")
    assert "every release on the data set counts" in plan.statement.sentence()
    # Three rounds at epsilon 4 and delta 1e-5: sqrt 3 of the multiplier 1.081 of one release (privacy.md, section 6).
    assert plan.constants.noise_multiplier == pytest.approx(3**0.5 * 1.081, rel=5e-3)
    assert plan.noise_norm == pytest.approx(plan.constants.noise_multiplier * 3427**0.5 / 10)
    assert f"{plan.noise_norm:.3g} clips long for 10 sites" in plan.warnings[0]


def test_a_study_of_steps_is_marked_in_every_plan() -> None:
    changes = {
        "privacy.unit": "unsafe-transition",
        "training.gae_lambda": 0.0,
        "training.episodes_per_site": 900,
        "policy.critic": "none",
        "privacy.delta": 1e-8,
    }
    plan = make_plan(parse_study({"study": {"schema": 1, "name": "x"}}, changes))

    assert plan.plain()["unsafe"] == ["privacy.unit = unsafe-transition"]
    assert plan.declared_units == 10 * 10 * 900 * 48
    assert any("no patient is" in warning for warning in plan.warnings)


def test_without_noise_the_sentence_states_nothing() -> None:
    found = stated(privacy__noise="unsafe-none")

    assert found.epsilon is None
    assert found.sentence() == "no epsilon is stated: no noise is added, nobody is protected"


def test_who_is_trusted_follows_from_noise_protection_and_profile() -> None:
    constants = make_plan(parse_study({"study": {"schema": 1, "name": "x"}})).constants

    def trust(**changes: str) -> str:
        return trust_in(dataclasses.replace(constants, **changes))  # type: ignore[arg-type]  # fields by name

    assert "even one that breaks the protocol" in trust()
    assert "no other" in trust(profile="cross_device")
    assert trust(protection="ckks+masking") == trust()
    assert "without masks" in trust(protection="unsafe-plain")
    assert "the coordinator included" in trust(noise="local")


def test_under_ckks_the_sentence_says_that_one_site_with_the_coordinator_reads_single_updates() -> None:
    sentence = stated(protection__method="ckks").sentence()

    assert sentence.startswith("epsilon ")
    assert "against the coordinator alone, which has no key, and against up to 1 site(s)" in sentence
    assert "and the coordinator follows the protocol" in sentence
    assert "NOT against the coordinator in league with one site" in sentence
    assert "each with its own share of the noise only" in sentence
    assert "the coordinator included" in stated(protection__method="ckks", privacy__noise="local").trust
