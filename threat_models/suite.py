"""Run evaluations of a study on the machine's cores, and judge what came out.

The report is an object whose list `results` has one row a cell. A control that fails makes its attack's other cells
INVALID: the suite then says nothing about that attack, and never that the study is safe from it.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from secure_frl.errors import InvalidParameter
from secure_frl.study import Study
from secure_frl.study_file import parse_study
from threat_models.evaluation import Effort, Evaluation, Task
from threat_models.evaluations import EVALUATIONS
from threat_models.processes import pool
from threat_models.results import Cell, Kind, Verdict, broke_off, judge, not_tested
from threat_models.threat import Threat

FORMAT = "secure_frl/threat_report/v1"
_PACKAGES = ("secure-frl", "numpy", "scipy", "torch", "opacus", "tenseal", "cryptography", "gymnasium")
HOLDS, FAILS, CONTROL_FAILED = 0, 1, 5  # exit codes; both kinds of failure: the last one

Progress = Callable[[str, float, int, int], None]  # (title of what ended, its processor seconds, ended, of)


@dataclass(frozen=True)
class Report:
    """What a suite found."""

    study: Study
    effort: Effort
    cells: tuple[Cell, ...]
    threats: tuple[Threat, ...]
    seconds: float

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Return one verdict a cell."""
        return tuple(judge(self.cells))

    @property
    def exit_code(self) -> int:
        """Return 5 when a control failed, else 1 when an acceptance figure failed, else 0."""
        if Verdict.INVALID in self.verdicts:
            return CONTROL_FAILED
        return FAILS if Verdict.FAILS in self.verdicts else HOLDS

    @property
    def failures(self) -> list[str]:
        """Return a line for each control and each acceptance that failed."""
        lines = []
        for cell, verdict in zip(self.cells, self.verdicts, strict=True):
            is_control = cell.kind is Kind.CONTROL
            is_cause = bool(cell.error) or (is_control and not cell.is_kept)
            if verdict is Verdict.FAILS or (verdict is Verdict.INVALID and is_cause):
                what = "control" if is_control else "acceptance"
                lines.append(f"{cell.attack} against {cell.defence}: {what} fails: {cell.broken}")
        return lines

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values."""
        ids = {one.name: one.id for one in self.threats}
        rows = [
            {"id": ids.get(cell.attack, ""), **cell.plain(), "verdict": str(verdict)}
            for cell, verdict in zip(self.cells, self.verdicts, strict=True)
        ]
        threats = [
            {
                name: sorted(map(str, value)) if name == "views" else value
                for name, value in ((name, getattr(one, name)) for name in Threat.__dataclass_fields__)
            }
            for one in self.threats
        ]
        return {
            "format": FORMAT,
            "versions": _versions(),
            "study": self.study.plain(),
            "quick": self.effort.quick,
            "seed": self.effort.seed,
            "seconds": round(self.seconds, 1),
            "threats": threats,
            "results": rows,
            "failures": self.failures,
            "exit_code": self.exit_code,
        }


def _versions() -> dict[str, str]:
    """Return the versions of what measured: another one may draw, round or mask otherwise."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def attack(
    study: Study,
    *,
    effort: Effort | None = None,
    attacks: Sequence[str] = (),
    defences: Sequence[str] = (),
    evaluations: Sequence[Evaluation] = EVALUATIONS,
    jobs: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Run evaluations of a study and return what they found.

    attacks, defences: names to keep; all when empty. The controls of an attack are always run. evaluations: the
    suite's, and one's own. jobs: processes; 0 for one a core.
    Raises InvalidParameter for a name that nothing here has, for attacks named of which none can be tested, and for a
    study of logged data.
    """
    started, effort = time.monotonic(), effort or Effort()
    if study.is_logged:
        raise InvalidParameter(
            "expected a study of simulated patients, got one of records. Attacks run in rehearsals only: attack the "
            "same study with data.source = 'environment'."
        )
    chosen = [one for one in evaluations if not attacks or any(threat.name in attacks for threat in one.threats)]
    _check_names("attack", attacks, {threat.name for one in evaluations for threat in one.threats})
    cells, tasks = list[Cell](), list[Task]()
    for one in chosen:
        if reason := one.why_not(study):
            cells += [not_tested(threat.name, reason) for threat in one.threats]
        else:
            tasks += [task for task in one.tasks(study, effort) if not attacks or set(task.attacks) & set(attacks)]
    columns = tuple(dict.fromkeys(name for task in tasks for name in task.defences))
    _check_names("defence", defences, set(columns))
    wanted = [task for task in tasks if _is_wanted(task, defences)]
    for found in _measured(study, effort, wanted, jobs or os.cpu_count() or 1, progress):
        cells += [cell for cell in found if not attacks or cell.attack in attacks]
    threats = tuple(threat for one in chosen for threat in one.threats if not attacks or threat.name in attacks)
    cells += _left_out(threats, cells, effort)
    _check_tested(attacks, cells)
    rank = {threat.name: number for number, threat in enumerate(threats)}
    at = {name: number for number, name in enumerate(columns)}
    cells.sort(key=lambda cell: (rank.get(cell.attack, len(rank)), at.get(cell.defence, len(at)), cell.view, cell.game))
    return Report(study, effort, tuple(cells), threats, time.monotonic() - started)


def _left_out(threats: Sequence[Threat], cells: Sequence[Cell], effort: Effort) -> list[Cell]:
    """Return a cell that says so for each attack of which nothing was run."""
    why = "the quick suite has no cell of it: leave out --quick" if effort.quick else "no column asked for has a cell"
    seen = {cell.attack for cell in cells}
    return [not_tested(threat.name, why) for threat in threats if threat.name not in seen]


def _check_tested(attacks: Sequence[str], cells: Sequence[Cell]) -> None:
    """Raise InvalidParameter when attacks were asked for by name and not one of them was tested."""
    asked = [cell for cell in cells if cell.attack in attacks]
    if attacks and all(cell.reason for cell in asked):
        said = "; ".join(f"{cell.attack}: {cell.reason}" for cell in asked)
        raise InvalidParameter(f"expected an attack that is tested here, got none ({said}). Choose other options.")


def _is_wanted(task: Task, defences: Sequence[str]) -> bool:
    return not defences or task.is_control or any(name in defences for name in task.defences)


def _check_names(what: str, asked: Sequence[str], known: set[str]) -> None:
    unknown = sorted(set(asked) - known)
    if unknown:
        raise InvalidParameter(f"expected an {what} of {', '.join(sorted(known))}; got {unknown[0]!r}. Check the name.")


def _measured(
    study: Study, effort: Effort, tasks: list[Task], jobs: int, progress: Progress | None
) -> Iterator[list[Cell]]:
    """Yield the cells of each task as it ends; long ones begin first, so that no core waits for the last of them."""
    ordered = sorted(tasks, key=lambda task: -task.seconds)
    plain = study.plain()
    if jobs == 1 or len(ordered) < 2:
        for number, task in enumerate(ordered):
            cells, seconds = _run(task, plain, effort)
            yield cells
            if progress is not None:
                progress(task.title, seconds, number + 1, len(ordered))
        return
    with pool(jobs) as processes:
        asked = {processes.submit(_run, task, plain, effort): task for task in ordered}
        for number, future in enumerate(as_completed(asked)):
            task = asked[future]
            try:
                cells, seconds = future.result()
            except Exception as error:  # a process that died takes the others of its pool with it: each is named
                cells, seconds = _broken_off(task, error), 0.0
            yield cells
            if progress is not None:
                progress(task.title, seconds, number + 1, len(ordered))


def _run(task: Task, plain: dict[str, Any], effort: Effort) -> tuple[list[Cell], float]:  # Any: TOML values
    """Return a task's cells and the processor seconds that they took, those of ended children too.

    What a task raises is a cell that fails, beside those that it gave before: no other task's result is lost by it.
    """
    before, found = sum(os.times()[:4]), list[Cell]()
    try:
        for cell in task.measure(parse_study(plain, source="the study under attack"), effort):
            found.append(cell)
    except Exception as error:  # the edge of a task: whatever failed, the report names it
        found += _broken_off(task, error)
    return found, sum(os.times()[:4]) - before


def _broken_off(task: Task, error: Exception) -> list[Cell]:
    """Return a failed cell for each attack and column of a task that did not end."""
    kind = Kind.CONTROL if task.is_control else Kind.DEFENDED
    text = f"{type(error).__name__}: {error} (in {task.title})"
    return [broke_off(attack, defence, kind, text) for attack in task.attacks for defence in task.defences or ("",)]
