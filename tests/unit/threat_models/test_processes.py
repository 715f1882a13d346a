"""The processes of the suite: everything imported before the first task, and one thread each."""

from __future__ import annotations

import os
import sys

import pytest

from threat_models.processes import pool

pytestmark = pytest.mark.threats


def _found() -> tuple[bool, set[str | None]]:
    imported = {"threat_models.evaluations", "torch._dynamo"} <= set(sys.modules)
    return imported, {os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def test_a_process_has_everything_imported_and_one_thread_and_the_caller_s_own_threads_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)

    with pool(1) as processes:
        imported, threads = processes.submit(_found).result()

    assert imported
    assert threads == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert "MKL_NUM_THREADS" not in os.environ
