"""`secure-frl attack STUDY`: the suite against one study; found by the command line through an entry point."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_frl.cli.options import AsJson, Epsilon, Protection, Seed, SetKey, StudyPath, read_study
from secure_frl.cli.output import emit_json, guarded, people, progress
from secure_frl.errors import InvalidParameter
from threat_models.processes import start_server
from threat_models.results import Verdict

if TYPE_CHECKING:  # torch, which a mistyped study needs none of
    from threat_models.suite import Report


def attack_command(
    study: StudyPath,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer trials, wider intervals: under 90 seconds.")] = False,
    attack: Annotated[list[str] | None, typer.Option(help="Only this attack; may be repeated.")] = None,
    defence: Annotated[
        list[str] | None, typer.Option(help="Only this defence, beside the controls; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A new folder for threat_report.json and the figures; none is made without it.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 for one a core.")] = 0,
    seed: Seed = None,
    epsilon: Epsilon = None,
    protection: Protection = None,
    set_key: SetKey = None,
    as_json: AsJson = False,
) -> None:
    """Attack STUDY in rehearsals, with its defences off and on, and say what each attack reached.

    Exit 0: every acceptance holds; 1: one fails, and is named; 5: a control failed, so that attack says nothing.
    """

    def command() -> int:
        loaded = read_study(study, epsilon, seed, protection, set_key)
        if out is not None and out.exists():
            raise InvalidParameter(f"expected a new folder, but {out} exists. Choose another --out.")
        if jobs != 1:
            start_server()
        from threat_models.evaluation import Effort
        from threat_models.matrix import matrix_of
        from threat_models.suite import attack as run_suite

        def ended(title: str, seconds: float, number: int, of: int) -> None:
            progress.print(f"[dim]{number}/{of}[/dim] {title} [dim]{seconds:.1f} s of a core[/dim]")

        report = run_suite(
            loaded,
            effort=Effort(quick, loaded.study.seed),
            attacks=attack or (),
            defences=defence or (),
            jobs=jobs,
            progress=ended,
        )
        screen = people(as_json=as_json)
        for part in matrix_of(report):
            screen.print(part)
        screen.print(f"\n{_summary(report)}")
        for line in report.failures:
            screen.print(line, style="bold red", markup=False)
        found = report.plain()
        if out is not None:
            from threat_models.figures import draw

            out.mkdir(parents=True)
            (out / "threat_report.json").write_text(
                json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8"
            )
            for path in draw(found, out):
                progress.print(f"wrote {path}")
        if as_json:
            emit_json(found)
        return report.exit_code

    raise typer.Exit(guarded(command, as_json=as_json))


def _summary(report: Report) -> str:
    counts = Counter(report.verdicts)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    return f"{len(report.cells)} cells in {report.seconds:.0f} s, seed {report.effort.seed}: {said}"
