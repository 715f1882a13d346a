"""A study of ten sites for tests: its keys and constants, its roster and its charter, signed by all."""

from __future__ import annotations

import datetime
from dataclasses import replace

from sum_events import sum_constants

from secure_frl.consortium.charter import Charter, SignedCharter, make_charter, sign_charter
from secure_frl.consortium.identity import Identity
from secure_frl.consortium.roster import Roster, RosterEntry, sign_roster
from secure_frl.secure_sum import Block

DAY = datetime.date(2030, 1, 31)
CONSORTIUM, COORDINATOR = Identity(bytes([200]) * 32), Identity(bytes([201]) * 32)
SITES = tuple(Identity(bytes([number + 1]) * 32) for number in range(10))
TEN = sum_constants(  # the ten-site study of secure_aggregation.md, section 2
    5,
    scale=2500.0,
    bound=1_000_000,
    noise_bound=30_000,
    blocks=(Block("policy", 0, 3, 0.4, 0.85), Block("critic", 3, 5, 1.0, 0.15)),
    noise_multiplier=1.1,
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
