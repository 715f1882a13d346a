"""Changed messages, half of them changed before sealing by an insider: accepted exactly when section 5 allows it."""

from __future__ import annotations

import os
from typing import Any

import pytest
from campaign_seeds import seed_of_a_campaign, seed_of_the_default_suite
from ciphertext_mutations import BlindScore, run_blind_mutations
from fault_mutations import run_campaign, run_mutations
from mutation_judge import Score

from secure_frl.ckks import site_states
from secure_frl.ckks.encrypted_sum import EncryptedSum
from secure_frl.masking import coordinator_stages, site_attempt
from secure_frl.masking.graph import Graph

DEFAULT_MESSAGES = 4_000
CAMPAIGN_MESSAGES = int(os.environ.get("MESSAGES", "1000000"))
CIPHERTEXT_MESSAGES = int(os.environ.get("CIPHERTEXT_MESSAGES", "40000"))  # minutes; below 10000 no memory is measured
JOBS = int(os.environ.get("JOBS", str(os.cpu_count() or 1)))
GREATEST_PEAK_BYTES = 200_000  # of one message; the greatest that these charters allow has some 70,000 (a sealed model)

GREATEST_PEAK_FRAMES = 4  # where sums are encrypted: packages and ciphertexts are cut out of a frame, and kept


def check(score: Score) -> None:
    assert score.failures == []
    assert score.before_sealing >= 0.45 * score.messages
    assert score.peak_bytes <= GREATEST_PEAK_BYTES
    assert score.accepted <= 0.2 * score.messages


def test_a_few_thousand_changed_messages_are_refused_by_name_or_rightly_accepted() -> None:
    seed = seed_of_the_default_suite()

    score = run_mutations(seed, DEFAULT_MESSAGES)

    print(f"mutations from seed {seed}: {score.report()}")
    check(score)


def test_control_the_rules_see_a_site_that_takes_any_survivor_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Graph, "survivors_fault", lambda graph, *sets: None)

    score = run_mutations(7, 4_000)

    assert any(failure.split(": ")[1].startswith("R3A to site") for failure in score.failures)


def test_control_the_rules_see_a_site_that_blames_an_honest_dealer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = site_attempt.open_dealt

    def blaming(*mail: Any) -> Any:
        opened, bad = genuine(*mail)
        return opened, sorted({*bad, *list(opened)[:1]}) if bad else bad

    monkeypatch.setattr(site_attempt, "open_dealt", blaming)

    score = run_mutations(7, 4_000)

    assert any("blamed, not" in failure for failure in score.failures)


def test_control_the_rules_see_a_coordinator_that_takes_any_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_stages, "_matching", lambda state, site, shares, alive, lost: alive | lost)

    score = run_mutations(7, 4_000)

    assert any(failure.split(": ")[1].startswith("R4 of site") for failure in score.failures)


@pytest.mark.campaign
def test_a_million_changed_messages() -> None:
    seed = seed_of_a_campaign()

    score = run_campaign(seed, CAMPAIGN_MESSAGES, JOBS)

    print(f"mutations from seed {seed}: {score.report()}")
    check(score)


# --- encrypted sums --------------------------------------------------------------------------------------------------


def check_blind(score: BlindScore) -> None:
    assert score.failures == []
    assert score.before_sealing >= 0.45 * score.messages
    assert score.worker_share <= 1


def test_some_changed_messages_of_encrypted_sums_are_refused_by_name_or_rightly_accepted() -> None:
    seed = seed_of_the_default_suite()

    score = run_blind_mutations(seed, messages=1, per_stage=3, epochs=1)

    print(f"mutations of encrypted sums from seed {seed}: {score.report()}")
    check_blind(score)


@pytest.mark.campaign
def test_control_the_rules_see_a_coordinator_that_adds_under_any_key(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = EncryptedSum.add
    monkeypatch.setattr(EncryptedSum, "add", lambda total, site, key_id, body: genuine(total, site, total.key_id, body))

    score = run_blind_mutations(7, 2_000)

    assert any(failure.split(": ")[1].startswith("R2C of site") for failure in score.failures)


@pytest.mark.campaign
def test_control_the_rules_see_a_site_that_follows_a_sum_whatever_its_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_states, "from_ring_sum", lambda words, constants, count: words[2:-2].astype("<i8"))

    score = run_blind_mutations(7, 2_000)

    assert any(failure.split(": ")[1].startswith("R5C to site") for failure in score.failures)


@pytest.mark.campaign
def test_many_changed_messages_of_encrypted_sums() -> None:
    seed = seed_of_a_campaign()

    score = run_blind_mutations(seed, CIPHERTEXT_MESSAGES)

    print(f"mutations of encrypted sums from seed {seed}: {score.report()}")
    check_blind(score)
    assert score.messages >= CIPHERTEXT_MESSAGES
    assert 0 < score.peak_share <= GREATEST_PEAK_FRAMES  # measured in one world of six
