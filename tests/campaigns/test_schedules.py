"""Random fault schedules: never a wrong sum, every abort named, and completion wherever the protocol promises it.

The default suite runs a few hundred from a fixed seed, the campaign 10^5 from a fresh one; both print it. A violation
names its seed: `python -c "import fault_runner; fault_runner.show(SEED)"` in this folder repeats it.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from campaign_seeds import seed_of_a_campaign, seed_of_the_default_suite
from fault_bending import CELLS
from fault_runner import SPARSE, run_campaign, run_schedules
from fault_tally import Tally

from secure_frl.masking import keys, site_attempt
from secure_frl.masking.site_memory import SetConfirmed
from secure_frl.wire import messages
from secure_frl.wire.messages import MessageType
from secure_frl.wire.records import SHARE_RECORD_BYTES

T = MessageType

DEFAULT_SCHEDULES, PARTS = 600, 3
CAMPAIGN_SCHEDULES = int(os.environ.get("SCHEDULES", "100000"))
JOBS = int(os.environ.get("JOBS", str(os.cpu_count() or 1)))


def check(tally: Tally) -> None:
    assert tally.violations == []
    assert tally.foretold > tally.schedules  # the oracle was not asleep
    assert tally.complete >= 0.4 * tally.schedules  # 55 % seen; of 200 below 40 % once in 10^5


@pytest.mark.parametrize("part", range(PARTS))
def test_a_few_hundred_schedules_give_no_wrong_sum_and_no_nameless_abort(part: int) -> None:
    seed = seed_of_the_default_suite() + 2**40 * part

    tally = run_schedules(seed, DEFAULT_SCHEDULES // PARTS)

    print(f"schedules from seed {seed}: {tally.report()}")
    check(tally)


def test_control_the_oracle_sees_a_site_that_gives_both_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = site_attempt.ReturnedShares

    def both(of_seeds: bytes, of_keys: bytes) -> object:
        return genuine(of_seeds, of_keys + of_seeds[:SHARE_RECORD_BYTES])

    monkeypatch.setattr(site_attempt, "ReturnedShares", both)

    tally = run_schedules(1, 5)

    assert any("both shares" in violation or "own key" in violation for violation in tally.violations)


def test_control_the_oracle_sees_a_site_that_refuses_a_sound_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(party: object, state: SetConfirmed, body: object) -> set[int]:
        return set()

    monkeypatch.setattr(site_attempt, "confirming_sites", refusing)

    tally = run_schedules(1, 5)

    assert any("must go on" in violation for violation in tally.violations)


def test_control_the_oracle_sees_a_site_whose_key_makes_a_tag_and_seals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(messages.STAGE_NAMES, T.R2, messages.STAGE_NAMES[T.R3B])

    tally = run_schedules(1, 5)

    assert any("keys sealed two messages" in violation for violation in tally.violations)


def test_control_the_oracle_sees_a_coordinator_with_one_key_a_site(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = keys.derive

    def derive(secret: bytes, salt: bytes, purpose: str, *fields: Any) -> bytes:
        if (purpose, *fields[:1]) == ("link", "down"):
            return genuine(secret, b"", purpose)
        return genuine(secret, salt, purpose, *fields)

    monkeypatch.setattr(keys, "derive", derive)

    tally = run_schedules(1, 5)

    assert any("keys sealed two messages" in violation for violation in tally.violations)


def test_three_schedules_of_a_hundred_and_one_sites_on_a_sparse_graph() -> None:
    seed = seed_of_the_default_suite()

    tally = run_schedules(seed, 3, SPARSE)

    print(f"sparse schedules from seed {seed}: {tally.report()}")
    assert tally.violations == []


@pytest.mark.campaign
def test_two_hundred_schedules_on_a_sparse_graph() -> None:
    seed = seed_of_a_campaign()

    tally = run_schedules(seed, 200, SPARSE)

    print(f"sparse schedules from seed {seed}: {tally.report()}")
    assert tally.violations == []
    assert tally.sums >= 60


@pytest.mark.campaign
def test_a_hundred_thousand_schedules() -> None:
    seed = seed_of_a_campaign()

    tally = run_campaign(seed, CAMPAIGN_SCHEDULES, JOBS)

    print(f"schedules from seed {seed}: {tally.report()}")
    check(tally)
    if CAMPAIGN_SCHEDULES >= 100_000:
        assert min(tally.cells[cell] for cell in CELLS) >= 100  # each fault x stage x role
