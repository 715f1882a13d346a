"""What a program costs that a user would start: its processor time, with that of what it starts and waits for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence


def child_s(command: Sequence[str]) -> float:
    """Return the CPU seconds of a program that must end well."""
    before = os.times()
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603  # fixed command lines
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
