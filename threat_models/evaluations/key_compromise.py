"""CKKS: who looks decides the cell. Four views of `ckks` and of `ckks+masking`, over runs of the real stack.

One run a protection: its coordinator remembers what it unseals, and in the second half of the rounds it passes a single
site's ciphertexts off as the sum, to sites that follow the protocol and are curious.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from secure_frl.learning.settings import ICU_SEPSIS, setting_of
from secure_frl.study import Study
from threat_models.adversaries.key_compromise import THREAT, KeyCompromise
from threat_models.blind_coordinators import CuriousKeeper, Notes, victim_of
from threat_models.defences import CKKS, CKKS_MASKING, PLAIN, Defence, changed, defended, digest_of
from threat_models.evaluation import Effort, Task
from threat_models.evaluations.column_support import REFERENCE, visits
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.public import Public, public_of, typical_norm
from threat_models.reconstruction import Trial, score
from threat_models.results import Bar, Cell, Kind
from threat_models.threat import CapturedView, Guess, View

CURIOUS = 0  # whose key is looked at; victims are others
MOST_SITES = 30  # of a study: ciphertexts of more take minutes
LEAST_OF_AREA = 8  # vectors, below which the area under few visited states says nothing
SMALL: Mapping[str, Any] = {"policy.hidden": [8]}  # Any: TOML values; a message of few ciphertexts
BESIDE = "coordinator with one site"
FED = "one site that a malicious coordinator feeds"
SITE = "one site, honest coordinator"
SITE_OR_BESIDE = "one site, alone or with the coordinator"
NOTHING_READ = (
    "Without the key the coordinator reads the bytes of every ciphertext as if nobody had encrypted them: that finds "
    "an encryption that is missing, and is no cryptanalysis. A classifier of such bytes: ciphertext_bytes."
)
THE_SUM = "A site decrypts the sum, and so reads what the `masking` cell reads: a sum hides who, not what."
EVERY_UPDATE = (
    "Under ckks every site has the key: with the coordinator it reads every single update, as under unsafe-plain."
)
ONE_UPDATE = "Under ckks a coordinator that passes one update off as the sum has an honest site decrypt and follow it."
STAYS_MASKED = "Under ckks+masking a single vector decrypts to uniform words; only the sum of all opens."


@dataclass(frozen=True, slots=True)
class _Row:
    """One cell: through whose eyes, and which of its guesses count."""

    view: str
    guesses: str  # prefix: upload | total | sum; bytes: whatever it read, for it should read nothing
    is_broken: bool
    sentence: str


ROWS: Mapping[str, tuple[_Row, ...]] = {
    CKKS.name: (
        _Row("coordinator", "bytes", False, NOTHING_READ),
        _Row(SITE, "sum", True, THE_SUM),
        _Row(BESIDE, "upload", True, EVERY_UPDATE),
        _Row(FED, "total", True, ONE_UPDATE),
    ),
    CKKS_MASKING.name: (
        _Row("coordinator", "bytes", False, NOTHING_READ),
        _Row(SITE_OR_BESIDE, "sum", True, THE_SUM),
        _Row(f"{BESIDE}, single updates", "upload", False, STAYS_MASKED),
        _Row(FED, "total", False, STAYS_MASKED),
    ),
}


@dataclass(frozen=True, slots=True)
class _Known:
    """What is public of the attacked study, computed once."""

    public: Public
    prior: np.ndarray  # [live states], how often people visit them

    @classmethod
    def of(cls, attacked: Study, effort: Effort) -> _Known:
        public, live = public_of(attacked), setting_of(attacked).live_states
        return cls(public, visits(public, effort.trials(2000, 300), live, effort.seed + 1).mean(axis=0))


class KeyCompromiseEvaluation:
    """D1, and the four views of CKKS."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        if study.data.environment != ICU_SEPSIS:
            return "states have no numbers here"
        if study.sites.count > MOST_SITES:
            return f"measured with at most {MOST_SITES} sites"
        return ""

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return the control and one task a protection."""
        control = Task(THREAT.name, (PLAIN.name,), "key_compromise, unsafe-plain", 2.0, _measure_plain, True)
        blind = (
            Task(THREAT.name, (one.name,), f"key_compromise, {one.name}", 20.0, partial(_measure, one))
            for one in (CKKS, CKKS_MASKING)
        )
        return control, *blind


def _attacked(study: Study, defence: Defence, effort: Effort, rounds: int) -> Study:
    seed = effort.study_seed(THREAT.name, defence.name)
    reference = changed(study, REFERENCE, SMALL, {"training.rounds": rounds, "study.seed": seed})
    attacked: Study = defended(reference, defence, clip_norm=typical_norm(reference))
    return attacked


def _measure_plain(study: Study, effort: Effort) -> Iterator[Cell]:
    rounds = effort.trials(2, 1)
    attacked = _attacked(study, PLAIN, effort, rounds)
    recording, known = rehearse(attacked), _Known.of(attacked, effort)
    guess = _guess(view_of(recording, View.COORDINATOR), known.public, effort)
    row = _Row("coordinator", "upload", True, "")
    yield _cell(PLAIN, row, guess, recording, known, effort, range(1, rounds + 1))


def _measure(defence: Defence, study: Study, effort: Effort) -> Iterator[Cell]:
    honest = effort.trials(2, 1)  # rounds, and as many in which the coordinator turns coat
    attacked = _attacked(study, defence, effort, 2 * honest)
    known, notes = _Known.of(attacked, effort), Notes()
    recording = rehearse(attacked, make_keeper=partial(CuriousKeeper, notes=notes, turns_in=honest + 1), may_stop=True)
    guesses: dict[str, Guess] = {}
    for row in ROWS[defence.name]:
        of = "site" if row.guesses in ("sum", "total") else row.guesses  # views that differ in nothing are run once
        if of not in guesses:
            guesses[of] = _guess(_VIEWS[row.guesses](recording, notes), known.public, effort)
        counting = range(honest + 1, 2 * honest + 1) if row.guesses == "total" else range(1, honest + 1)
        yield _cell(defence, row, guesses[of], recording, known, effort, counting)


def _alone(recording: Recording, notes: Notes) -> CapturedView:
    return replace(view_of(recording, View.COORDINATOR), secrets=dict(notes))


def _site(recording: Recording, notes: Notes) -> CapturedView:
    return view_of(recording, View.SITE, (CURIOUS,))


def _together(recording: Recording, notes: Notes) -> CapturedView:
    view = view_of(recording, View.COALITION, (CURIOUS,))
    return replace(view, secrets={**view.secrets, **notes})


_VIEWS: Mapping[str, Callable[[Recording, Notes], CapturedView]] = {
    "bytes": _alone,
    "sum": _site,
    "total": _site,
    "upload": _together,
}


def _guess(view: CapturedView, public: Public, effort: Effort) -> Guess:
    adversary = KeyCompromise()
    adversary.prepare(public, effort.rng(THREAT.name))
    return adversary.run(view)


def _places(row: _Row, guess: Guess, recording: Recording) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Yield (name of the guess, round, whose people it is about) of what counts in a row."""
    for name in sorted(guess):
        kind, *place = name.split("/")
        if kind != row.guesses and (row.guesses != "bytes" or kind == "vector"):  # whoever should have none: any counts
            continue
        number = int(place[0])
        if kind == "bytes" or (kind == "upload" and int(place[1]) != CURIOUS):
            yield name, number, (int(place[1]),)
        elif kind == "total":
            yield name, number, (victim_of(number, recording.study.sites.count),)
        elif kind == "sum":
            yield name, number, recording.memory.sums[number].contributors


