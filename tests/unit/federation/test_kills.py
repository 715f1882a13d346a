"""SIGKILL from outside at moments drawn from a seed, then `resume`: it ends, and no spend or answer is lost or doubled.

The moments lie between the first and the last write of a run, whose length is measured once a protection. The default
suite takes two of the twenty under masking and one under ckks; `-m campaign` takes them all.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from interposed_sites import held_tags

from secure_frl.errors import LedgerCorrupt, UnexpectedState
from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
from secure_frl.records.journal import read_journal
from secure_frl.records.ledger import read_ledger_state

SEED = 20261125
KILLS = 20
ROUNDS = 6
STUDY = Path(__file__).parents[2] / "studies" / "tiny.toml"


def _run(folder: Path, protection: str) -> list[str]:
    options = ["--out", str(folder), "--set", f"training.rounds={ROUNDS}", "--json", "--protection", protection]
    return [sys.executable, "-m", "secure_frl", "run", str(STUDY), *options]


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> float:
    while not path.exists():
        if process.poll() is not None:
            return time.monotonic()
        time.sleep(0.002)  # another process is awaited, so no clock can be passed in
    return time.monotonic()


@pytest.fixture(scope="module")
def seconds_between_first_and_last_write(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], float]:
    @functools.cache
    def measured(protection: str) -> float:
        folder = tmp_path_factory.mktemp("measured") / "run"
        process = _begun(folder, protection)
        first = _wait_for(folder, process)
        last = _wait_for(folder / "manifest.sig", process)
        assert process.wait() == 0
        return last - first

    return measured


def _begun(folder: Path, protection: str) -> subprocess.Popen[bytes]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(_run(folder, protection), env=_environment(), **quiet)


def _moments() -> list[float]:
    return np.random.default_rng(SEED).uniform(0.0, 1.0, KILLS).round(4).tolist()


def _cases() -> list[object]:
    taken = {"masking": (0, 1), "ckks": (0,), "ckks+masking": ()}  # of the twenty, by the default suite
    return [
        pytest.param(moment, protection, marks=() if number in numbers else pytest.mark.campaign)
        for protection, numbers in taken.items()
        for number, moment in enumerate(_moments())
    ]


@pytest.fixture
def seconds_of_a_run(protection: str, seconds_between_first_and_last_write: Callable[[str], float]) -> float:
    """Measured before the test begins: a whole run is not part of what it may take."""
    return seconds_between_first_and_last_write(protection)


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "protection"), _cases())
def test_a_killed_run_resumes_without_losing_spend(
    moment: float, protection: str, seconds_of_a_run: float, tmp_path: Path
) -> None:
    seconds = moment * seconds_of_a_run
    folder = tmp_path / "run"
    process = _begun(folder, protection)
    _wait_for(folder, process)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    spent_before = _spent(folder)

    is_finished = (folder / "manifest.sig").exists()
    if not is_finished:
        simulation.resume(folder)

    assert verify(folder).findings == ()
    summary = json.loads((folder / "result.json").read_text())
    assert summary["rounds_completed"] + summary["rounds_lost"] == ROUNDS
    assert summary["rounds_lost"] <= 1
    for name, events in _spent(folder).items():
        assert spent_before.get(name, set()) <= events  # whatever left stays booked
    rounds = read_journal(folder / "journal.sqlite").rounds
    assert [one.policy_tag for one in rounds[1:]] == [one.next_tag for one in rounds[:-1]]
    if protection != "masking":
        assert set(held_tags(folder).values()) == {rounds[-1].next_tag}
        assert len(held_tags(folder)) == 3
    for register in folder.glob("state/sites/*/register.sqlite"):
        _assert_nothing_twice(register)


def _spent(folder: Path) -> dict[str, set[bytes]]:
    """Return what each site had released; what was only reserved may be given back after a restart."""
    spent: dict[str, set[bytes]] = {}
    for path in folder.glob("state/sites/*/ledger.sqlite"):
        copy = path.with_name("copy-for-test.sqlite")
        with sqlite3.connect(path) as original, sqlite3.connect(copy) as target:
            try:
                original.backup(target)
            except sqlite3.DatabaseError:  # killed before the first row was there
                continue
        original.close()
        target.close()
        try:
            kept = read_ledger_state(copy).reservations.values()
        except (LedgerCorrupt, UnexpectedState):  # killed while the file was being made: it has no table yet
            assert not _has_rows(copy)
            continue
        finally:
            for leftover in path.parent.glob("copy-for-test.sqlite*"):
                leftover.unlink()
        spent[path.parent.name] = {one.event for one in kept if one.status not in ("reserved", "cancelled")}
    return spent


def _has_rows(path: Path) -> bool:
    with sqlite3.connect(path) as connection:
        tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'rows'").fetchone()[0]
        found = bool(tables) and bool(connection.execute("SELECT count(*) FROM rows").fetchone()[0])
    connection.close()
    return found


def _assert_nothing_twice(register: Path) -> None:
    with sqlite3.connect(f"file:{register}?mode=ro", uri=True) as connection:
        windows = connection.execute("SELECT round, attempt, persons FROM windows").fetchall()
        answers = connection.execute("SELECT round, stage FROM answers").fetchall()
    connection.close()
    people = [set(np.frombuffer(row[2], dtype="<u8").tolist()) for row in windows]
    assert len({(row[0], row[1]) for row in windows}) == len(windows)
    assert sum(map(len, people)) == len(set().union(*people)) if people else True  # no person in two windows
    once = [(number, stage) for number, stage in answers if stage in ("R3b", "R4")]
    assert len(once) == len(set(once))
