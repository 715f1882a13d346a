"""What people see while a study runs: one line a round on standard error, and at the end what it came to."""

from __future__ import annotations

import math
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from secure_frl.cli.output import DONE, emit_json, people, progress
from secure_frl.errors import BudgetExhausted, StudyStopped

if TYPE_CHECKING:  # importing these at run time would load torch
    from secure_frl.federation.results import RoundReport, RunResult
    from secure_frl.federation.run_folder import RunOptions
    from secure_frl.study import Study

_GO_ON = ("Go on with it", "")  # what people may do about a run that ended early, and the option for it
_UNSAFE = {  # key of the study -> what its unsafe choice took away
    "privacy.noise": "no noise was added, nobody is protected",
    "privacy.unit": "one step of a patient is protected, not the patient",
    "protection.method": "the coordinator read every single update",
}


class _Watcher:
    """Prints one line a round above a progress bar."""

    def __init__(self, bar: Progress, rounds: int) -> None:
        self._bar = bar
        self._task = bar.add_task("rounds", total=rounds)

    def round_ended(self, report: RoundReport) -> None:
        """Show one round."""
        if report.outcome == "summed":
            privacy = f"epsilon {report.epsilon_spent:.3f} spent, {report.epsilon_left:.3f} left"
            if not math.isfinite(report.epsilon_spent):
                privacy = "NO EPSILON STATED"
            gap = "" if report.gap_recovered is None else f"gap recovered {report.gap_recovered:+.3f}  "
            line = (
                f"round {report.round:>3}  return {report.mean_return:.4f}  {gap}{privacy}  "
                f"survivors {report.survivors} of {report.cohort}  {report.protection}, {report.noise} noise"
            )
        else:
            line = f"round {report.round:>3}  lost: {report.reason}. Its people stay spent; the study goes on."
        self._bar.console.print(line, markup=False, soft_wrap=True)
        self._bar.update(self._task, completed=report.round)


def show_run(
    folder: Path,
    as_json: bool,
    *,
    study: Study | None = None,
    source: Path | None = None,
    options: RunOptions | None = None,
    end: bool = False,
) -> int:
    """Run a new study, or resume the folder when no study is given, and print what it came to.

    end: run no more rounds of the folder; leave what it has.
    """
    progress.print("loading torch and Opacus ...", style="dim")
    # Before torch is loaded. Its threads wait for each other by spinning: on two busy cores a study took three times as
    # long with two threads as with one. A value that people set themselves stands.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from secure_frl.federation import simulation
    from secure_frl.federation.run_folder import RunOptions

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress, transient=True) as bar:

        def begin(rounds: int) -> _Watcher:
            return _Watcher(bar, rounds)

        try:
            if study is not None:
                result = simulation.run(study, folder, options or RunOptions(), source=source, watch=begin)
            else:
                result = simulation.resume(folder, end=end, watch=begin)
        except (KeyboardInterrupt, StudyStopped, BudgetExhausted, OSError) as error:
            if (folder / "run.json").exists():
                said, option = ("End it with what it has", " --end") if isinstance(error, BudgetExhausted) else _GO_ON
                progress.print(f"{said}: {_program()} resume {folder}{option}", markup=False, soft_wrap=True)
            raise
    _show_result(folder, result, people(as_json=as_json))
    if as_json:
        emit_json(result.plain())
    return DONE


def _show_result(folder: Path, result: RunResult, screen: Console) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    plain = result.plain()
    gap, half_width = plain["gap_recovered"], plain["return_half_width"]
    if gap is not None:
        table.add_row("gap recovered", f"{gap:.3f}", "0 = the clinicians' policy, 1 = the best possible")
    # Where the gap is known, an episode's return is 1 for a patient who survives.
    meant = "mean return" if gap is None else "chance of survival"
    meant = f"{meant} under the released policy"
    meant = f"{meant}, simulated: +-{half_width:.4f} at 95 %" if half_width else f"exact {meant}"
    table.add_row("return", f"{plain['return']:.4f}", meant)
    for row in _by_site(plain["simulated"] or {}):
        table.add_row(*row)
    if plain["epsilon_spent"] is None:
        table.add_row("privacy", "NONE STATED", "; ".join(plain["unsafe"]))
    else:
        table.add_row(
            "epsilon spent",
            f"{plain['epsilon_spent']:.4f}",
            f"per {plain['unit']} at delta {plain['delta']:g}, {plain['relation']}, {plain['accountant']}",
        )
        worse = plain["epsilon_if_one_more_colludes"]  # None where nothing was released, or no number bounds it
        if plain["epsilon_spent"]:
            table.add_row(
                "if one more colludes",
                "not stated" if worse is None else f"{worse:.4f}",
                f"the claim assumes {plain['honest_shares_assumed']} honest shares of noise in each sum",
            )
            reads = plain["epsilon_if_key_holder_colludes"]
            if reads is not None:
                table.add_row(
                    "if a key holder colludes", f"{reads:.4f}", "one site with the coordinator reads single updates"
                )
    table.add_row(
        "rounds", f"{plain['rounds_completed']}", f"{plain['rounds_lost']} lost, {plain['episodes']} episodes"
    )
    table.add_row("fewest survivors", f"{plain['survivors_min']}", f"{plain['protection']}, {plain['noise']} noise")
    if plain["survivor_difference_min"]:
        meant = "sites at least between two sums that are not over the same; the noise of both hides what these sent"
        table.add_row("difference", f"{plain['survivor_difference_min']}", meant)
    table.add_row("seconds", f"{plain['seconds']:.1f}", "")
    screen.print(table)
    if plain["epsilon_spent"] is not None:
        screen.print(f"stated: {plain['statement']['sentence']}", markup=False, soft_wrap=True)
    if plain["rehearsal"]:
        screen.print("REHEARSAL: noise and keys were seeded; nothing here protects anybody.", style="bold red")
    for choice in plain["unsafe"]:
        meaning = _UNSAFE[choice.partition(" = ")[0]]
        screen.print(f"UNSAFE: {choice}: {meaning}.", style="bold red", markup=False, soft_wrap=True)
    screen.print(f"Check it without trusting this run: {_program()} verify {folder}", markup=False, soft_wrap=True)


def _by_site(simulated: dict[str, Any]) -> list[tuple[str, str, str]]:  # Any: JSON values
    """Return what to show of sites that differ, or that have policies of their own: mean and worst, then each."""
    named = {"gap_recovered": "shared policy", "personal_gap_recovered": "sites' own policies"}
    rows = [
        (
            what,
            f"{simulated[f'{key}_mean']:.3f}",
            f"mean gap recovered over sites, each against its own best; worst {simulated[f'{key}_worst']:.3f}",
        )
        for key, what in named.items()
        if f"{key}_mean" in simulated
    ]
    for one in simulated.get("by_site", ()):
        own = f", its own policy {one['personal_gap_recovered']:.3f}" if "personal_gap_recovered" in one else ""
        said = f"return {one['return']:.4f} of at most {one['optimal']:.4f}{own}"
        rows.append((f"  {one['site']}", f"{one['gap_recovered']:.3f}", said))
    return rows


def _program() -> str:
    """Return what to type for this program: its path as it was called, where the shell would not find it by name."""
    is_ours = Path(sys.argv[0]).name == "secure-frl"
    return sys.argv[0] if is_ours and shutil.which("secure-frl") is None else "secure-frl"
