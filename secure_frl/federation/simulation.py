"""A whole study in one process: hospitals with their own folders, keys, ledgers and generators, one coordinator.

`run` begins a folder and carries the study to its end; `resume` goes on with one that was interrupted at any moment.
Both walk the same path: nothing here knows which of the two it serves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from secure_frl.ckks.worker import Worker, limits_for
from secure_frl.errors import InvalidParameter
from secure_frl.evidence.manifest import write_manifest
from secure_frl.federation import finish, run_folder
from secure_frl.federation.budgets import lifetime_budget, study_guard
from secure_frl.federation.carriers.in_process import DropSchedule, InProcessCarrier
from secure_frl.federation.coordinator import Coordinator, CoordinatorParts, RoundOutcome
from secure_frl.federation.enrolment import Enrolled, coordinator_identity, enrol, open_all_sites
from secure_frl.federation.evaluation import Evaluate, evaluate_state
from secure_frl.federation.logs import close_log, open_log
from secure_frl.federation.optimisers import initial_state
from secure_frl.federation.policy_keepers import BlindKeeper, OpenKeeper, PolicyKeeper, Ties
from secure_frl.federation.released import released_by
from secure_frl.federation.results import RoundReport, RunResult
from secure_frl.federation.run_folder import RunFolder, RunOptions
from secure_frl.federation.study_parts import code_version, optimiser_rule
from secure_frl.masking.contexts import ENCRYPTED, chunk_plan
from secure_frl.records.group_commit import FILE, GroupCommit
from secure_frl.records.journal import Journal
from secure_frl.records.ledger import Ledger
from secure_frl.secure_sum import Site, SiteId
from secure_frl.study import Study
from secure_frl.wire.capture import CaptureWriter

COORDINATOR = "coordinator"  # the holder of its ledger
_SHARE_BOOKS_FROM = 64  # sites; fewer keep files of their own, as real ones do


class Watcher(Protocol):
    """Whoever wants to hear of rounds as they end."""

    def round_ended(self, report: RoundReport) -> None:
        """Take one report."""
        ...


class RunningSite(Site, Protocol):
    """A site that this run began and must end."""

    def shut_down(self, *, export: bool = False) -> None:
        """Close the books, exporting the ledger first when the study is done; a second call does nothing."""
        ...


Watch = Callable[[int], Watcher]  # called once with the number of rounds
OpenSites = Callable[[RunFolder, Enrolled, GroupCommit | None], Mapping[SiteId, RunningSite]]
MakeKeeper = Callable[[Enrolled, CoordinatorParts], PolicyKeeper]


def keeper_of(enrolled: Enrolled, parts: CoordinatorParts, evaluate: Evaluate | None = None) -> PolicyKeeper:
    """Return what an honest coordinator keeps of the policy, by protection.

    evaluate: what is shown of a policy that it may read; None for its worth on the public simulator.
    """
    study, terms = enrolled.study, parts.terms
    ties = Ties(terms, parts.names, parts.journal, parts.random, parts.log)
    if terms.constants.protection in ENCRYPTED:
        return BlindKeeper(ties, Worker(limits_for(chunk_plan(terms.constants))))
    rule = optimiser_rule(study, terms.constants)
    return OpenKeeper(ties, initial_state(rule), rule, evaluate or evaluate_state(study))


def run(
    study: Study,
    out: Path,
    options: RunOptions | None = None,
    *,
    source: Path | None = None,
    watch: Watch | None = None,
    open_sites: OpenSites = open_all_sites,
    make_keeper: MakeKeeper = keeper_of,
) -> RunResult:
    """Run a study into a new folder and return its summary.

    source: the study file as people wrote it, copied beside the effective study.
    open_sites: how the sites are reached; in this process unless another way is given.
    make_keeper: what the coordinator makes of sums; a rehearsal of an attack puts a malicious one in its place.
    Raises InvalidParameter when the folder exists; BudgetExhausted before anything is sampled; StudyStopped when the
    study can't go on now; CharterRefused, BitBudget for constants that no site may sign.
    """
    started = time.monotonic()
    folder = run_folder.begin(out, study, options or RunOptions(), source)
    return _carry_on(folder, study, options or RunOptions(), watch, open_sites, started, make_keeper=make_keeper)


def resume(
    directory: Path, *, end: bool = False, watch: Watch | None = None, open_sites: OpenSites = open_all_sites
) -> RunResult:
    """Go on with the run in `directory` at its next round; what the interrupted round spent stays spent.

    end: run no more rounds: close the books and leave what was learned so far, for instance when other studies have
    spent the rest of the data set's budget.
    Raises InvalidParameter when the run is finished, and what `run` raises.
    """
    started = time.monotonic()
    folder, study, options = run_folder.reopen(directory)
    if folder.manifest.exists():
        raise InvalidParameter(f"expected an unfinished run, but {directory} is finished. Use `secure-frl verify`.")
    return _carry_on(folder, study, options, watch, open_sites, started, end=end)


def _carry_on(
    folder: RunFolder,
    study: Study,
    options: RunOptions,
    watch: Watch | None,
    open_sites: OpenSites,
    started: float,
    *,
    end: bool = False,
    make_keeper: MakeKeeper = keeper_of,
) -> RunResult:
    enrolled = enrol(folder, study, rehearse=options.rehearse)
    with ExitStack() as stack:
        # First of all: it is held by one program, and opening a site settles what it takes for interrupted.
        journal = Journal.open(folder.journal, charter_hash=enrolled.terms.session, code_version=code_version())
        stack.callback(journal.close_cleanly)
        group = _shared_books(folder, enrolled)
        if group is not None:
            stack.callback(group.close_cleanly)
        sites = open_sites(folder, enrolled, group)
        for site in sites.values():
            stack.callback(site.shut_down)
        coordinator, ledger = _coordinator(folder, enrolled, options, sites, group, journal, stack, make_keeper)
        released = released_by(folder, enrolled, journal)
        watcher = watch(enrolled.study.training.rounds) if watch is not None else None
        keeps_all = enrolled.study.output.keep_policies == "all"
        coordinator.settle()
        released.catch_up(journal.rounds(), keeps_all=keeps_all)
        for outcome in () if end else coordinator.rounds():
            released.round_ended(outcome, keeps_all=keeps_all)
            if watcher is not None:
                watcher.round_ended(_report(enrolled, outcome, released.shown(outcome), ledger))
        folder.ledgers.mkdir(exist_ok=True)
        for site in sites.values():
            site.shut_down(export=True)
        ledger.export(folder.ledgers / f"{COORDINATOR}.jsonl", folder.ledgers / f"{COORDINATOR}.head")
        result = finish.write_results(folder, enrolled, released, journal, started)
    write_manifest(  # after every database is closed
        folder.root,
        coordinator_identity(folder),
        charter_hash=enrolled.terms.session,
        code_version=code_version(),
        rehearsal=options.rehearse,
    )
    return result


def _shared_books(folder: RunFolder, enrolled: Enrolled) -> GroupCommit | None:
    """Return the file that the sites' books share: where there is one, or where there are many sites.

    A state that studies share keeps the books it began with: a site with files of its own goes on with them.
    """
    is_shared = (folder.sites / FILE).exists() or len(enrolled.roster.names) >= _SHARE_BOOKS_FROM
    return GroupCommit.open(folder.sites) if is_shared else None


def _coordinator(
    folder: RunFolder,
    enrolled: Enrolled,
    options: RunOptions,
    sites: Mapping[SiteId, Site],
    group: GroupCommit | None,
    journal: Journal,
    stack: ExitStack,
    make_keeper: MakeKeeper,
) -> tuple[Coordinator, Ledger]:
    study, terms = enrolled.study, enrolled.terms
    identity = coordinator_identity(folder)
    ledger = Ledger.open(
        folder.coordinator / "ledger.sqlite",
        holder=COORDINATOR,
        dataset_id=enrolled.dataset_id,
        budget=lifetime_budget(study),
        guard=study_guard(study, terms.session),
        signer=identity,
        code_version=code_version(),
    )
    stack.callback(ledger.close_cleanly)
    ledger.settle_unfinished(terms.session)
    drop = study.sites.simulate_drop
    schedule = DropSchedule(study.study.seed, study.sites.count, drop.before_masked, drop.after_masked)
    capture = None
    if options.capture is not None:  # a resumed run writes a second file beside the first
        capture = CaptureWriter(run_folder.next_free_path(options.capture.parent, options.capture.name))
    carrier = InProcessCarrier(sites, schedule, capture, sync=group.sync if group is not None else None)
    stack.callback(carrier.close)
    parts = CoordinatorParts(
        study=study,
        terms=terms,
        names=enrolled.roster.names,
        dataset_id=enrolled.dataset_id,
        identity=identity,
        journal=journal,
        ledger=ledger,
        carrier=carrier,
        random=enrolled.random_source(COORDINATOR),
        clock=time.time,
        log=open_log(folder.coordinator / "coordinator.log"),
    )
    stack.callback(close_log, parts.log)
    keeper = make_keeper(enrolled, parts)
    stack.callback(keeper.close)
    return Coordinator(parts, keeper), ledger


def _report(enrolled: Enrolled, outcome: RoundOutcome, shown: Mapping[str, float], ledger: Ledger) -> RoundReport:
    study = enrolled.study
    spent = finish.epsilon_of(ledger, enrolled)
    return RoundReport(
        round=outcome.round,
        attempt=outcome.attempt,
        epoch=outcome.epoch,
        outcome="summed" if outcome.is_summed else "lost",
        reason=outcome.reason,
        survivors=len(outcome.survivors),
        cohort=len(outcome.cohort),
        mean_return=shown.get("return", float("nan")),
        gap_recovered=shown.get("gap_recovered"),
        epsilon_spent=spent,
        epsilon_left=max(0.0, study.privacy.target_epsilon - spent),
        protection=study.protection.method,
        noise=study.privacy.noise,
    )
