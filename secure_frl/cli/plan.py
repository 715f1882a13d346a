"""`secure-frl plan STUDY`: what a study would cost in privacy, noise, bytes and seconds. Trains nothing, no torch."""

from __future__ import annotations

import typer
from rich.table import Table

from secure_frl.cli.options import AsJson, Epsilon, Protection, Seed, SetKey, StudyPath, read_study
from secure_frl.cli.output import DONE, emit_json, guarded, progress


def plan_command(
    study: StudyPath,
    seed: Seed = None,
    epsilon: Epsilon = None,
    protection: Protection = None,
    set_key: SetKey = None,
    as_json: AsJson = False,
) -> None:
    """Show what STUDY promises and costs before any data is touched; refuse what no site may sign."""

    def command() -> int:
        loaded = read_study(study, epsilon, seed, protection, set_key)
        from secure_frl.privacy.planning import make_plan

        plan = make_plan(loaded)
        plain = plan.plain()
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, value, note in plan.explained():
            table.add_row(name, value, note)
        progress.print(table)
        progress.print(f"stated: {plan.statement.sentence()}", markup=False, soft_wrap=True)
        for warning in (*plan.warnings, *(f"unsafe: {choice}" for choice in loaded.unsafe_choices)):
            progress.print(f"warning: {warning}", style="yellow", markup=False)
        if as_json:
            emit_json(plain)
        return DONE

    raise typer.Exit(guarded(command, as_json=as_json))
