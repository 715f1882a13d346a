"""`secure-frl ledger show`: what a ledger has booked, and what that comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from secure_frl.cli.options import AsJson
from secure_frl.cli.output import DONE, emit_json, guarded, progress

ledger_commands = typer.Typer(help="Read privacy ledgers.", no_args_is_help=True)


@ledger_commands.callback()
def _group() -> None:
    """Read privacy ledgers."""


@ledger_commands.command("show")
def show_command(
    path: Annotated[Path, typer.Argument(help="A ledger: ledger.sqlite, or an exported .jsonl.")],
    as_json: AsJson = False,
) -> None:
    """Show the events of a ledger, its lifetime budget and what is left of it."""

    def command() -> int:
        from secure_frl.evidence.ledger_view import view_ledger

        view = view_ledger(path)
        table = Table(
            "row", "charter", "round.attempt", "outcome", "unit", "noise multiplier", "shares", title=view.holder
        )
        for row in view.rows:
            table.add_row(*row.cells())
        progress.print(table)
        progress.print(
            f"epsilon {view.epsilon_spent:.4f} spent of {view.epsilon_budget:g} for life; {view.epsilon_left:.4f} left "
            f"at delta {view.delta:g}; data set {view.dataset_id}",
            markup=False,
            soft_wrap=True,
        )
        if as_json:
            emit_json(view.plain())
        return DONE

    raise typer.Exit(guarded(command, as_json=as_json))
