"""From a study to constants and promises."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
from sum_events import gaussian_epsilon

from secure_frl.encoding import slots
from secure_frl.errors import BitBudget, CharterRefused
from secure_frl.privacy.accountant import guard
from secure_frl.privacy.planning import constants_at, make_plan, planned_event, sum_constants
from secure_frl.secure_sum import Budget
from secure_frl.study import Study
from secure_frl.study_file import parse_study

SHIPPED: dict[str, Any] = {  # the shipped study with the rounds and clips of the design, whose figures are known
    "study": {"schema": 1, "name": "icu-sepsis"},
    "sites": {"count": 10, "min_survivors": 8, "max_colluders": 1},
    "training": {"rounds": 15, "episodes_per_site": 1334},
    "privacy": {"target_epsilon": 4.0, "delta": 1e-6, "critic_clip_norm": 1.0},
}


def shipped(**overrides: object) -> Study:
    return parse_study(SHIPPED, {key.replace("__", "."): value for key, value in overrides.items()})


def altered(section: str, **changes: object) -> Study:
    """A study with numbers that the file's own checks would have refused: the plan must not rely on them."""
    study = shipped()
    part = getattr(study, section)
    return study.model_copy(update={section: part.model_copy(update=changes)})


def test_the_shipped_study_gets_the_constants_of_the_design() -> None:
    plan = make_plan(shipped())
    constants = plan.constants

    assert (constants.threshold, constants.honest_shares, constants.neighbours) == (6, 7, 9)
    assert constants.length == 2001 + 713 + 713
    assert (constants.integer_noise_scale, constants.modulus_bits) == (1024, 26)
    # sigma 1.194 for the ideal Gaussian (privacy.md, section 6), and the price of integers above it.
    assert 1.194 < constants.noise_multiplier < 1.194 * 1.003
    assert constants.scale == pytest.approx(1024 * 7**0.5 / constants.noise_multiplier)
    assert constants.bound == pytest.approx(constants.scale * 1334, abs=2)
    assert 10 * constants.bound + constants.noise_bound < 2**25
    assert [(b.name, b.clip_norm, b.noise_share) for b in constants.blocks] == [
        ("policy", 0.4, 0.85),
        ("critic", 1.0, 0.15),
    ]
    assert plan.declared_units == 200_100


def test_the_promise_is_just_below_the_target_and_equal_in_every_round() -> None:
    plan = make_plan(shipped())

    assert plan.epsilon is not None
    assert 3.999 < plan.epsilon <= 4.0
    assert len(plan.epsilon_by_round) == 15
    assert set(plan.epsilon_by_round) == {plan.epsilon}


@pytest.mark.parametrize("noise", ["distributed", "local"])
@pytest.mark.parametrize("target", [1.0, 4.0, 8.0])
def test_the_guard_never_refuses_what_the_plan_promised(target: float, noise: str) -> None:
    study = shipped(privacy__target_epsilon=target, privacy__noise=noise)
    one = planned_event(study, make_plan(study).constants)
    rounds = [dataclasses.replace(one, window=str(number)).canonical() for number in range(15)]

    guard(Budget(target, 1e-6), rounds[:-1], rounds[-1])


def test_what_else_is_printed_follows_from_the_same_noise() -> None:
    plan = make_plan(shipped())

    # Computed beside the code: the exact Gaussian trade-off at shift sqrt(7/6), 2 and 4 over sigma 1.194.
    assert plan.epsilon_if_one_more_colludes == pytest.approx(4.363, abs=0.005)
    assert plan.epsilon_if_one_more_site == pytest.approx(8.897, abs=0.01)
    assert plan.epsilon_household_of_2 == plan.epsilon_if_one_more_site
    assert plan.epsilon_household_of_4 == pytest.approx(20.93, abs=0.02)
    assert plan.noise_norm == pytest.approx(1.1956 * 3427**0.5 / 13_340, rel=1e-3)
    assert plan.warnings == ()


