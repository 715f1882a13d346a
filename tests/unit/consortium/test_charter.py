"""The charter that every site signs: its session, its signatures, and what it may not contradict."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hex_values import misspelt
from hypothesis import given, settings
from hypothesis import strategies as st
from signed_studies import CONSORTIUM, COORDINATOR, SITES, STUDY, TEN, charter_of, roster_of, signed

from secure_frl.consortium.charter import Charter, SignedCharter, make_charter
from secure_frl.consortium.identity import Identity
from secure_frl.errors import BadSignature, CharterRefused
from secure_frl.wire.canonical import canonical_json
from secure_frl.wire.hashing import labelled_hash


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


@pytest.mark.parametrize("field", ["roster_hash", "nonce", "coordinator_public_key"])
def test_a_charter_with_a_value_in_another_spelling_is_refused(field: str) -> None:
    nonce = bytes([0xAB]) * 16
    plain = json.loads(make_charter(STUDY, roster_of(), TEN, COORDINATOR.public_key, nonce).data)

    for value in misspelt(plain[field]):
        with pytest.raises(CharterRefused):
            Charter.decode(canonical_json(plain | {field: value}))


def test_a_signature_in_another_spelling_is_refused() -> None:
    plain = json.loads(signed(charter_of()).encode())
    first, *others = plain["site_signatures"]

    for field, right in (("coordinator_signature", plain["coordinator_signature"]), ("site_signatures", first)):
        for value in misspelt(right):
            changed = [value, *others] if field == "site_signatures" else value
            with pytest.raises(CharterRefused, match="exactly as it was signed"):
                SignedCharter.decode(canonical_json(plain | {field: changed}) + b"\n")


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
