"""Who could have read what: every protection has its row, and the rows do not say more than the protocol gives."""

from __future__ import annotations

import pytest

from secure_frl.consortium.constants import PROTECTIONS
from secure_frl.federation.protections import protection_in_force


@pytest.mark.parametrize("method", PROTECTIONS)
def test_every_protection_says_who_reads_what_who_has_a_key_and_what_the_coordinator_learns(method: str) -> None:
    row = protection_in_force(method)

    assert set(row) == {"protection", "readable_by", "key_held_by", "coordinator_learns"}
    assert row["protection"] == method
    assert row["readable_by"]
    assert row["coordinator_learns"]


def test_sites_have_the_key_of_encrypted_sums_and_the_coordinator_never() -> None:
    held = {method: protection_in_force(method)["key_held_by"] for method in PROTECTIONS}

    everybody = "every site of the epoch; never the coordinator"
    assert held == {"masking": "", "ckks": everybody, "ckks+masking": everybody, "unsafe-plain": ""}


def test_only_plain_ckks_gives_every_update_to_one_site_with_the_coordinator() -> None:
    warned = "ONE SITE IN LEAGUE WITH THE COORDINATOR"

    assert [method for method in PROTECTIONS if warned in protection_in_force(method)["readable_by"]] == ["ckks"]
    assert "nobody: a single site's update" in protection_in_force("ckks+masking")["readable_by"]


def test_in_cross_device_a_malicious_coordinator_is_not_excluded() -> None:
    assert "MALICIOUS" in protection_in_force("masking", "cross_device")["readable_by"]
    assert "MALICIOUS" not in protection_in_force("masking")["readable_by"]