def test_more_rounds_and_sites_a_person_cost_more_noise() -> None:
    base = make_plan(shipped()).constants.noise_multiplier
    rounds = make_plan(shipped(privacy__max_rounds_per_person=4))
    sites = make_plan(shipped(privacy__max_sites_per_person=2)).constants.noise_multiplier
    local_sites = make_plan(shipped(privacy__max_sites_per_person=2, privacy__noise="local")).constants

    assert rounds.constants.noise_multiplier == pytest.approx(2 * base, rel=0.01)
    assert sites == pytest.approx(2 * base, rel=0.01)
    assert local_sites.noise_multiplier == pytest.approx(2**0.5 * base, rel=0.01)
    spent = rounds.epsilon_by_round
    assert None not in spent
    assert spent[0] < spent[1] < spent[2] < spent[3] == spent[14]  # type: ignore[operator]  # none is None


def test_local_noise_uses_the_finer_grid_and_all_of_the_noise() -> None:
    constants = make_plan(shipped(privacy__noise="local")).constants

    assert constants.integer_noise_scale == 4096
    assert constants.scale == pytest.approx(4096 / constants.noise_multiplier)


def test_without_noise_no_epsilon_is_stated_and_the_plan_says_so() -> None:
    plan = make_plan(shipped(privacy__noise="unsafe-none"))

    assert (plan.epsilon, plan.epsilon_household_of_2, plan.epsilon_if_one_more_colludes) == (None, None, None)
    assert (plan.constants.noise_multiplier, plan.constants.integer_noise_scale) == (0.0, 0)
    assert plan.constants.scale == 2.0**16
    assert "unsafe-none" in plan.warnings[0]


def test_noise_longer_than_the_clip_is_warned_about() -> None:
    plan = make_plan(shipped(training__episodes_per_site=2, privacy__target_epsilon=0.5))

    assert plan.noise_norm > 1
    assert "drowns" in plan.warnings[0]


@pytest.mark.parametrize(
    ("section", "changes", "named"),
    [
        ("sites", {"max_colluders": 0}, "max_colluders = 0"),
        ("sites", {"min_survivors": 5}, "min_survivors = 5"),
        ("sites", {"max_colluders": 7}, "max_colluders"),
        ("sites", {"count": 2}, "sites = 2"),
        ("sites", {"count": 101}, "sites = 101"),
        ("protection", {"threshold": 5}, "threshold = 5"),
        ("protection", {"method": "ckks+masking", "profile": "cross_device"}, "the coordinator would have it too"),
        ("protection", {"threshold": 9}, "min_survivors = 8"),
        ("privacy", {"delta": 1 / 200_100}, "delta = "),
        ("privacy", {"unit": "site", "max_rounds_per_person": 2}, "1 for unit = site"),
        ("privacy", {"unit": "unsafe-transition"}, "needs no other step"),
        ("privacy", {"relation": "replace_one", "sampling_rate": 0.1}, "not that of twice the shift"),
        ("privacy", {"sampling_rate": 0.1}, "sampling_rate = 0.1"),
        ("privacy", {"max_rounds_per_person": 16}, "max_rounds_per_person = 16"),
        ("privacy", {"max_sites_per_person": 11}, "max_sites_per_person = 11"),
        ("training", {"episodes_per_site": 60_001}, "units a site = 60001"),
    ],
)
def test_constants_that_no_site_may_sign_are_refused(section: str, changes: dict[str, object], named: str) -> None:
    with pytest.raises(CharterRefused, match=named):
        make_plan(altered(section, **changes))


def test_a_delta_just_below_one_in_the_declared_units_passes() -> None:
    make_plan(altered("privacy", delta=0.999 / 200_100))


def test_a_sum_beyond_the_ring_is_refused() -> None:
    with pytest.raises(BitBudget, match="modulus_bits=25"):
        make_plan(altered("protection", modulus_bits=25))


