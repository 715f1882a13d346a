"""`secure-frl plan STUDY`: what a study would cost in privacy, noise, bytes and seconds. Trains nothing, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from secure_frl.cli.options import AsJson, Epsilon, Protection, Seed, SetKey, StudyPath, read_study
from secure_frl.cli.output import DONE, emit_json, guarded, people
from secure_frl.errors import InvalidParameter
from secure_frl.files import write_durably

if TYPE_CHECKING:
    from secure_frl.privacy.plan import Plan
    from secure_frl.study import Study

Solve = Annotated[
    str, typer.Option(help="Find one figure from the others: epsilon | sigma | rounds | sampling_rate | patients.")
]
Sigma = Annotated[
    float | None, typer.Option(help="The noise multiplier, in place of the one of privacy.target_epsilon.")
]
NoiseNorm = Annotated[
    float | None, typer.Option(help="With --solve patients: how many clips long the noise in a mean may be; 1.")
]
CurvePath = Annotated[
    Path | None, typer.Option("--curve", help="Draw epsilon, and write it to this .svg; - draws only.")
]


def plan_command(
    study: StudyPath,
    seed: Seed = None,
    epsilon: Epsilon = None,
    protection: Protection = None,
    set_key: SetKey = None,
    solve: Solve = "",
    sigma: Sigma = None,
    noise_norm: NoiseNorm = None,
    curve: CurvePath = None,
    as_json: AsJson = False,
) -> None:
    """Show what STUDY promises and costs before any data is touched; refuse what no site may sign."""

    def command() -> int:
        screen = people(as_json=as_json)
        loaded = read_study(study, epsilon, seed, protection, set_key)
        if noise_norm is not None and solve != "patients":
            raise InvalidParameter("expected --solve patients with --noise-norm, got another. Leave --noise-norm out.")
        if curve is not None:
            _check_picture(curve)
        from secure_frl.privacy import planning, solving

        if solve:
            solution = solving.solve(
                loaded, solve, sigma=sigma, largest_noise=1.0 if noise_norm is None else noise_norm
            )
            plan, plain, planned = solution.plan, solution.plain(), solution.study
            screen.print(solution.sentence(), style="bold", markup=False)
        else:
            plan, planned = planning.make_plan(loaded, sigma), loaded
            plain = plan.plain()
        _show(plan, screen)
        if curve is not None:
            _draw(planned, plan, curve, screen)
        if as_json:
            emit_json(plain)
        return DONE

    raise typer.Exit(guarded(command, as_json=as_json))


def _show(plan: Plan, screen: Console) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value, note in plan.explained():
        table.add_row(name, value, note)
    screen.print(table)
    screen.print(f"stated: {plan.statement.sentence()}", markup=False, soft_wrap=True)
    for warning in (*plan.warnings, *(f"unsafe: {choice}" for choice in plan.unsafe)):
        screen.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)


def _check_picture(path: Path) -> None:
    """Refuse a picture that cannot be written before anything is computed."""
    if str(path) == "-":
        return
    if path.suffix != ".svg":
        raise InvalidParameter(f"expected a file that ends in .svg, got {path.name!r}. Write --curve plan.svg.")
    if not path.parent.is_dir():
        raise InvalidParameter(f"expected a folder for {path}, {path.parent} is none. Make it, or choose another.")


def _draw(study: Study, plan: Plan, path: Path, screen: Console) -> None:
    from secure_frl.privacy import curves

    drawn = curves.curve_of(study, plan)
    shows_braille = screen.encoding.lower().startswith("utf")
    screen.print(curves.as_text(drawn, braille=shows_braille), markup=False, highlight=False, soft_wrap=True)
    if str(path) != "-":
        write_durably(path, curves.as_svg(drawn).encode())
        screen.print(f"written: {path}", markup=False, soft_wrap=True)
