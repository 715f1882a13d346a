"""An enrolment ends with its day: both ends leave a site out whose key has expired in the roster."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from secure_frl.consortium.identity import Identity
from secure_frl.consortium.roster import RosterEntry, sign_roster
from secure_frl.errors import RoundAborted
from secure_frl.secure_sum import SiteId

NOW = 1_000_000.0  # the federation's clock


def with_expiry(parties: Any, site: int, expiry_s: float) -> None:
    """Every party reads a roster in which one site's enrolment ends earlier than the others'."""
    ends = [NOW + 1_000_000.0] * parties.n
    ends[site] = expiry_s
    parties.terms = replace(parties.terms, site_expiries_s=tuple(ends))
    parties.sites = [parties.start(SiteId(i)) for i in range(parties.n)]


@pytest.mark.parametrize(("expiry_s", "members"), [(NOW + 1, (0, 1, 2, 3, 4)), (NOW, (0, 1, 3, 4))])
def test_the_coordinator_leaves_an_expired_site_out_of_the_epoch(federation, expiry_s, members):
    parties = federation(5)
    with_expiry(parties, 2, expiry_s)

    assert parties.open().members == members
    assert parties.errors == ({} if len(members) == 5 else {2: ["RosterRefused"]})


def test_a_site_refuses_an_epoch_with_an_expired_member(federation):
    parties = federation(5)
    with_expiry(parties, 2, NOW)
    parties.terms = replace(parties.terms, site_expiries_s=())  # the coordinator lets it in
    with pytest.raises(RoundAborted):
        parties.open()

    assert {log[-1][0] for log in parties.logs} == {"RosterRefused"}


def test_an_enrolment_lasts_through_its_last_day():
    keys = [Identity(bytes([number]) * 32) for number in (1, 2)]
    entries = [RosterEntry("site-01", keys[0].public_key, date(2030, 2, 28))]

    (end,) = sign_roster(keys[1], entries).expiries_s

    assert datetime.fromtimestamp(end, UTC) == datetime(2030, 3, 1, tzinfo=UTC)
