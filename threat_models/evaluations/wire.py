"""The wire: over a thousand false frames of a real rehearsal, given to honest parties; none may be accepted.

Four runs at most: the tampered one; the same sites reopened from their books, to whom all of the first session is said
again; and the two with a check taken out, in which the same false frames are accepted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from secure_frl.ckks.epoch_cipher import SiteWorkers
from secure_frl.errors import StudyStopped
from secure_frl.federation import run_folder, simulation
from secure_frl.federation.coordinator import CoordinatorParts
from secure_frl.federation.enrolment import Enrolled, open_all_sites, read_enrolment
from secure_frl.federation.optimisers import initial_state
from secure_frl.federation.policy_keepers import OpenKeeper, Ties
from secure_frl.federation.run_folder import RunFolder, RunOptions
from secure_frl.federation.site import SiteParts, StudySite
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.masking.contexts import model_tag
from secure_frl.masking.coordinator_epoch import CoordinatorEpoch
from secure_frl.masking.coordinator_states import SumMachine
from secure_frl.masking.refusals import SITE_FAILED
from secure_frl.records.group_commit import GroupCommit
from secure_frl.secure_sum import SiteId
from secure_frl.study import Study
from secure_frl.wire.capture import read_capture
from secure_frl.wire.envelope import read_header
from secure_frl.wire.messages import MessageType
from threat_models.adversaries.wire import (
    BY_NETWORK,
    FAMILIES,
    FLIPPED_VECTOR,
    SESSION,
    THREAT,
    FrameBender,
)
from threat_models.defences import MASKING, NOTHING, changed, digest_of
from threat_models.evaluation import Effort, Task
from threat_models.laboratory import scratch_folder
from threat_models.lies import Lies
from threat_models.results import Bar, Cell, Kind
from threat_models.statistics import proportion
from threat_models.tampering import (
    ForgetfulSite,
    Overflowing,
    Tally,
    TamperedSite,
    TamperedSum,
    Tampering,
    UntaggedSum,
    refusal_in,
)
from threat_models.threat import View

UNTAGGED = "no tag of R2"  # the controls: a check is out
FORGETFUL = "no register"
MOST_SITES = 40
FEW_PEOPLE = 16  # a site and round: frames are tried here, not training
ROUNDS, QUICK_ROUNDS = 5, 2
EACH, QUICK_EACH = 3, 1  # false frames beside a true one
SIGNED = (
    "Every frame is signed or has a tag over the bytes received; rounds and stages only grow, in a register that "
    "outlives restarts; thresholds and peers come from the signed charter."
)
NEEDED = "The control: with this check out the same false frames are accepted."


class WireEvaluation:
    """D3 to D5, D7 and D8, as far as frames say it."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        if study.protection.profile != "cross_silo" or study.sites.count > MOST_SITES:
            return f"measured with at most {MOST_SITES} sites that all share keys"
        return ""

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return the two controls and the tampered run."""
        return (
            Task(THREAT.name, (UNTAGGED,), "wire, no tag of R2", 2.0, measure_untagged, True),
            Task(THREAT.name, (MASKING.name, FORGETFUL), "wire, masking", 8.0, measure, True),
        )


def measure(study: Study, effort: Effort) -> Iterator[Cell]:
    """Return what came of false frames, by family, and of the first session's frames said again."""
    tally = Tally()
    with scratch_folder() as folder:
        rounds = effort.trials(ROUNDS, QUICK_ROUNDS)
        small = _small(study, effort, rounds)
        run_tampered(small, Path(folder), effort, tally, TamperedSum, overflow_in=rounds)
        replay_session(Path(folder), StudySite, tally, SESSION)
        forgotten = Tally()
        replay_session(Path(folder), ForgetfulSite, forgotten, SESSION, only=MessageType.E0)
    cells = [_control(FORGETFUL, "first session said again: accepted", forgotten, SESSION, effort)]
    cells += [_cell(tally, (family,), family, effort) for family in FAMILIES]
    cells.append(_cell(tally, FAMILIES, "all", effort))
    digest = digest_of(small)
    yield from (replace(cell, defence_digest=digest) for cell in cells)


def measure_untagged(study: Study, effort: Effort) -> Iterator[Cell]:
    """Return what comes of flipped vectors where no tag is looked at."""
    tally, small = Tally(), _small(study, effort, 1)
    with scratch_folder() as folder:
        run_tampered(small, Path(folder), effort, tally, UntaggedSum)
    cell = _control(UNTAGGED, f"{FLIPPED_VECTOR}: accepted", tally, FLIPPED_VECTOR, effort)
    yield replace(cell, defence_digest=digest_of(small))


def _small(study: Study, effort: Effort, rounds: int) -> Study:
    changes: Mapping[str, Any] = {  # Any: TOML values
        "protection.method": "masking",
        **NOTHING,
        "training.rounds": rounds,
        "training.episodes_per_site": min(FEW_PEOPLE, study.training.episodes_per_site),
        "output.evaluation_episodes": 2,
        "study.seed": effort.study_seed(THREAT.name, str(rounds)),
    }
    small: Study = changed(study, changes)
    return small