def _cell(
    defence: Defence, row: _Row, guess: Guess, recording: Recording, known: _Known, effort: Effort, rounds: range
) -> Cell:
    live = setting_of(recording.study).live_states
    trials, alike = [], []
    for count, (name, number, sites) in enumerate(_places(row, guess, recording)):
        if number not in rounds:
            continue
        scores = np.asarray(guess[name][:live], dtype=np.float64)
        others = np.asarray(visits(known.public, len(sites), live, 1_000_000 + count).any(axis=0))
        trials.append(Trial(scores, recording.truth.states_of(number, sites, live), others, known.prior))
        if f"vector/{name}" in guess and len(sites) == 1:
            truth = recording.truth.updates[number, sites[0]]
            alike.append(abs(float(np.corrcoef(guess[f"vector/{name}"], truth)[0, 1])))
    found = score(trials, effort.rng(THREAT.name, "ties"))
    value, low, high = found.found
    figures = {"auc": found.area[0], "auc_low": found.area[1], "auc_high": found.area[2], "excess": found.excess[0]}
    bars: tuple[Bar, ...] = (Bar("high" if effort.quick else "value", at_least=0.99),)
    if alike:
        figures |= {"least_correlation": min(alike), "correlation": max(alike), "vectors": float(len(alike))}
        # An opened update is the site's to the last word; a state whose row rounds to zero is not in it, nor in clear.
        is_whole = (Bar("least_correlation", at_least=0.999),)
        bars = (*bars, *is_whole) if found.trials >= LEAST_OF_AREA else is_whole
    if not row.is_broken:
        slack, bars = found.area[2] - found.area[0], ()
        if row.guesses == "bytes":  # real ciphertexts, drawn anew in every run: by chance alone one in a hundred missed
            slack *= 2
        if found.trials >= LEAST_OF_AREA:
            bars += (Bar("auc", at_least=0.45 - slack, at_most=0.55 + slack),)
        if alike:  # five deviations of independent vectors of this length
            bars += (Bar("correlation", at_most=5 / float(np.sqrt(known.public.length))),)
    kind = Kind.BY_DESIGN if row.is_broken else Kind.DEFENDED
    return Cell(
        attack=THREAT.name,
        defence=defence.name,
        kind=Kind.CONTROL if defence == PLAIN else kind,
        metric="share of visited states found",
        value=value,
        low=low,
        high=high,
        n=found.trials,
        view=row.view,
        bars=bars,
        nulls=found.nulls,
        figures=figures,
        sentence=row.sentence,
        seeds=(effort.seed,),
        defence_digest=digest_of(recording.study),
    )
