"""Simulated sites may be synced together: nothing of a group leaves before all that it wrote is on disk."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secure_frl.evidence.ledger_view import view_ledger
from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
from secure_frl.federation.carriers import in_process
from secure_frl.federation.carriers.in_process import InProcessCarrier
from secure_frl.federation.site import StudySite
from secure_frl.records.group_commit import FILE, GroupCommit
from secure_frl.records.ledger import read_ledger_state
from secure_frl.secure_sum import SiteId
from secure_frl.study import Study
from secure_frl.wire.capture import CaptureWriter


class Noted:
    """A site that notes when it is asked."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name, self._log = name, log

    def handle(self, request: bytes) -> bytes:
        self._log.append(f"{self._name} wrote")
        return request


class NotedCapture(CaptureWriter):
    """A capture that notes which replies it was given."""

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def write(self, direction: str, site: int, time_s: float, frame: bytes) -> None:
        if direction == "to_coordinator":
            self._log.append(f"{site} captured")


def exchanged(count: int, log: list[str], *, synced: bool, capture: CaptureWriter | None = None) -> list[str]:
    sites = {SiteId(number): Noted(str(number), log) for number in range(count)}
    carrier = InProcessCarrier(sites, capture=capture, sync=(lambda: log.append("synced")) if synced else None)

    def requests() -> Iterator[tuple[SiteId, bytes]]:
        for site in sites:
            yield site, b"frame"

    for site, _ in carrier.exchange(requests(), 60.0):
        log.append(f"{site} left")
    return log


def test_no_reply_of_a_group_leaves_before_the_sync_of_all() -> None:
    assert exchanged(3, [], synced=True) == ["0 wrote", "1 wrote", "2 wrote", "synced", "0 left", "1 left", "2 left"]


def test_a_capture_holds_no_reply_of_a_group_before_the_sync() -> None:
    log: list[str] = []

    exchanged(2, log, synced=True, capture=NotedCapture(log))

    assert log == ["0 wrote", "1 wrote", "synced", "0 captured", "0 left", "1 captured", "1 left"]


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
    monkeypatch.setattr(simulation, "_SHARE_BOOKS_FROM", 3)
    monkeypatch.setattr(StudySite, "release", lambda self: (release(self), log.append("released"))[0])
    monkeypatch.setattr(GroupCommit, "sync", lambda self: (sync(self), log.append("synced"))[0])

    result = simulation.run(tiny(), tmp_path / "run")

    assert result.rounds_completed == 2
    assert verify(tmp_path / "run").findings == ()
    assert sorted(path.name for path in (tmp_path / "run").glob("state/**/*.sqlite")) == [FILE, "ledger.sqlite"]
    ledgers = [read_ledger_state(tmp_path / f"run/state/sites/site-0{number}/ledger.sqlite") for number in (1, 2, 3)]
    assert [len(ledger.events()) for ledger in ledgers] == [2, 2, 2]
    assert len({ledger.name for ledger in ledgers}) == 3
    text = " ".join(log)
    assert (
        text.count("released released released synced") == text.count("released") / 3 == 2
    )  # all three, then one sync


@pytest.mark.slow
def test_a_run_of_shared_books_killed_before_a_sync_lost_nothing_that_left_and_resumes(
    tiny: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, released = tmp_path / "run", [0]
    release, sync = StudySite.release, GroupCommit.sync

    def noted(site: StudySite) -> None:
        release(site)
        released[0] += 1

    def killed(group: GroupCommit) -> None:
        if released[0] == 6:  # three sites have released in each of two rounds; the second time it is not on disk
            os.kill(os.getpid(), signal.SIGKILL)
        sync(group)

    child = os.fork()
    if child == 0:
        try:
            monkeypatch.setattr(simulation, "_SHARE_BOOKS_FROM", 3)
            monkeypatch.setattr(StudySite, "release", noted)
            monkeypatch.setattr(GroupCommit, "sync", killed)
            simulation.run(tiny(), run)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])

    homes = [run / f"state/sites/site-0{number}/ledger.sqlite" for number in (1, 2, 3)]
    found = ["summed", "reserved"]  # the release of the second round is gone, and nothing of it had left
    assert [[kept.status for kept in read_ledger_state(home).reservations.values()] for home in homes] == [found] * 3
    assert verify(run).findings == ()  # unfinished
    assert [row.kept.status for row in view_ledger(homes[0]).rows] == found
    result = simulation.resume(run)

    assert result.rounds_completed + result.rounds_lost == 2
    assert verify(run).findings == ()
    assert not any(home.exists() for home in homes)