def run_tampered(
    study: Study, folder: Path, effort: Effort, tally: Tally, kind: type[TamperedSum], *, overflow_in: int = 0
) -> None:
    """Run a study into `folder`/run behind tampered wires. overflow_in: the round that one site's vector spoils."""
    bender = FrameBender(effort.rng(THREAT.name, "bent", kind.__name__), effort.trials(EACH, QUICK_EACH))
    tampering = Tampering(bender, tally, overflow_in=overflow_in)
    with suppress(StudyStopped):  # rounds that false frames spoil are lost, which is counted elsewhere
        simulation.run(
            study,
            folder / "run",
            RunOptions(rehearse=True, capture=folder / "capture"),
            open_sites=partial(_open_tampered, tampering),
            make_keeper=partial(TamperedKeeper, tampering=tampering, kind=kind, effort=effort),
        )


def replay_session(
    folder: Path, kind: type[StudySite], tally: Tally, family: str, only: MessageType | None = None
) -> None:
    """Open a run's sites again, from their own books, and say to each what it was told in the first session."""
    root, _, options = run_folder.reopen(folder / "run")
    enrolled = read_enrolment(root, rehearse=options.rehearse)
    sites = open_all_sites(root, enrolled, build=partial(_reopened, kind))
    for item in read_capture(folder / "capture"):
        if item.direction == "to_site" and only in (None, read_header(item.frame).type):
            tally.note(family, refusal_in(sites[SiteId(item.site)].handle(item.frame)))
    for site in sites.values():
        site.shut_down()


def _open_tampered(
    tampering: Tampering, folder: RunFolder, enrolled: Enrolled, group: GroupCommit | None
) -> Mapping[SiteId, TamperedSite]:
    build = partial(_overflowing_first, tampering.overflow_in)
    honest = open_all_sites(folder, enrolled, group, build)
    return {site: TamperedSite(site, one, tampering, len(honest)) for site, one in honest.items()}


def _overflowing_first(overflow_in: int, parts: SiteParts, workers: SiteWorkers | None) -> StudySite:
    if parts.me != 0:
        return _Checked(parts)
    site = Overflowing(parts)
    site.overflow_in = overflow_in
    return site


def _reopened(kind: type[StudySite], parts: SiteParts, workers: SiteWorkers | None) -> StudySite:
    class Reopened(kind):  # type: ignore[valid-type,misc]  # mypy knows no class made of a variable
        def _check_before_joining(self) -> None:
            """It was checked when it joined."""

    opened: StudySite = Reopened(parts)
    return opened


class _Checked(StudySite):
    def _check_before_joining(self) -> None:
        """All sites run one program on one study: what holds at the first holds here."""


class TamperedKeeper(OpenKeeper):
    """An honest coordinator whose attempts are behind tampered wires, and whose key tells lies beside."""

    def __init__(
        self,
        enrolled: Enrolled,
        parts: CoordinatorParts,
        tampering: Tampering,
        kind: type[TamperedSum],
        effort: Effort,
    ) -> None:
        rule = optimiser_rule(enrolled.study, parts.terms.constants)
        ties = Ties(parts.terms, parts.names, parts.journal, parts.random, parts.log)
        super().__init__(ties, initial_state(rule), rule, lambda state: {})
        self._tampering, self._kind = tampering, kind
        key, rng = parts.identity.private_key, effort.rng(THREAT.name, "lies")
        if kind is not UntaggedSum:
            tampering.lies = Lies(parts.terms, key, self._state, rng)

    def machine(self, epoch: CoordinatorEpoch, number: int, attempt: int, cohort: tuple[SiteId, ...]) -> SumMachine:
        """Return one attempt at a masked sum."""
        content, ties = self._state.to_bytes(), self._ties
        models = {site: None if site in self._up_to_date else content for site in cohort}
        made = self._kind(ties.terms, epoch, number, attempt, cohort, model_tag(content), models, ties.random)
        return made.behind(self._tampering)


def _control(column: str, metric: str, tally: Tally, family: str, effort: Effort) -> Cell:
    tried, accepted = tally.tried[family], tally.accepted[family]
    low, high = proportion(accepted, tried) if tried else (0.0, 1.0)
    return Cell(
        attack=THREAT.name,
        defence=column,
        kind=Kind.CONTROL,
        metric=metric,
        value=accepted / max(1, tried),
        low=low,
        high=high,
        n=tried,
        view=str(View.NETWORK),
        bars=(Bar(at_least=0.99),),
        sentence=NEEDED,
        seeds=(effort.seed,),
    )


def _cell(tally: Tally, families: tuple[str, ...], name: str, effort: Effort) -> Cell:
    tried = sum(tally.tried[family] for family in families)
    accepted = sum(tally.accepted[family] for family in families)
    low, high = proportion(accepted, max(1, tried))
    # A site that broke over a frame refused nothing: its own error is none of the protocol's names.
    bars: tuple[Bar, ...] = (Bar(at_most=0.0), Bar("tried", at_least=1.0), Bar("site_failures", at_most=0.0))
    if name == "all":
        least = effort.trials(1000, 200)
        bars = (*bars, Bar("high", at_most=proportion(0, least)[1]), Bar("tried", at_least=float(least)))
    answers: Counter[str] = Counter()
    for family in families:
        answers += tally.answers.get(family, Counter())
    return Cell(
        attack=THREAT.name,
        defence=MASKING.name,
        kind=Kind.DEFENDED,
        metric=f"{name}: accepted",
        value=accepted / max(1, tried),
        low=low,
        high=high,
        n=tried,
        view=str(View.NETWORK if set(families) <= set(BY_NETWORK) else View.COORDINATOR),
        bars=bars,
        figures={
            "tried": float(tried),
            "site_failures": float(answers[SITE_FAILED]),
            **{f"answered {name}": float(count) for name, count in sorted(answers.items())},
        },
        sentence=SIGNED,
        seeds=(effort.seed,),
    )
