"""Ratios of two calls that take turns, so that what slows the machine down slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
_WARM = 2  # turns before it counts


def timed(call: Callable[[], Result]) -> tuple[float, Result]:
    """Return the CPU seconds of this thread, and what the call returned."""
    start = time.thread_time()
    result = call()
    return time.thread_time() - start, result


def median_ratio(one: Callable[[], object], other: Callable[[], object], turns: int) -> tuple[float, float, float]:
    """Return the median of one's time over the other's, turn by turn, and the least seconds of each."""
    seconds = [(timed(one)[0], timed(other)[0]) for _ in range(turns + _WARM)][_WARM:]
    ratio = statistics.median(mine / theirs for mine, theirs in seconds)
    return ratio, min(mine for mine, _ in seconds), min(theirs for _, theirs in seconds)
