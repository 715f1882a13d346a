"""Shared fixtures: one small study, runs of it, and the limit on how long a test may take.

The limit counts processor seconds of the test and of what it started, beside seconds on the clock: a machine that is
busy with something else makes no test fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from secure_frl.study import Study
from secure_frl.study_file import load_study

if TYPE_CHECKING:  # torch, which few tests need
    from secure_frl.federation.audit_rounds import AuditParts
    from secure_frl.learning.trajectories import Trajectories
    from secure_frl.secure_sum import SumConstants

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


@pytest.fixture(scope="session")
def audit_faults() -> Callable[[Study], dict[str, AuditParts]]:
    """Return a function: study -> parts of honest sites with a fault each, by name. Nothing touches a report."""
    from secure_frl.federation.audit_rounds import AuditParts

    def halved(rank: int, constants: SumConstants) -> SumConstants:
        return replace(constants, integer_noise_scale=constants.integer_noise_scale // 2)

    def three_without(rank: int, constants: SumConstants) -> SumConstants:
        return replace(constants, noise="unsafe-none") if rank < 3 else constants

    def twice(window: Trajectories) -> Trajectories:
        """Every unit again under another number: what a list that was joined with itself does."""
        both = window.select(np.tile(np.arange(window.count), 2))
        second = np.repeat(np.array([0, 1], dtype=np.uint64), window.count) << np.uint64(32)
        return replace(both, persons=both.persons + second)

    def made(study: Study) -> dict[str, AuditParts]:
        def divided(rank: int, constants: SumConstants) -> SumConstants:
            batch = study.training.episodes_per_site
            return replace(constants, integer_noise_scale=max(1, constants.integer_noise_scale // batch))

        return {
            "halved noise": AuditParts(constants_at=halved),
            "doubled contribution": AuditParts(window=twice),
            "noise divided by the batch": AuditParts(constants_at=divided),
            "three of seven shares missing": AuditParts(constants_at=three_without),
        }

    return made
