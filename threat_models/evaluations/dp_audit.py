"""The audit as a row of the matrix: epsilon as claimed against what canaries prove, at exactly h shares of noise.

It wraps `secure-frl audit`'s own audit, which plants canaries at honest sites and takes away every share that the
claim does not count on. The controls are sites with a fault each: an audit that misses one proves nothing.
Source: Steinke, Nasr and Jagielski 2023; Nasr et al. 2023; the mean-shift bound is `secure_frl.privacy.audit`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from secure_frl.federation.audit_study import LEAST_CANARIES, USUAL_CANARIES, audit_study
from secure_frl.privacy.audit_report import LEAST_RATIO, AuditReport
from secure_frl.privacy.unit import SITE
from secure_frl.study import Study
from threat_models.audit_faults import HALVED, audit_faults
from threat_models.defences import changed, digest_of
from threat_models.evaluation import Effort, Task
from threat_models.results import Bar, Cell, Kind
from threat_models.threat import Threat, View

THREAT = Threat(
    id="SFRL-B6",
    name="dp_audit",
    title="whether the noise in a sum is what epsilon claims",
    views=frozenset({View.COALITION}),
    given="canaries of its own making at every honest site, and all that c colluders know",
    stronger="an auditor who adapts canaries over many releases",
    sources=("Jagielski et al. 2020", "Nasr et al. 2023", "Steinke, Nasr and Jagielski 2023, section 5"),
    stride="",  # a control, no attack
    linddun="Non-compliance",
    atlas="",
    nist="NIST AI 100-2e2025, section 2.4 (mitigations)",
)
JUDGED = (4.0, 8.0)  # where correct code passes .75 of the claim; below that the bound is printed
EPSILONS = (1.0, 2.0, *JUDGED)
_DRAWN = 4.0  # times the claim: a bound beyond that would leave nothing else to see in a figure
MEANING = (
    "A lower bound at 99.9 % on the epsilon of one noised sum, from canaries at exactly as many honest noise shares as "
    "the claim counts on. Below epsilon 4 so few canaries prove little: there it only may not pass the claim."
)


class AuditEvaluation:
    """B6."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        if study.privacy.unit == SITE or study.protection.profile != "cross_silo":
            return "a sum carries one canary a site, or has many sites: too slow here, run secure-frl audit"
        return ""

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return a control for each fault, of the quickest suite for one, and one task an epsilon."""
        epsilons = JUDGED if effort.quick else EPSILONS
        faults = [(HALVED, JUDGED[0])] if effort.quick else [(one, at) for one in audit_faults(study) for at in JUDGED]
        return tuple(_task(fault, at) for fault, at in faults) + tuple(_task("", at) for at in epsilons)


def _task(fault: str, epsilon: float) -> Task:
    title = f"{THREAT.name}, {f'{fault}, ' if fault else ''}epsilon {epsilon:g}"
    defence = fault or _column(epsilon)
    return Task(THREAT.name, (defence,), title, 3.0, partial(_measure, epsilon, fault), is_control=bool(fault))


def _column(epsilon: float) -> str:
    return f"masking+dp-{epsilon:g}"


def _measure(epsilon: float, fault: str, study: Study, effort: Effort) -> Iterator[Cell]:
    canaries = LEAST_CANARIES if effort.quick and epsilon not in JUDGED else USUAL_CANARIES
    seed = effort.study_seed(THREAT.name, f"{epsilon:g}", fault)
    audited = changed(
        study,
        {
            "protection.method": "masking",
            "privacy.noise": "distributed",
            "privacy.target_epsilon": epsilon,
            "data.lifetime_epsilon": 0.0,
            "study.seed": seed,
        },
    )
    parts = audit_faults(audited)[fault] if fault else None
    cell = _cell(audit_study(audited, canaries=canaries, parts=parts), epsilon, fault, seed)
    yield replace(cell, defence_digest=digest_of(audited))


def _cell(report: AuditReport, target: float, fault: str, seed: int) -> Cell:
    bound, claim = report.deciding_bound, report.claimed_epsilon
    if fault:
        kind, bars = Kind.CONTROL, (Bar("ratio", at_least=1.0 + 1e-9),)
    elif target in JUDGED and report.is_judged:
        kind, bars = Kind.DEFENDED, (Bar("ratio", at_least=LEAST_RATIO, at_most=1.0),)
    else:
        kind, bars = Kind.DEFENDED, (Bar("ratio", at_most=1.0),)
    figures = {"claimed": claim, "ratio": report.ratio, "one_run_bound": report.epsilon_bound_one_run}
    for name, value in (("point_estimate", report.epsilon_point_estimate), ("least_ratio", report.least_ratio)):
        if value is not None:
            figures[name] = value
    figures["shares"] = float(report.shares_present)
    return Cell(
        attack=THREAT.name,
        defence=fault or _column(target),
        kind=kind,
        metric="epsilon proved",
        value=bound,
        low=bound,  # it is the lower end, at 99.9 %, itself
        high=bound if fault else claim,
        n=report.canaries,
        view=str(View.COALITION),
        game="replace one" if report.relation == "replace_one" else "include/omit",
        bars=bars,
        ceiling=claim,
        figures=figures,
        curves={"claimed": [claim], "proved": [bound]} if bound <= _DRAWN * claim else {},
        sentence=MEANING,
        seeds=(seed,),
    )
