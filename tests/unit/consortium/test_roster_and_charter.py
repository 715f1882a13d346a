"""The signed roster, the charter that every site signs, a site's own limits."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_frl.consortium.charter import Charter, SignedCharter, make_charter, sign_charter
from secure_frl.consortium.constants import check_constants
from secure_frl.consortium.identity import Identity
from secure_frl.consortium.roster import Roster, RosterEntry, decode_roster, sign_roster
from secure_frl.consortium.site_policy import SitePolicy, policy_of_simulated_site
from secure_frl.errors import BadSignature, CharterRefused, ConfigError, InvalidParameter, PolicyForbids
from secure_frl.secure_sum import Block, SumConstants
from secure_frl.wire.canonical import canonical_json
from secure_frl.wire.hashing import labelled_hash

DAY = datetime.date(2030, 1, 31)
CONSORTIUM, COORDINATOR = Identity(bytes([200]) * 32), Identity(bytes([201]) * 32)
SITES = tuple(Identity(bytes([number + 1]) * 32) for number in range(10))
TEN = SumConstants(  # the ten-site study of secure_aggregation.md, section 2
    sites=10,
    threshold=6,
    max_colluders=1,
    min_survivors=8,
    honest_shares=7,
    profile="cross_silo",
    neighbours=9,
    protection="masking",
    length=5,
    modulus_bits=32,
    scale=2500.0,
    bound=1_000_000,
    noise_bound=30_000,
    blocks=(Block("policy", 0, 3, 0.4, 0.85), Block("critic", 3, 5, 1.0, 0.15)),
    noise="distributed",
    noise_multiplier=1.1,
    integer_noise_scale=1024,
)
STUDY = {
    "sites": {"count": 10, "min_survivors": 8, "max_colluders": 1},
    "protection": {"method": "masking", "profile": "cross_silo", "epoch_rounds": 64},
    "privacy": {"noise": "distributed", "target_epsilon": 4.0, "delta": 1e-6, "unit": "patient"},
}


def roster_of(sites: tuple[Identity, ...] = SITES) -> Roster:
    entries = [RosterEntry(f"site-{number:02}", site.public_key, DAY) for number, site in enumerate(sites)]
    return sign_roster(CONSORTIUM, entries)


def charter_of(**changes: object) -> Charter:
    return make_charter(STUDY, roster_of(), replace(TEN, **changes), COORDINATOR.public_key, bytes(16))


def signed(charter: Charter) -> SignedCharter:
    return SignedCharter(
        charter, tuple(sign_charter(one, charter) for one in SITES), sign_charter(COORDINATOR, charter)
    )


# --- roster ----------------------------------------------------------------------------------------------------------


def test_a_roster_file_reads_back_to_the_same_roster() -> None:
    assert decode_roster(roster_of().encode()) == roster_of()


@settings(max_examples=300)
@given(st.data())
def test_any_changed_byte_of_a_roster_file_is_refused(data: st.DataObject) -> None:
    content = bytearray(roster_of(SITES[:3]).encode())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises((ConfigError, BadSignature)):
        decode_roster(bytes(content))


def test_a_coordinator_cannot_add_a_member() -> None:
    entries = (*roster_of().entries, RosterEntry("site-10", Identity(bytes([99]) * 32).public_key, DAY))
    forged = Roster(entries, CONSORTIUM.public_key, roster_of().signature)
    own = Roster(entries, CONSORTIUM.public_key, COORDINATOR.sign("roster", forged.canonical()))

    for roster in (forged, own):
        with pytest.raises(BadSignature):
            decode_roster(roster.encode())


def test_a_roster_from_the_future_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match="newer secure_frl"):
        decode_roster(roster_of().encode().replace(b"format = 1", b"format = 2"))


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "Site", "coordinator", "a" * 64, "a\nb", "s\u00edte"])
def test_a_name_that_is_no_safe_folder_is_refused(name: str) -> None:
    with pytest.raises(InvalidParameter):
        RosterEntry(name, SITES[0].public_key, DAY)


@pytest.mark.parametrize("sites", [(), (SITES[0], SITES[0]), (SITES[0], CONSORTIUM)])
def test_equal_keys_or_the_consortiums_own_are_not_enrolled(sites: tuple[Identity, ...]) -> None:
    with pytest.raises(InvalidParameter):
        roster_of(sites)


def test_enrolment_ends_after_its_last_day() -> None:
    day = datetime.datetime(2030, 1, 31, 23, 59, tzinfo=datetime.UTC)

    assert roster_of().expired(day) == ()
    assert len(roster_of().expired(day + datetime.timedelta(minutes=1))) == 10


# --- constants -------------------------------------------------------------------------------------------------------


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
        ({"scale": math.nan}, "scale"),
        ({"bound": 2**31 // 10}, r"2\^\(w-1\)"),
        ({"length": 6}, "blocks"),
        ({"blocks": (Block("policy", 0, 5, 0.4, 0.85),)}, "blocks"),
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


# --- charter ---------------------------------------------------------------------------------------------------------


def test_the_session_is_the_hash_of_the_charters_bytes() -> None:
    charter = charter_of()

    assert charter.session == labelled_hash("session", charter.data)
    assert Charter.decode(charter.data) == charter


def test_a_second_run_of_one_study_is_a_second_charter() -> None:
    runs = {make_charter(STUDY, roster_of(), TEN, COORDINATOR.public_key).session for _ in range(3)}

    assert len(runs) == 3


def test_terms_carry_every_partys_key() -> None:
    terms = charter_of().terms(roster_of())

    assert terms.site_public_keys == tuple(one.public_key for one in SITES)
    assert (terms.constants, terms.epoch_rounds, terms.roster_hash) == (TEN, 64, roster_of().hash)


def test_a_charter_signed_by_all_verifies() -> None:
    charter = signed(charter_of())

    again = SignedCharter.decode(charter.encode())

    again.check(roster_of())
    assert again == charter


def test_a_missing_signature_is_named() -> None:
    charter = signed(charter_of())
    signatures = (*charter.site_signatures[:4], charter.site_signatures[5], *charter.site_signatures[5:])

    with pytest.raises(BadSignature, match="site-04"):
        replace(charter, site_signatures=signatures).check(roster_of())
    with pytest.raises(BadSignature, match="the coordinator"):
        replace(charter, coordinator_signature=bytes(64)).check(roster_of())
    with pytest.raises(CharterRefused, match="10 sites, got 9"):
        replace(charter, site_signatures=signatures[:9]).check(roster_of())


def test_signatures_of_one_charter_are_none_for_another() -> None:
    other = make_charter(STUDY, roster_of(), replace(TEN, noise_multiplier=0.5), COORDINATOR.public_key, bytes(16))

    with pytest.raises(BadSignature):
        replace(signed(charter_of()), charter=other).check(roster_of())


@settings(max_examples=200)
@given(st.data())
def test_any_changed_byte_of_a_charter_file_is_refused(data: st.DataObject) -> None:
    content = bytearray(signed(charter_of()).encode())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises((CharterRefused, BadSignature)):
        SignedCharter.decode(bytes(content)).check(roster_of())


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"protocol": "secure_frl/secagg/v0"},
        {"nonce": "00"},
        {"extra": 1},
        {"study": []},
        {"constants": {}},
    ],
)
def test_a_charter_of_another_form_is_refused(change: dict[str, object]) -> None:
    plain = json.loads(charter_of().data) | change

    with pytest.raises(CharterRefused):
        Charter.decode(canonical_json(plain))


@pytest.mark.parametrize(("field", "value"), [("scale", 2500), ("sites", 10.0), ("sites", True), ("weight", "1")])
def test_a_constant_of_another_type_is_refused(field: str, value: object) -> None:
    plain = json.loads(charter_of().data)
    plain["constants"][field] = value

    with pytest.raises(CharterRefused):
        Charter.decode(canonical_json(plain))


def test_constants_that_contradict_the_study_are_refused() -> None:
    with pytest.raises(CharterRefused, match=r"privacy\.noise='local'"):
        charter_of(noise="local")


def test_a_coordinator_with_a_sites_or_the_consortiums_key_is_refused() -> None:
    for identity in (SITES[3], CONSORTIUM):
        with pytest.raises(CharterRefused, match="key of its own"):
            make_charter(STUDY, roster_of(), TEN, identity.public_key)


def test_a_charter_for_another_roster_is_refused() -> None:
    others = tuple(Identity(bytes([number + 50]) * 32) for number in range(10))

    with pytest.raises(CharterRefused, match="expected the roster"):
        charter_of().terms(roster_of(others))


# --- a site's own limits ---------------------------------------------------------------------------------------------


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
