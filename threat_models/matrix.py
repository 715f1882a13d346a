"""The matrix in a terminal: attacks down, defences across. Every cell says in words what its colour says."""

from __future__ import annotations

from rich.table import Table

from threat_models.results import Cell, Verdict
from threat_models.suite import Report

_STYLES = {
    Verdict.HOLDS: "green",
    Verdict.FAILS: "bold red",
    Verdict.INVALID: "bold magenta",
    Verdict.BROKEN: "red",
    Verdict.REPORTED: "yellow",
    Verdict.NOT_TESTED: "dim",
}


def table_of(report: Report) -> Table:
    """Return one row a cell: what the attack reached, by chance, at most, and the verdict."""
    table = Table(show_edge=False, pad_edge=False, box=None, padding=(0, 2, 0, 0))
    for name in ("attack", "defence", "view", "reached [95 %]", "by chance", "ceiling", "n", "verdict"):
        table.add_column(name, overflow="fold")
    last = ""
    for cell, verdict in zip(report.cells, report.verdicts, strict=True):
        attack = cell.attack if cell.attack != last else ""
        last = cell.attack
        style = _STYLES[verdict]
        table.add_row(attack, cell.defence, cell.view, *_texts(cell), f"[{style}]{_verdict(cell, verdict)}[/{style}]")
    return table


def _texts(cell: Cell) -> tuple[str, str, str, str]:
    if cell.reason:
        return "", "", "", ""
    if cell.refusal:
        return f"refused: {cell.refusal}", "", "", str(cell.n)
    reached = f"{cell.metric} {cell.value:.3f} [{cell.low:.3f}, {cell.high:.3f}]"
    chance = ", ".join(f"{name} {value:.3f}" for name, value in cell.nulls.items())
    return reached, chance, "" if cell.ceiling is None else f"{cell.ceiling:.3f}", str(cell.n)


def _verdict(cell: Cell, verdict: Verdict) -> str:
    return f"{verdict}: {cell.reason}" if cell.reason else str(verdict)
