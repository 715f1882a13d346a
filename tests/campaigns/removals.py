"""A check taken out of a copy of the package: where it stands, what takes its place, and the tests that must notice.

The copy lies in a temporary folder, together with all tests; a patch names the text that it removes and fails when
the text is not there exactly once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Removal:
    """One check, the text that is it, what stands there instead, and the tests that must notice."""

    check: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]


def out_of_place(removals: Iterable[Removal]) -> list[str]:
    """Return the checks whose text does not stand exactly once in its file, or one of whose tests is gone."""

    def stands(removal: Removal) -> bool:
        tests = [test.split("[")[0].split("::") for test in removal.tests]
        is_there = (ROOT / "secure_frl" / removal.file).read_text().count(removal.text) == 1
        return is_there and all(f"def {name}(" in (ROOT / file).read_text() for file, name in tests)

    return [removal.check for removal in removals if not stands(removal)]


def lay_out(folder: Path) -> Path:
    """Copy the package with all tests and what they read into a new folder and return it."""
    for name in ("secure_frl", "threat_models", "tests", "examples", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def put_to(folder: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run tests against the copy. A name that ends in `-` or has no parameters stands for all that begin so."""
    names = " or ".join(test.split("::")[1].split("[")[0] for test in tests)
    files = sorted({test.split("::")[0] for test in tests})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-k", names, *files]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
    )


def take_out(folder: Path, removal: Removal) -> None:
    path = folder / "secure_frl" / removal.file
    source = path.read_text()
    assert source.count(removal.text) == 1, f"{removal.file} has not this text exactly once: {removal.text!r}"
    path.write_text(source.replace(removal.text, removal.instead))


def check_that_it_is_noticed(folder: Path, removal: Removal) -> None:
    take_out(folder, removal)

    found = put_to(folder, removal.tests)

    assert found.returncode == 1, found.stdout[-2000:] + found.stderr[-500:]
    for test in removal.tests:
        assert f"FAILED {test}" in found.stdout, found.stdout[-2000:]
