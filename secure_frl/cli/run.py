"""`secure-frl run STUDY`: train, show each round, leave a run folder that verifies offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secure_frl.cli.options import AsJson, Epsilon, Protection, Seed, SetKey, StudyPath, read_study
from secure_frl.cli.output import guarded
from secure_frl.cli.watch import show_run


def run_command(
    study: StudyPath,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder; must not exist. Default: runs/<study name>, or the next free -2, -3 ..."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Folder of ledgers that several studies on one data.dataset_id share; outside the run folder."
        ),
    ] = None,
    seed: Seed = None,
    epsilon: Epsilon = None,
    protection: Protection = None,
    set_key: SetKey = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Seed noise and keys: repeatable, marked, protects nobody.")
    ] = False,
    capture: Annotated[Path | None, typer.Option(help="Write every frame that the carrier moves to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train one policy over all sites of STUDY."""

    def command() -> int:
        loaded = read_study(study, epsilon, seed, protection, set_key)
        from secure_frl.federation.run_folder import RunOptions, next_free_path  # after the study is known to be good

        folder = out if out is not None else next_free_path(Path("runs"), loaded.study.name)
        options = RunOptions(rehearse=rehearse, state=state, capture=capture)
        return show_run(folder, as_json, study=loaded, source=study, options=options)

    raise typer.Exit(guarded(command, as_json=as_json))