def test_a_sum_beyond_32_bits_gets_words_of_eight_bytes() -> None:
    wide = make_plan(
        shipped(training__episodes_per_site=40_000, privacy__integer_noise_scale=8192, privacy__delta=1e-7)
    )
    narrow, same = make_plan(shipped()), make_plan(altered("protection", modulus_bits=64))

    assert wide.constants.modulus_bits == 34
    assert wide.cost.upload_bytes - narrow.cost.upload_bytes == 4 * (narrow.constants.length + 4)
    assert same.cost.upload_bytes == wide.cost.upload_bytes
    assert same.constants.modulus_bits == 64


# --- the three protections -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ckks", "ckks+masking"])
def test_encrypted_sums_have_the_constants_and_the_privacy_of_masked_ones(method: str) -> None:
    masked, encrypted = make_plan(shipped()), make_plan(shipped(protection__method=method))

    assert encrypted.constants == dataclasses.replace(masked.constants, protection=method)
    assert encrypted.epsilon_by_round == masked.epsilon_by_round
    assert encrypted.epsilon_if_one_more_colludes == masked.epsilon_if_one_more_colludes
    assert encrypted.cost_by_protection == masked.cost_by_protection


def test_a_key_holder_beside_the_coordinator_meets_one_share_of_noise_under_ckks_only() -> None:
    plan = make_plan(shipped(protection__method="ckks"))
    local = make_plan(shipped(protection__method="ckks", privacy__noise="local"))

    # One share of seven: the exact trade-off of one Gaussian of sigma / sqrt(7), computed beside the code.
    exact = gaussian_epsilon(plan.constants.noise_multiplier / 7**0.5, 1e-6)
    assert plan.epsilon_if_key_holder_colludes == pytest.approx(exact, rel=3e-3)
    assert local.epsilon_if_key_holder_colludes == local.epsilon
    for method in ("masking", "ckks+masking"):
        assert make_plan(shipped(protection__method=method)).epsilon_if_key_holder_colludes is None
    silent = make_plan(shipped(protection__method="ckks", privacy__noise="unsafe-none"))
    assert silent.epsilon_if_key_holder_colludes is None


def test_under_plain_ckks_a_value_has_one_limb_for_carries_between_two_say_more_than_the_sum() -> None:
    make_plan(altered("protection", method="ckks", modulus_bits=29))
    with pytest.raises(BitBudget, match="29 bits under plain ckks"):
        make_plan(altered("protection", method="ckks", modulus_bits=30))
    make_plan(altered("protection", method="ckks+masking", modulus_bits=30))


def test_limbs_whose_sum_is_not_exact_are_refused_with_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ten sites need 4 bits above a limb; 26 bits of 3,431 words are 12 chunks in limbs of 5 bits, whose numbers are
    # below 2^4, and 14 in limbs of 4, where 2^3 is too few. In a range of 4 bits no limb is left at all.
    study = shipped(protection__method="ckks+masking")

    monkeypatch.setattr(slots, "EXACT_BITS", 9)
    assert make_plan(study).cost.ciphertexts == 12
    for too_few, words in ((8, r"fewer than 2\^3 chunks, got 14"), (4, "Use the protection masking")):
        monkeypatch.setattr(slots, "EXACT_BITS", too_few)
        with pytest.raises(BitBudget, match=words):
            sum_constants(study)
        with pytest.raises(BitBudget, match=words):
            constants_at(study, 1.2)
    assert [one.protection for one in make_plan(shipped()).cost_by_protection] == ["masking"]


@pytest.mark.slow
def test_planning_and_accounting_need_no_torch() -> None:
    code = (
        "import sys; import secure_frl.privacy.planning, secure_frl.privacy.noise; "
        "import dp_accounting, dp_accounting.pld; "
        "heavy = {'torch', 'opacus'} & set(sys.modules); assert not heavy, heavy"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)  # fixed arguments
