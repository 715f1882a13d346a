"""How every benchmark reports: one line a figure for people, one JSON line at the end for machines."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
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


def run(
    description: str | None,
    parts: Mapping[str, Callable[[Options], Iterator[Figure]]],
    options_of: Callable[[argparse.Namespace], Options],
    arguments: Sequence[str] | None = None,
    **folders: Path,
) -> int:
    """Be the command line of a benchmark: --json, --quick, --only NAME,... and a folder for each peer.

    description: the docstring of the benchmark. options_of: from what was chosen, `quick` and the folders by name.
    arguments: None reads the command line's. folders: where the environment of a peer lies unless told otherwise.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--quick", action="store_true", help="few repetitions and small sizes: a smoke test")
    parser.add_argument("--only", default=",".join(parts), help=f"of {', '.join(parts)}")
    for peer, folder in folders.items():
        parser.add_argument(f"--{peer}", type=Path, default=folder, help="environment for this peer, made if missing")
    chosen = parser.parse_args(arguments)
    return report(parser, parts, chosen.only, options_of(chosen), wants_json=chosen.json)


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
