"""The signed roster: who is enrolled, under which name and key, and until when."""

from __future__ import annotations

import datetime
import json

import pytest
from hex_values import misspelt
from hypothesis import given, settings
from hypothesis import strategies as st
from signed_studies import CONSORTIUM, COORDINATOR, DAY, SITES, roster_of

from secure_frl.consortium.identity import Identity
from secure_frl.consortium.roster import Roster, RosterEntry, decode_roster
from secure_frl.errors import BadSignature, ConfigError, InvalidParameter


def test_a_roster_file_reads_back_to_the_same_roster() -> None:
    assert decode_roster(roster_of().encode()) == roster_of()


@settings(max_examples=300)
@given(st.data())
def test_any_changed_byte_of_a_roster_file_is_refused(data: st.DataObject) -> None:
    content = bytearray(roster_of(SITES[:3]).encode())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises((ConfigError, BadSignature)):
        decode_roster(bytes(content))


@pytest.mark.parametrize("right", [SITES[0].public_key, CONSORTIUM.public_key, roster_of().signature])
def test_a_roster_with_a_value_in_another_spelling_is_refused(right: bytes) -> None:
    content = roster_of().encode()

    for value in misspelt(right.hex()):
        with pytest.raises(ConfigError, match="exactly as the consortium signed it"):
            decode_roster(content.replace(f'"{right.hex()}"'.encode(), json.dumps(value).encode()))


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
