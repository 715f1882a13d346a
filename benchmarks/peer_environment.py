"""A virtual environment with one peer and nothing of ours, made once: its pins and ours need not agree."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path


def python_of(folder: Path, requirement: str, constraints: Path | None = None) -> Path:
    """Return the interpreter of the environment in `folder`, making and filling it if it is not there.

    constraints: a file of pins for what the requirement brings along; without one, the newest of everything.
    Raises subprocess.CalledProcessError if the installation fails; a half-made folder is used no further.
    """
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not (ready.exists() and ready.read_text() == requirement):
        venv.create(folder, with_pip=True, clear=folder.exists())
        command = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", requirement]
        command += [] if constraints is None else ["--constraint", str(constraints)]
        subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603  # a fixed command line
        ready.write_text(requirement)
    return python
