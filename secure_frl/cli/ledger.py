"""`secure-frl ledger ...`: what a ledger has booked, its export, and whether it contains what others hold of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from secure_frl.cli.options import AsJson
from secure_frl.cli.output import CLAIM_FAILS, DONE, emit_json, guarded, people

ledger_commands = typer.Typer(help="Read privacy ledgers.", no_args_is_help=True)
LedgerPath = Annotated[Path, typer.Argument(help="A ledger: ledger.sqlite, or an exported .jsonl.")]


@ledger_commands.command("show")
def show_command(
    path: LedgerPath,
    all_fields: Annotated[bool, typer.Option("--all", help="Print every field of every event.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the events of a ledger, its lifetime budget and what is left of it."""

    def command() -> int:
        screen = people(as_json=as_json)
        from secure_frl.evidence.ledger_view import COLUMNS, view_ledger

        view = view_ledger(path)
        table = Table(*COLUMNS, title=view.holder)
        for row in view.rows:
            table.add_row(*row.cells())
        screen.print(table)
        for row in view.rows if all_fields else ():
            screen.print(f"row {row.sequence}", style="bold")
            for name, value in row.plain().items():
                screen.print(f"  {name}: {value}", markup=False, soft_wrap=True)
        for name, value in view.about():
            screen.print(f"{name}: {value}", markup=False, soft_wrap=True)
        if as_json:
            emit_json(view.plain())
        return DONE

    raise typer.Exit(guarded(command, as_json=as_json))


@ledger_commands.command("export")
def export_command(
    path: Annotated[Path, typer.Argument(help="A holder's own ledger.sqlite.")],
    out: Annotated[Path, typer.Option(help="Folder for HOLDER.jsonl and HOLDER.head.")],
    key: Annotated[Path | None, typer.Option(help="The holder's identity.key. Default: beside the ledger.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a ledger as canonical JSON lines with its signed head: what `verify` checks and others hold."""

    def command() -> int:
        screen = people(as_json=as_json)
        from secure_frl.evidence.ledger_export import export_ledger

        head = export_ledger(path, key if key is not None else path.parent / "identity.key", out)
        screen.print(
            f"{head.files[0]} ends at row {head.sequence}, signed in {head.files[1]} by the key {head.fingerprint}",
            markup=False,
            soft_wrap=True,
        )
        if as_json:
            emit_json(head.plain())
        return DONE

    raise typer.Exit(guarded(command, as_json=as_json))


@ledger_commands.command("check")
def check_command(
    path: LedgerPath,
    heads: Annotated[list[Path], typer.Argument(help="Signed heads (.head) of this ledger that others kept.")],
    as_json: AsJson = False,
) -> None:
    """Say whether a ledger still contains every head that its holder once signed; an older copy does not."""

    def command() -> int:
        screen = people(as_json=as_json)
        from secure_frl.evidence.ledger_view import check_heads

        answers = check_heads(path, heads)
        for answer in answers:
            screen.print(str(answer), style="green" if answer.holds else "red", markup=False, soft_wrap=True)
        holds = all(answer.holds for answer in answers)
        if as_json:
            emit_json({"heads": [answer.plain() for answer in answers], "holds": holds})
        return DONE if holds else CLAIM_FAILS

    raise typer.Exit(guarded(command, as_json=as_json))


@ledger_commands.command("accept-clock")
def accept_clock_command(
    path: Annotated[Path, typer.Argument(help="A holder's own ledger.sqlite.")], as_json: AsJson = False
) -> None:
    """Book that the clock is right now, where a row was written while it was ahead. What is spent does not change."""

    def command() -> int:
        screen = people(as_json=as_json)
        from secure_frl.evidence.ledger_export import accept_clock

        before, now = accept_clock(path)
        screen.print(f"the last row's time was {before}; reservations go on from {now} (Unix seconds)")
        if as_json:
            emit_json({"time_before": before, "time_now": now})
        return DONE

    raise typer.Exit(guarded(command, as_json=as_json))
