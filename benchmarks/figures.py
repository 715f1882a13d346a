"""How every benchmark reports: one line a figure for people, one JSON line at the end for machines."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

Options = TypeVar("Options")


@dataclass(frozen=True)
class Figure:
    """One measured value beside the bar it has to pass."""

    name: str
    value: float
    unit: str
    bar: str  # "<= 1.25"
    holds: bool


def at_most(name: str, value: float, bar: float, unit: str) -> Figure:
    """Return a figure that holds up to `bar`."""
    return Figure(name, round(float(value), 4), unit, f"<= {bar:.4g}", bool(value <= bar))  # NumPy's are no JSON


def at_least(name: str, value: float, bar: float, unit: str) -> Figure:
    """Return a figure that holds from `bar` on."""
    return Figure(name, round(float(value), 4), unit, f">= {bar:.4g}", bool(value >= bar))


def line(figure: Figure) -> str:
    """Return a figure as a line of text."""
    verdict = "holds" if figure.holds else "DOES NOT HOLD"
    return f"{figure.name:34} {figure.value:12.4g} {figure.unit:16} {figure.bar:12} {verdict}"


def as_json(figures: Sequence[Figure]) -> str:
    """Return the last line of a benchmark."""
    return json.dumps({"figures": [asdict(figure) for figure in figures]})


def load_average() -> str:
    """Return how busy the machine was over 1, 5 and 15 minutes: on a busy one only ratios mean anything."""
    return ", ".join(f"{load:.2f}" for load in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"


def show(text: str) -> None:
    """Print progress where it does not mix with the result."""
    print(text, file=sys.stderr, flush=True)


def report(
    parser: argparse.ArgumentParser,
    parts: Mapping[str, Callable[[Options], Iterator[Figure]]],
    names: str,
    options: Options,
    *,
    wants_json: bool,
) -> int:
    """Run the named parts and report; the exit code says nothing of the bars, `holds` does.

    names: of `parts`, with commas between; another name ends the program through `parser`.
    """
    unknown = sorted(set(names.split(",")) - set(parts))
    if unknown:
        parser.error(f"expected --only of {', '.join(parts)}, got {', '.join(unknown)}. Name figures as listed.")
    figures = []
    show(f"load average at the start: {load_average()}")
    for name in names.split(","):
        for figure in parts[name](options):
            figures.append(figure)
            show(line(figure))
    show(f"load average at the end: {load_average()}")
    if wants_json:
        print(as_json(figures))
    return 0
