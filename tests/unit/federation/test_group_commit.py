"""Simulated sites may be synced together: nothing of a group leaves before all that it wrote is on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
from secure_frl.federation.carriers import in_process
from secure_frl.federation.carriers.in_process import InProcessCarrier
from secure_frl.federation.site import StudySite
from secure_frl.records.group_commit import GroupCommit
from secure_frl.secure_sum import SiteId
from secure_frl.study import Study


class Noted:
    """A site that notes when it is asked."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name, self._log = name, log

    def handle(self, request: bytes) -> bytes:
        self._log.append(f"{self._name} wrote")
        return request


def exchanged(count: int, log: list[str], *, synced: bool) -> list[str]:
    sites = {SiteId(number): Noted(str(number), log) for number in range(count)}
    carrier = InProcessCarrier(sites, sync=(lambda: log.append("synced")) if synced else None)

    def requests() -> Iterator[tuple[SiteId, bytes]]:
        for site in sites:
            yield site, b"frame"

    for site, _ in carrier.exchange(requests(), 60.0):
        log.append(f"{site} left")
    return log


def test_no_reply_of_a_group_leaves_before_the_sync_of_all() -> None:
    assert exchanged(3, [], synced=True) == ["0 wrote", "1 wrote", "2 wrote", "synced", "0 left", "1 left", "2 left"]


def test_a_group_ends_when_its_replies_have_a_certain_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_process, "GROUP_BYTES", 10)  # two frames of five bytes

    assert exchanged(3, [], synced=True) == [
        *("0 wrote", "1 wrote", "synced", "0 left", "1 left"),
        *("2 wrote", "synced", "2 left"),
    ]


def test_without_a_group_each_reply_leaves_at_once() -> None:
    assert exchanged(2, [], synced=False) == ["0 wrote", "0 left", "1 wrote", "1 left"]


@pytest.mark.slow
def test_a_study_of_sites_synced_together_keeps_one_chain_a_site_and_verifies(
    tiny: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    release, sync = StudySite.release, GroupCommit.sync
    monkeypatch.setattr(simulation, "_SYNC_TOGETHER_FROM", 3)
    monkeypatch.setattr(StudySite, "release", lambda self: (release(self), log.append("released"))[0])
    monkeypatch.setattr(GroupCommit, "sync", lambda self: (sync(self), log.append("synced"))[0])

    result = simulation.run(tiny(), tmp_path / "run")

    assert result.rounds_completed == 2
    assert verify(tmp_path / "run").findings == ()
    assert len(list((tmp_path / "run").glob("state/sites/*/ledger.sqlite"))) == 3
    text = " ".join(log)
    assert (
        text.count("released released released synced") == text.count("released") / 3 == 2
    )  # all three, then one sync
