"""The published vectors of roster and charter: their bytes, hashes and signatures, and forms that nobody signs."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from secure_frl import errors
from secure_frl.consortium.charter import Charter, SignedCharter
from secure_frl.consortium.roster import Roster, RosterEntry, decode_roster
from secure_frl.errors import BadSignature
from secure_frl.masking.contexts import config_hash

FOLDER = Path(__file__).parents[2] / "vectors" / "v1"


def load(name: str) -> dict[str, Any]:
    vector: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return vector


def roster_of(plain: dict[str, Any]) -> Roster:
    """Make the roster from its entries alone, not from the file."""
    entries = tuple(
        RosterEntry(one["name"], bytes.fromhex(one["public_key"]), date.fromisoformat(one["expires"]))
        for one in plain["entries"]
    )
    return Roster(entries, bytes.fromhex(plain["consortium_public_key"]), bytes.fromhex(plain["signature"]))


def signed_charter_of(plain: dict[str, Any]) -> SignedCharter:
    signatures = tuple(bytes.fromhex(one) for one in plain["site_signatures"])
    charter = Charter.decode(bytes.fromhex(plain["bytes"]))
    return SignedCharter(charter, signatures, bytes.fromhex(plain["coordinator_signature"]))


def test_the_roster_has_the_bytes_hash_and_signature_of_the_vector():
    plain = load("ok_charter")["roster"]
    roster = roster_of(plain)

    assert roster.canonical().hex() == plain["signed_bytes"]
    assert roster.hash.hex() == plain["hash"]
    assert decode_roster(plain["file"].encode("ascii")) == roster
    roster.check()


def test_the_charter_has_the_session_config_hash_and_signatures_of_the_vector():
    vector = load("ok_charter")
    plain, roster = vector["charter"], roster_of(vector["roster"])

    signed = signed_charter_of(plain)
    signed.check(roster)

    assert signed.charter.session.hex() == plain["session"]
    assert config_hash(signed.charter.constants).hex() == plain["config_hash"]
    assert signed.charter.terms(roster).epoch_rounds == plain["epoch_rounds"]
    assert signed.charter.coordinator_public_key.hex() == plain["coordinator_public_key"]


def test_each_signature_of_the_vector_is_checked():
    vector = load("ok_charter")
    roster, signed = roster_of(vector["roster"]), signed_charter_of(vector["charter"])
    first = signed.site_signatures[0]

    with pytest.raises(BadSignature):
        replace(roster, signature=first).check()
    for i, entry in enumerate(roster.entries):
        forged = [*signed.site_signatures[:i], signed.coordinator_signature, *signed.site_signatures[i + 1 :]]
        with pytest.raises(BadSignature, match=entry.name):
            replace(signed, site_signatures=tuple(forged)).check(roster)
    with pytest.raises(BadSignature, match="the coordinator"):
        replace(signed, coordinator_signature=first).check(roster)


@pytest.mark.parametrize("case", load("bad_charters")["cases"], ids=lambda case: case["name"])
def test_no_other_form_of_a_charter_is_read(case):
    with pytest.raises(getattr(errors, case["error"])):
        Charter.decode(bytes.fromhex(case["charter"]))
