"""The matrix in a terminal: a section an attack, a line a defence. Every cell says in words what its colour says."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from threat_models.results import Cell, Verdict
from threat_models.suite import Report

STYLES = {
    Verdict.WINS: "cyan",
    Verdict.HOLDS: "green",
    Verdict.FAILS: "bold red",
    Verdict.INVALID: "bold magenta",
    Verdict.BROKEN: "red",
    Verdict.REPORTED: "yellow",
    Verdict.NOT_TESTED: "dim",
}
_NULLS = ("swapped", "prior", "uniform")  # the one that counts first


def matrix_of(report: Report) -> Iterator[RenderableType]:
    """Yield what is printed: for each attack a title, its cells and the sentences that go with them."""
    titles = {threat.name: f"{threat.id} {threat.title}" for threat in report.threats}
    pairs = list(zip(report.cells, report.verdicts, strict=True))
    for attack in dict.fromkeys(cell.attack for cell in report.cells):
        rows = [(cell, verdict) for cell, verdict in pairs if cell.attack == attack]
        yield f"\n[bold]{escape(attack)}[/bold]  {escape(titles.get(attack, ''))}"
        if all(cell.reason for cell, _ in rows):
            yield f"  [dim]not tested: {escape(rows[0][0].reason)}[/dim]"
            continue
        yield _table(rows)
        for sentence in dict.fromkeys(cell.sentence for cell, _ in rows if cell.sentence):
            yield f"  [dim]{escape(sentence)}[/dim]"


def _table(rows: list[tuple[Cell, Verdict]]) -> Table:
    table = Table(show_edge=False, pad_edge=True, box=None, padding=(0, 1, 0, 1))
    table.add_column("defence", no_wrap=True)
    table.add_column("seen by", overflow="fold")
    metrics = dict.fromkeys(cell.metric for cell, _ in rows if cell.metric)
    table.add_column(next(iter(metrics)) if len(metrics) == 1 else "reached", overflow="fold")
    for name in ("chance", "ceiling", "n", "verdict"):
        table.add_column(name, overflow="fold")
    for cell, verdict in rows:
        style = STYLES[verdict]
        view = f"{cell.view}, {cell.game}" if cell.game else cell.view
        reached = _reached(cell, with_metric=len(metrics) > 1)
        why = cell.reason or cell.error or cell.remark
        words = f"{verdict}: {why}" if why else str(verdict)
        ceiling = "" if cell.ceiling is None else f"{cell.ceiling:.3f}"
        texts = (cell.defence, view, reached, _chance(cell), ceiling, str(cell.n))
        table.add_row(*map(escape, texts), f"[{style}]{escape(words)}[/{style}]")
    return table


def _reached(cell: Cell, *, with_metric: bool) -> str:
    if cell.reason or cell.error:
        return ""
    if cell.refusal:
        return f"refused: {cell.refusal}"
    figure = f"{cell.value:.3f} [{cell.low:.3f}, {cell.high:.3f}]"
    return f"{cell.metric} {figure}" if with_metric else figure


def _chance(cell: Cell) -> str:
    known = next((name for name in _NULLS if name in cell.nulls), next(iter(cell.nulls), ""))
    return f"{cell.nulls[known]:.3f}" if known else ""
