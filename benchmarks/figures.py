"""How every benchmark reports: one line a figure for people, one JSON line at the end for machines."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass


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
    return Figure(name, round(value, 4), unit, f"<= {bar:.4g}", value <= bar)


def at_least(name: str, value: float, bar: float, unit: str) -> Figure:
    """Return a figure that holds from `bar` on."""
    return Figure(name, round(value, 4), unit, f">= {bar:.4g}", value >= bar)


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
