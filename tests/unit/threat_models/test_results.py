"""Verdicts and exit codes: a control that fails is never "safe", and an acceptance that fails is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from secure_frl.study_file import load_study
from threat_models.evaluation import Effort
from threat_models.results import Bar, Cell, Kind, Verdict, broke_off, judge, not_tested
from threat_models.suite import CONTROL_FAILED, FAILS, HOLDS, Report

CONTROL = Cell(
    "look", "unsafe-plain", Kind.CONTROL, "found", 1.0, 0.9, 1.0, 60, "coordinator", bars=(Bar(at_least=0.95),)
)
DEFENDED = Cell("look", "noise", Kind.DEFENDED, "found", 0.02, 0.0, 0.05, 60, "coordinator", bars=(Bar(at_most=0.06),))
BROKEN = replace(CONTROL, defence="masking", kind=Kind.BY_DESIGN)
OTHER = replace(CONTROL, attack="listen"), replace(DEFENDED, attack="listen")


def _report(*cells: Cell) -> Report:
    study = load_study(Path(__file__).parents[3] / "examples" / "icu_sepsis" / "study.toml")
    return Report(study, Effort(), cells, (), 1.0)


def test_a_control_that_wins_and_a_defence_that_keeps_its_bar_hold() -> None:
    report = _report(CONTROL, DEFENDED, BROKEN)

    assert list(report.verdicts) == [Verdict.WINS, Verdict.HOLDS, Verdict.BROKEN]
    assert report.exit_code == HOLDS
    assert report.failures == []


def test_a_failed_control_makes_its_own_attack_invalid_and_no_other() -> None:
    report = _report(replace(CONTROL, value=0.5), DEFENDED, *OTHER)

    assert list(report.verdicts) == [Verdict.INVALID, Verdict.INVALID, Verdict.WINS, Verdict.HOLDS]
    assert report.exit_code == CONTROL_FAILED
    assert "look against unsafe-plain: control fails" in report.failures[0]


def test_an_acceptance_that_fails_is_named() -> None:
    report = _report(CONTROL, replace(DEFENDED, value=0.07))

    assert list(report.verdicts) == [Verdict.WINS, Verdict.FAILS]
    assert report.exit_code == FAILS
    assert report.failures == [
        "look against noise: acceptance fails: expected value <= 0.06, got found 0.070 [0.000, 0.050]"
    ]


def test_where_both_fail_the_failed_control_decides() -> None:
    report = _report(replace(CONTROL, value=0.5), replace(OTHER[1], value=1.0))

    assert report.exit_code == CONTROL_FAILED


def test_a_cell_broken_by_design_that_is_not_broken_fails() -> None:
    assert judge([CONTROL, replace(BROKEN, value=0.3)]) == [Verdict.WINS, Verdict.FAILS]


def test_what_does_not_apply_is_not_tested_and_says_why() -> None:
    report = _report(not_tested("look", "no states here"))

    assert list(report.verdicts) == [Verdict.NOT_TESTED]
    assert report.exit_code == HOLDS
    assert report.plain()["results"][0]["reason"] == "no states here"
    assert report.plain()["results"][0]["value"] is None


@pytest.mark.parametrize(("of", "holds"), [("value", False), ("low", True), ("auc", True)])
def test_a_bar_is_about_the_figure_that_it_names(of: str, holds: bool) -> None:
    cell = Cell("look", "noise", Kind.DEFENDED, "found", 0.5, 0.1, 0.9, 60, "coordinator", figures={"auc": 0.2})

    assert Bar(of, at_most=0.2).holds(cell) is holds


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    "nothing",
    [
        {"bars": ()},
        {"n": 0},
        {"value": NAN, "bars": (Bar("high", at_most=0.06),)},
        {"low": -INFINITE, "bars": (Bar("low", at_most=0.06),)},  # a limit of a single trial
        {"bars": (Bar("limit", at_most=0.06),)},  # a figure that the cell has not
    ],
    ids=lambda given: "-".join(given),
)
def test_what_rests_on_nothing_never_holds(nothing: dict[str, object]) -> None:
    empty = replace(DEFENDED, **nothing)  # type: ignore[arg-type]  # fields of each type

    assert judge([CONTROL, empty]) == [Verdict.WINS, Verdict.FAILS]
    assert judge([CONTROL, replace(empty, kind=Kind.BY_DESIGN)])[1] is Verdict.FAILS
    assert judge([replace(empty, kind=Kind.CONTROL), DEFENDED]) == [Verdict.INVALID] * 2
    assert _report(CONTROL, empty).exit_code == FAILS


def test_a_measurement_that_broke_off_is_named_and_never_safe() -> None:
    report = _report(CONTROL, DEFENDED, broke_off("look", "clip", Kind.DEFENDED, "WorkerDied: gone (in look, clip)"))

    assert report.verdicts[-1] is Verdict.FAILS
    assert report.exit_code == FAILS
    assert report.failures == ["look against clip: acceptance fails: measuring ended: WorkerDied: gone (in look, clip)"]
    assert _report(broke_off("look", "clip", Kind.REPORT, "-")).exit_code == FAILS
    assert _report(broke_off("look", "plain", Kind.CONTROL, "-"), DEFENDED).exit_code == CONTROL_FAILED
