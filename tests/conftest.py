"""Shared fixtures: one small study, runs of it, and the limit on how long a test may take.

The limit counts processor seconds of the test and of what it started, beside seconds on the clock: a machine that is
busy with something else makes no test fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from secure_frl.study import Study
from secure_frl.study_file import load_study

TINY = Path(__file__).parent / "studies" / "tiny.toml"
LONGEST_TEST_S = 20.0  # a slower one belongs to the campaigns
LONGEST_WAIT_S = 90.0  # on the clock, however busy the machine: a test that sleeps or hangs
_STARTED = pytest.StashKey[float]()


def _processor_s() -> float:
    """Return processor seconds of this process, its threads and the ended processes that it waited for."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    item.stash[_STARTED] = _processor_s()
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    is_campaign = item.get_closest_marker("campaign") is not None
    if report.when == "call" and report.passed and call.duration > LONGEST_TEST_S and not is_campaign:
        busy = _processor_s() - item.stash[_STARTED]
        if busy > LONGEST_TEST_S or call.duration > LONGEST_WAIT_S:
            report.outcome = "failed"
            report.longrepr = (
                f"took {busy:.1f} s of processor time in {call.duration:.1f} s; a test of the default suite takes at "
                f"most {LONGEST_TEST_S:g} s"
            )
    return report


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Study]:
    """Return a function: overrides by dotted key -> the tiny study."""

    def load(overrides: Mapping[str, Any] | None = None) -> Study:
        return load_study(TINY, overrides)

    return load


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run of the tiny study; read it, never write to it."""
    from secure_frl.federation import simulation

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    simulation.run(load_study(TINY), folder, source=TINY)
    return folder


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may damage."""
    return Path(shutil.copytree(finished_run, tmp_path / "copy"))
