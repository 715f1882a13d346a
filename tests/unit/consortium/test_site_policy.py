"""A site's own limits: which charters it signs, and the name of the limit that forbids the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from signed_studies import COORDINATOR, STUDY, TEN, charter_of, roster_of

from secure_frl.consortium.charter import Charter, make_charter
from secure_frl.consortium.site_policy import SitePolicy, policy_of_simulated_site
from secure_frl.errors import PolicyForbids


def test_a_simulated_sites_limits_allow_its_own_study() -> None:
    policy_of_simulated_site(charter_of()).check(charter_of())


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"max_epsilon": 3.9}, "target_epsilon"),
        ({"max_delta": 1e-7}, "delta"),
        ({"protections": frozenset({"ckks"})}, "protection masking"),
        ({"noises": frozenset({"local"})}, "noise distributed"),
        ({"smallest_cohort": 9}, "min_survivors 8"),
        ({"units": frozenset({"site"})}, "unit patient"),
        ({"environments": frozenset({"CartPole-v1"})}, "environment icu-sepsis"),
    ],
)
def test_a_charter_outside_a_limit_is_forbidden_by_name(limits: dict[str, object], named: str) -> None:
    policy = replace(SitePolicy(max_epsilon=4.0, max_delta=1e-6), **limits)

    with pytest.raises(PolicyForbids, match=named):
        policy.check(charter_of())


def test_a_site_does_not_sign_for_code_that_its_policy_does_not_name() -> None:
    study = STUDY | {"data": {"environment": "somebody.module:factory"}}
    charter = make_charter(study, roster_of(), TEN, COORDINATOR.public_key)
    policy = SitePolicy(max_epsilon=4.0, max_delta=1e-6)

    with pytest.raises(PolicyForbids, match=r"environment somebody\.module:factory"):
        policy.check(charter)
    replace(policy, environments=frozenset({"somebody.module:factory"})).check(charter)


def test_a_study_does_not_choose_what_a_site_spends_in_all_its_life() -> None:
    study = STUDY | {"data": {"dataset_id": "ward-a", "lifetime_epsilon": 1000.0}}
    charter = make_charter(study, roster_of(), TEN, COORDINATOR.public_key)
    policy = SitePolicy(max_epsilon=4.0, max_delta=1e-6)

    with pytest.raises(PolicyForbids, match=r"lifetime_epsilon 1000\.0 above 4\.0"):
        policy.check(charter)
    replace(policy, max_lifetime_epsilon=1000.0).check(charter)
    policy_of_simulated_site(charter).check(charter)


def test_a_trajectory_is_no_person_unless_the_site_says_so() -> None:
    study = STUDY | {"privacy": STUDY["privacy"] | {"unit": "trajectory"}}
    charter = make_charter(study, roster_of(), TEN, COORDINATOR.public_key)
    policy = SitePolicy(max_epsilon=4.0, max_delta=1e-6)

    with pytest.raises(PolicyForbids, match="unit trajectory"):
        policy.check(charter)
    replace(policy, units=frozenset({"trajectory"})).check(charter)


def test_nothing_unsafe_passes_unless_the_site_says_so() -> None:
    study = STUDY | {"protection": STUDY["protection"] | {"method": "unsafe-plain"}}
    unsafe = make_charter(study, roster_of(), replace(TEN, protection="unsafe-plain"), COORDINATOR.public_key)
    listed = SitePolicy(max_epsilon=4.0, max_delta=1e-6, protections=frozenset({"unsafe-plain"}))

    with pytest.raises(PolicyForbids, match="unsafe-plain"):
        listed.check(unsafe)
    replace(listed, allow_unsafe=True).check(unsafe)


def protected_by(method: str) -> Charter:
    study = STUDY | {"protection": STUDY["protection"] | {"method": method}}
    return make_charter(study, roster_of(), replace(TEN, protection=method), COORDINATOR.public_key)


def test_a_hospital_signs_masking_and_ckks_with_masks_by_default_and_plain_ckks_only_by_name() -> None:
    policy = SitePolicy(max_epsilon=4.0, max_delta=1e-6)

    policy.check(protected_by("masking"))
    policy.check(protected_by("ckks+masking"))
    with pytest.raises(PolicyForbids, match="one in league with the coordinator reads every single update"):
        policy.check(protected_by("ckks"))
    replace(policy, protections=frozenset({"ckks"})).check(protected_by("ckks"))


@pytest.mark.parametrize("method", ["ckks", "ckks+masking"])
def test_a_simulated_site_accepts_what_its_charter_says(method: str) -> None:
    policy_of_simulated_site(protected_by(method)).check(protected_by(method))


def test_a_study_that_states_no_epsilon_is_forbidden() -> None:
    study = STUDY | {"privacy": {"noise": "distributed", "unit": "patient"}}
    charter = make_charter(study, roster_of(), TEN, COORDINATOR.public_key)

    with pytest.raises(PolicyForbids, match="target_epsilon None"):
        SitePolicy(max_epsilon=4.0, max_delta=1e-6).check(charter)
