"""Audits of the shipped study on a few seeds; many are in the campaigns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.federation.audit_rounds import AuditFederation, AuditParts
from secure_frl.federation.audit_study import _Deal, audit_study
from secure_frl.privacy.audit_report import BROKEN, HOLDS, NOT_JUDGED, audited_release
from secure_frl.privacy.canaries import Canaries
from secure_frl.privacy.planning import planned_event, sum_constants
from secure_frl.randomness import rehearsal_source
from secure_frl.study import Study
from secure_frl.study_file import load_study
from threat_models.audit_faults import DIVIDED, DOUBLED, HALVED, MISSING, audit_faults

pytestmark = [pytest.mark.slow, pytest.mark.statistical]

SHIPPED = Path(__file__).parents[3] / "examples" / "icu_sepsis" / "study.toml"


def shipped(**changes: object) -> Study:
    return load_study(SHIPPED, {name.replace("__", "."): value for name, value in changes.items()})


@pytest.mark.parametrize("epsilon", [4.0, 8.0])
def test_correct_code_is_bounded_between_three_quarters_and_all_of_its_claim(epsilon: float) -> None:
    report = audit_study(shipped(privacy__target_epsilon=epsilon))

    assert report.verdict == HOLDS
    assert 0.75 <= report.ratio <= 1.0
    assert report.canaries >= 4000
    assert report.shares_present == 7


def test_at_epsilon_1_the_bound_is_printed_and_nothing_is_judged() -> None:
    report = audit_study(shipped(privacy__target_epsilon=1.0), canaries=4000)

    assert report.verdict == NOT_JUDGED
    assert report.ratio < 1


@pytest.mark.parametrize(
    ("fault", "epsilon", "seed"),
    [
        (HALVED, 4.0, 0),
        (DOUBLED, 8.0, 1),
        (DIVIDED, 4.0, 2),
        (MISSING, 4.0, 3),
    ],
)
def test_a_fault_at_the_sites_breaks_the_claim(fault: str, epsilon: float, seed: int) -> None:
    study = shipped(privacy__target_epsilon=epsilon, study__seed=seed)

    report = audit_study(study, canaries=4000, parts=audit_faults(study)[fault])

    assert report.verdict == BROKEN
    assert report.ratio > 1


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy__noise": "local"},
        {"privacy__max_sites_per_person": 2},
        {"privacy__relation": "replace_one"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_other_placements_and_neighbours_reach_their_own_claim(changes: dict[str, object]) -> None:
    report = audit_study(shipped(**changes), canaries=6000)

    assert report.verdict == HOLDS


@pytest.mark.parametrize(("relation", "at_sites"), [("add_or_remove_one", 1), ("replace_one", 1), ("replace_one", 2)])
def test_without_noise_a_shift_is_the_canarys_coin(relation: str, at_sites: int) -> None:
    study = shipped(privacy__relation=relation, privacy__max_sites_per_person=at_sites)
    constants = sum_constants(study)
    release = audited_release(planned_event(study, constants))
    made = Canaries(constants.blocks)
    federation = AuditFederation(study, constants, made, release)
    deal = _Deal(made, release, federation.shares, rehearsal_source(0, "test"))
    coin = np.random.default_rng(0).random(500) < 0.5
    silent = AuditParts(constants_at=lambda rank, own: replace(own, noise="unsafe-none"))

    summed = federation.sum(0, [deal.window(coin, site) for site in range(federation.shares)], silent)

    assert np.abs(deal.shifts(made.scores(0, summed, 500)) - coin).max() < 14 / constants.scale


def test_a_canary_at_fewer_sites_than_a_person_may_be_is_expected_to_show_less() -> None:
    at_seven = audit_study(shipped(privacy__max_sites_per_person=7), canaries=4000)
    at_eight = audit_study(shipped(privacy__max_sites_per_person=8), canaries=4000)

    # seven honest sites can hold it seven times at most, the claim is about eight
    assert at_seven.expected_ratio is not None
    assert at_eight.expected_ratio is not None
    assert at_eight.expected_ratio < 0.9 * at_seven.expected_ratio


def test_under_sampling_only_the_one_run_bound_is_stated_and_nothing_is_judged() -> None:
    sampled = {
        "data__source": "steps",
        "data__path": "nowhere",  # an audit reads no data
        "data__dataset_id": "ward",
        "data__declared_units": 500,
        "training__objective": "behaviour_cloning",
        "training__rounds": 1,
        "policy__critic": "none",
        "privacy__sampling_rate": 0.5,
        "privacy__delta": 1e-5,
    }

    report = audit_study(shipped(**sampled))

    assert report.epsilon_bound is None
    assert report.verdict == NOT_JUDGED
    assert 0 < report.epsilon_bound_one_run < report.claimed_epsilon


def test_an_audit_repeats_itself_and_follows_the_seed() -> None:
    first, again, other = (audit_study(shipped(study__seed=seed), canaries=4000) for seed in (5, 5, 6))

    assert first == again
    assert first.mu_estimate != other.mu_estimate


def test_a_sum_that_only_sites_read_is_audited_to_the_same_figures(tiny: Callable[..., Study]) -> None:
    def audited(protection: str) -> object:
        return audit_study(tiny({"protection.method": protection}), canaries=4000)

    assert audited("masking") == audited("ckks") == audited("ckks+masking")


def test_what_states_no_epsilon_and_too_few_canaries_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="no claim to audit"):
        audit_study(shipped(privacy__noise="unsafe-none"))
    with pytest.raises(InvalidParameter, match="no claim to audit"):
        audit_study(shipped(protection__method="unsafe-plain"))
    with pytest.raises(InvalidParameter, match="4000 to"):
        audit_study(shipped(), canaries=100)
