"""`secure-frl resume DIR`: go on with an interrupted run at its next round, or end it with what it has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secure_frl.cli.options import AsJson
from secure_frl.cli.output import guarded
from secure_frl.cli.watch import show_run


def resume_command(
    directory: Annotated[Path, typer.Argument(help="The folder of an unfinished run.")],
    end: Annotated[
        bool, typer.Option("--end", help="Run no more rounds: close the books, keep the policy as it stands.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Go on with the run in DIRECTORY; the round that was interrupted is lost and what it spent stays spent."""
    raise typer.Exit(guarded(lambda: show_run(directory, as_json, end=end), as_json=as_json))
