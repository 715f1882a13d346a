"""Constants of a sum: the rule that each breaks, in both profiles, and the design's own table."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from signed_studies import COORDINATOR, STUDY, TEN, roster_of

from secure_frl.consortium.charter import make_charter
from secure_frl.consortium.constants import check_constants
from secure_frl.consortium.identity import Identity
from secure_frl.consortium.site_policy import SitePolicy, policy_of_simulated_site
from secure_frl.errors import CharterRefused, PolicyForbids
from secure_frl.secure_sum import Block


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"threshold": 5}, r"2t > n \+ c"),
        ({"threshold": 1}, "t > c"),
        ({"max_colluders": 0, "honest_shares": 8}, "c >= 1"),
        ({"min_survivors": 5, "honest_shares": 4}, "min_survivors"),
        ({"min_survivors": 11, "honest_shares": 10}, "min_survivors"),
        ({"honest_shares": 8}, "h = min_survivors - c"),
        ({"max_colluders": 7, "honest_shares": 1}, "h >= 2"),
        ({"sites": 101, "threshold": 60, "min_survivors": 60, "honest_shares": 59, "neighbours": 100}, "n <= 100"),
        ({"neighbours": 5}, "k = n - 1"),
        ({"protection": "none"}, "protection"),
        ({"noise": "none"}, "noise of"),
        ({"noise_multiplier": math.inf}, "noise_multiplier"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"integer_noise_scale": 2**63}, "integer_noise_scale"),
        ({"scale": math.nan}, "scale"),
        ({"bound": 2**31 // 10}, r"2\^\(w-1\)"),
        ({"length": 6}, "blocks"),
        ({"length": 2**63, "blocks": (Block("policy", 0, 2**63, 0.4, 1.0),)}, "length"),
        ({"blocks": (Block("policy", 0, 5, 0.4, 0.85),)}, "blocks"),
        ({"blocks": (Block("pol\N{LATIN SMALL LETTER I WITH DIAERESIS}cy", 0, 5, 0.4, 1.0),)}, "ASCII"),
    ],
)
def test_constants_that_break_a_rule_are_refused_by_its_name(changes: dict[str, object], rule: str) -> None:
    with pytest.raises(CharterRefused, match=rule):
        check_constants(replace(TEN, **changes))


THOUSAND = replace(  # secure_aggregation.md, section 7: 10 % corrupt, 10 % silent, s = 40
    TEN,
    sites=1000,
    threshold=27,
    max_colluders=100,
    min_survivors=900,
    honest_shares=800,
    profile="cross_device",
    neighbours=48,
    bound=1000,
)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"sites": 100, "min_survivors": 100, "max_colluders": 10, "honest_shares": 90}, "101 <= n <= 10000"),
        ({"neighbours": 47}, "an even k"),
        ({"threshold": 49}, "t <= k"),
        ({"threshold": 18}, r"100 corrupt and 100 lost sites below 2\^-20"),
        ({"neighbours": 12, "threshold": 12}, r"below 2\^-20"),
        ({"min_survivors": 500, "honest_shares": 400}, r"500 lost sites below 2\^-20"),
        ({"max_colluders": 101}, "h = min_survivors - c"),
    ],
)
def test_constants_that_no_sparse_graph_carries_are_refused(changes: dict[str, object], rule: str) -> None:
    check_constants(THOUSAND)

    with pytest.raises(CharterRefused, match=rule):
        check_constants(replace(THOUSAND, **changes))


def test_more_sites_than_a_cohort_are_enrolled_in_cross_device_only() -> None:
    sites = tuple(Identity(number.to_bytes(32, "big")) for number in range(1, 103))
    few = replace(THOUSAND, sites=101, threshold=4, max_colluders=3, min_survivors=95, honest_shares=92, neighbours=10)
    study = {
        **STUDY,
        "sites": {"count": 101, "min_survivors": 95, "max_colluders": 3},
        "protection": {**STUDY["protection"], "profile": "cross_device"},
    }

    for enrolled in (sites, sites[:101]):
        charter = make_charter(study, roster_of(enrolled), few, COORDINATOR.public_key, bytes(16))
        assert len(charter.terms(roster_of(enrolled)).site_public_keys) == len(enrolled)
    with pytest.raises(CharterRefused, match="101 sites"):
        make_charter(study, roster_of(sites[:100]), few, COORDINATOR.public_key, bytes(16))
    with pytest.raises(CharterRefused, match="10 sites"):
        make_charter(STUDY, roster_of(sites[:11]), TEN, COORDINATOR.public_key, bytes(16))

    with pytest.raises(PolicyForbids, match="profile cross_device"):
        SitePolicy(max_epsilon=4.0, max_delta=1e-6).check(charter)
    SitePolicy(max_epsilon=4.0, max_delta=1e-6, profiles=frozenset({"cross_device"})).check(charter)
    policy_of_simulated_site(charter).check(charter)


@pytest.mark.parametrize(  # the table of secure_aggregation.md, section 2
    ("n", "t", "c", "least"),
    [(3, 3, 1, 3), (5, 4, 2, 4), (10, 7, 3, 7), (16, 11, 5, 11), (64, 43, 21, 43), (100, 67, 33, 67)],
)
def test_the_designs_own_table_passes(n: int, t: int, c: int, least: int) -> None:
    check_constants(
        replace(
            TEN, sites=n, threshold=t, max_colluders=c, min_survivors=least, honest_shares=least - c, neighbours=n - 1
        )
    )
