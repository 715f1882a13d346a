"""A plan's figures and words."""

import dataclasses
import json

from sum_events import sum_constants

from secure_frl.privacy.plan import Plan
from secure_frl.privacy.round_cost import RoundCost
from secure_frl.privacy.statement import Statement
from secure_frl.secure_sum import Block

MASKING = RoundCost("masking", 17_718, 17_718, 0.5, 0)
PLAN = Plan(
    constants=sum_constants(
        modulus_bits=26,
        scale=2266.0,
        bound=3_000_000,
        noise_bound=27_000,
        blocks=(Block("policy", 0, 100, 0.4, 1.0),),
        noise_multiplier=1.1956,
    ),
    statement=Statement(
        epsilon=3.9,
        delta=1e-6,
        unit="patient",
        relation="add_or_remove_one",
        max_rounds_per_person=1,
        max_sites_per_person=1,
        epsilon_if_one_more_site=8.9,
        sampling_rate=1.0,
        noised_sums=1,
        composition="fresh windows",
        data_set="",
        accountant="dp-accounting PLD, rounded up",
        noise="distributed",
        honest_shares_assumed=7,
        max_colluders=1,
        trust="against the coordinator",
    ),
    target_epsilon=4.0,
    rounds=2,
    declared_batch=1334,
    declared_units=26_680,
    rounds_shown=(1, 2),
    epsilon_by_round=(3.9, 3.9),
    epsilon_by_shares=((7, 3.9), (6, 4.36), (1, None)),
    epsilon_if_one_more_colludes=4.36,
    epsilon_if_key_holder_colludes=None,
    epsilon_household_of_2=8.9,
    epsilon_household_of_4=None,
    noise_norm=0.005,
    unsafe=(),
    cost=MASKING,
    cost_by_protection=(MASKING, RoundCost("ckks", 124_602, 124_602, 0.75, 2)),
)


def test_the_figures_are_json_under_the_names_of_the_design() -> None:
    plain = json.loads(json.dumps(PLAN.plain(), allow_nan=False))

    assert plain["epsilon"] == 3.9
    assert plain["epsilon_by_round"] == [3.9, 3.9]
    assert plain["epsilon_household_of_4"] is None
    assert (plain["noise_multiplier"], plain["noise_norm"], plain["honest_shares_assumed"]) == (1.1956, 0.005, 7)
    assert (plain["upload_bytes"], plain["round_seconds"]) == (17_718, 0.5)
    assert plain["cost_by_protection"]["ckks"] == {
        "upload_bytes": 124_602,
        "download_bytes": 124_602,
        "round_seconds": 0.75,
        "ciphertexts": 2,
    }
    assert plain["cost_by_protection"]["masking"]["upload_bytes"] == 17_718
    assert plain["blocks"] == [{"name": "policy", "start": 0, "stop": 100, "clip_norm": 0.4, "noise_share": 1.0}]


def test_an_epsilon_is_never_shown_without_its_terms() -> None:
    rows = {name: (value, note) for name, value, note in PLAN.explained()}

    value, note = rows["epsilon"]
    assert value == "3.9"
    for term in ("delta 1e-06", "patient", "add or remove one"):
        assert term in note
    assert rows["by honest shares"][0] == "7: 3.9  6: 4.36  1: not stated"
    assert rows["by round"][0] == "1: 3.9  2: 3.9"
    assert rows["household"][0] == "8.9 / not stated"


def test_the_other_protections_stand_beside_the_studys_own() -> None:
    rows = {name: (value, note) for name, value, note in PLAN.explained()}

    assert rows["upload"][0] == "17,718 bytes"
    assert rows["with ckks"] == ("124,602 up, 124,602 down, 0.8 s", "the same in 2 ciphertexts")
    assert "with masking" not in rows
    assert "key holder colludes" not in rows


def test_under_ckks_a_plan_shows_and_warns_what_a_key_holder_beside_the_coordinator_reads() -> None:
    constants = dataclasses.replace(PLAN.constants, protection="ckks")
    plan = dataclasses.replace(PLAN, constants=constants, epsilon_if_key_holder_colludes=12.46)
    rows = {name: (value, note) for name, value, note in plan.explained()}

    assert rows["key holder colludes"][0] == "12.46"
    assert "in league with one site" in rows["key holder colludes"][1]
    assert "one site in league with the coordinator reads every single update" in plan.warnings[0]
    assert plan.plain()["epsilon_if_key_holder_colludes"] == 12.46
    both = dataclasses.replace(PLAN, constants=dataclasses.replace(constants, protection="ckks+masking"))
    assert both.warnings == ()


def test_a_plan_that_hides_nothing_has_no_warning_and_a_bad_one_says_why() -> None:
    unsafe = dataclasses.replace(PLAN.constants, noise="unsafe-none", noise_multiplier=0.0)

    def of_unit(unit: str) -> Plan:
        return dataclasses.replace(PLAN, statement=dataclasses.replace(PLAN.statement, unit=unit))

    assert "no patient is" in of_unit("unsafe-transition").warnings[0]
    assert "0.005 clips long for 10 sites" in of_unit("site").warnings[0]
    assert PLAN.warnings == ()
    few = dataclasses.replace(PLAN, statement=dataclasses.replace(PLAN.statement, delta=0.05))
    assert "delta = 0.05" in few.warnings[0]
    assert "drowns" in dataclasses.replace(PLAN, noise_norm=1.5).warnings[0]
    device = dataclasses.replace(PLAN.constants, profile="cross_device")
    assert "follows the protocol" in dataclasses.replace(PLAN, constants=device).warnings[0]
    assert "nobody is protected" in dataclasses.replace(PLAN, constants=unsafe).warnings[0]
