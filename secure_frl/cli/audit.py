"""`secure-frl audit STUDY --rehearse`: what made-up people prove about the noise, beside what the study claims."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from secure_frl.cli.options import AsJson, Epsilon, Protection, Seed, SetKey, StudyPath, read_study
from secure_frl.cli.output import CLAIM_FAILS, CONTROL_FAILED, DONE, emit_json, guarded, people
from secure_frl.errors import InvalidParameter

if TYPE_CHECKING:  # SciPy and torch, which a mistyped study needs neither of
    from secure_frl.privacy.audit_report import AuditReport


def audit_command(
    study: StudyPath,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Required: an audit is a rehearsal, never part of a patients' run.")
    ] = False,
    canaries: Annotated[
        int | None, typer.Option(help="How many made-up people, from 4000; more of them see smaller faults.")
    ] = None,
    seed: Seed = None,
    epsilon: Epsilon = None,
    protection: Protection = None,
    set_key: SetKey = None,
    as_json: AsJson = False,
) -> None:
    """Plant made-up people in sums of STUDY with exactly the noise that the claim counts on; see how well they show."""

    def command() -> int:
        if not rehearse:
            raise InvalidParameter(
                "expected --rehearse: an audit plants made-up people and takes noise shares away, so it is never run "
                "among patients. Add --rehearse; no ledger is opened, no data is read, nothing is spent."
            )
        loaded = read_study(study, epsilon, seed, protection, set_key)
        from secure_frl.federation.audit_study import USUAL_CANARIES, audit_study
        from secure_frl.privacy import audit_report

        report = audit_study(loaded, canaries=USUAL_CANARIES if canaries is None else canaries)
        people(as_json=as_json).print(_table(report))
        if as_json:
            emit_json({**report.plain(), "study": loaded.study.name, "seed": loaded.study.seed, "rehearsal": True})
        return {audit_report.BROKEN: CLAIM_FAILS, audit_report.INCONCLUSIVE: CONTROL_FAILED}.get(report.verdict, DONE)

    raise typer.Exit(guarded(command, as_json=as_json))


def _table(report: AuditReport) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for row in _rows(report):
        table.add_row(*row)
    return table


def _rows(report: AuditReport) -> list[tuple[str, str, str]]:
    shares = f"{report.shares_present} honest share{'s' if report.shares_present > 1 else ''} of noise"
    claim = f"delta {report.delta:g}, per {report.unit}, {report.relation}, PLD; one sum, {shares}"
    rows = [("claim", f"epsilon {report.claimed_epsilon:.4f}", claim)]
    if report.epsilon_bound is not None and report.epsilon_bound_threshold is not None:
        rows += [
            ("at least", f"epsilon {report.epsilon_bound:.4f}", "99.9 % sure, mean shift of Gaussian noise: decides"),
            ("", f"epsilon {report.epsilon_bound_threshold:.4f}", "99.9 % sure, one threshold, Gaussian noise"),
        ]
    guesses = f"99.9 % sure for any mechanism, one run, {report.one_run_guesses} guesses"
    rows.append(("" if len(rows) > 1 else "at least", f"epsilon {report.epsilon_bound_one_run:.4f}", guesses))
    if report.epsilon_point_estimate is not None:
        rows.append(("point estimate", f"epsilon {report.epsilon_point_estimate:.4f}", "proves nothing"))
    rows.append(("bound / claim", f"{report.ratio:.3f}", _expectation(report)))
    if report.smallest_bug is not None:
        smallest = f"of the noise variance, with {report.canaries} canaries"
        rows.append(("smallest bug seen", f"{report.smallest_bug:.2f}", smallest))
    rows.append(("verdict", report.verdict, _meaning(report)))
    return rows


def _expectation(report: AuditReport) -> str:
    if report.expected_ratio is None or report.least_ratio is None:
        return "under sampling only the one-run bound holds, and it stays far below a true claim"
    return f"correct code: {report.expected_ratio:.3f} expected, {report.least_ratio:.3f} or more in 99.9 % of audits"


def _meaning(report: AuditReport) -> str:
    from secure_frl.privacy import audit_report

    return {
        audit_report.BROKEN: "more is lost than claimed: look for missing noise or a missing clip",
        audit_report.HOLDS: "what is lost lies between bound and claim",
        audit_report.INCONCLUSIVE: f"below {audit_report.LEAST_RATIO:g} of the claim: the canaries did not arrive",
        audit_report.NOT_JUDGED: "below the claim, and too few canaries, or sampled ones, to say more",
    }[report.verdict]
