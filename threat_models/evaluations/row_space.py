"""The row-space family through the wire: one person a site, a dense network over features, each protection in turn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import t

from secure_frl.learning.settings import ICU_SEPSIS
from secure_frl.study import Study
from secure_frl.study_file import parse_study
from threat_models.adversaries.row_space import OF_MANY, OF_ONE, THREAT, RowSpace
from threat_models.defences import (
    CLIP,
    LOCAL_1,
    LOCAL_8,
    MASKING,
    MASKING_1,
    MASKING_8,
    PLAIN,
    Defence,
    changed,
    defended,
    digest_of,
)
from threat_models.evaluation import Effort, Task
from threat_models.evaluations.column_support import REFERENCE as NUMBERED
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.public import public_of, typical_norm
from threat_models.reconstruction import Reconstructed, Trial, score
from threat_models.results import Bar, Cell, Kind
from threat_models.statistics import holm_levels
from threat_models.threat import View

REFERENCE: Mapping[str, Any] = {  # Any: TOML values
    **NUMBERED,
    "data.observation": "features",
    "policy.hidden": [64, 64],
    "policy.critic_start": 0.75,  # a baseline between death and survival: both leave a gradient
}
LONGEST = 16  # steps of a person whose own message is judged; in a sum everybody counts
EXCESS_AT_8 = 0.06  # over the swapped cohort, of the best of the family, masked sum at epsilon 8
BROKEN_SUM = 0.7  # of states in a masked sum of ten
_POOL = 3000  # simulated people behind the prior and the swapped cohorts
_DRAWN_LEAST = 6  # steps of the person whose trajectory is drawn
WHY_BROKEN = (
    "A sum hides who, not what: every step adds a multiple of a direction that the public features give, and a sum has "
    "far more values than there are states. Solved for all states at once it says which were visited. Only noise "
    "stops it; a dense encoding doesn't."
)
WHAT_IS_SMALL = (
    "What the attack finds at epsilon 8 is less than anybody guesses from how often states are visited (null 'prior')."
)
States = NDArray[np.bool_]


class RowSpaceEvaluation:
    """A3."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        return "" if study.data.environment == ICU_SEPSIS else "no public table of features here"

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return one task a defence."""
        columns = (PLAIN, CLIP, LOCAL_8, MASKING, MASKING_8, *(() if effort.quick else (LOCAL_1, MASKING_1)))
        return tuple(
            Task(THREAT.name, (one.name,), f"row_space, {one.name}", 25.0, partial(_measure, one), one == PLAIN)
            for one in columns
        )


def _measure(defence: Defence, study: Study, effort: Effort) -> Iterator[Cell]:
    is_plain = defence.changes["protection.method"] == "unsafe-plain"
    trials = effort.trials(60, 10)
    rounds = -(-trials // study.sites.count) if is_plain else trials
    reference, facts = changed(study, REFERENCE), facts_of(study)
    run = {"training.rounds": rounds, "study.seed": effort.study_seed(THREAT.name, defence.name)}
    attacked = defended(changed(reference, run), defence, clip_norm=facts.clip_norm)
    recording = rehearse(attacked)
    adversary = RowSpace()
    adversary.prepare(public_of(attacked), effort.rng(THREAT.name))
    guess = adversary.run(view_of(recording, View.COORDINATOR))
    held = list(_held(guess, recording, facts, effort.rng(THREAT.name, "swapped")))
    rng = effort.rng(THREAT.name, "ties")
    found = {
        method: score(
            [Trial(guess[f"{method}/{one.name}"], one.visited, one.swapped, facts.prior) for one in held], rng
        )
        for method in (OF_ONE if is_plain else OF_MANY)
    }
    best = max(found, key=lambda method: found[method].excess[0])
    drawn = _trajectory(guess, best, held, recording, facts) if defence in (PLAIN, MASKING_8) else {}
    yield replace(_cell(defence, found, drawn, effort), defence_digest=digest_of(attacked))


# --- what everybody knows: the same in every column, so computed once a process ---------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """Of simulated people under the reference study's first policy."""

    clip_norm: float
    number_of: Mapping[bytes, int]  # a state by its features
    features: NDArray[np.float32]  # [states, D]
    visits: States  # [people, states]
    lengths: NDArray[np.int64]  # [people]

    @property
    def prior(self) -> NDArray[np.float64]:
        """Return how often each state is visited."""
        return np.asarray(self.visits.mean(axis=0))

    def states_of(self, steps: NDArray[np.float32]) -> States:
        """Return which states some steps [steps, D] met, bool [states]."""
        visited = np.zeros(len(self.features), dtype=np.bool_)
        visited[[self.number_of[one.tobytes()] for one in steps]] = True
        return visited


def facts_of(study: Study) -> Facts:
    """Return what is public of a study's reference."""
    return _facts(json.dumps(changed(study, REFERENCE, {"training.rounds": 1}).plain(), sort_keys=True))


@cache
def _facts(text: str) -> Facts:
    reference = parse_study(json.loads(text), source="a study under attack")
    public = public_of(reference)
    features = public.codebook()
    number_of = {row.tobytes(): number for number, row in enumerate(features)}
    people = public.people(public.first_policy, _POOL, reference.study.seed + 1)
    visits = np.zeros((_POOL, len(features)), dtype=np.bool_)
    for person, (steps, exist) in enumerate(zip(people.observations, people.steps, strict=True)):
        visits[person, [number_of[one.tobytes()] for one in steps[exist]]] = True
    return Facts(typical_norm(reference), number_of, features, visits, people.lengths)


# --- trials -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """What the guesses of one name are held against."""

    name: str
    round: int
    sites: tuple[int, ...]
    visited: States
    swapped: States


def _held(
    guess: Mapping[str, Any], recording: Recording, facts: Facts, rng: np.random.Generator
) -> Iterator[Held]:  # Any: scores
    names = sorted(name.split("/", 1)[1] for name in guess if name.startswith(f"{OF_MANY[0]}/"))
    is_alone = names[0].startswith("upload/")
    pool = rng.permutation(np.flatnonzero(facts.lengths <= LONGEST) if is_alone else _POOL)
    for name in names:
        _, number, *site = name.split("/")
        round_number = int(number)
        sites = tuple(map(int, site)) or recording.memory.sums[round_number].contributors
        steps = recording.truth.steps_of(round_number, sites)
        if is_alone and len(steps) > LONGEST:
            continue
        others, pool = pool[: len(sites)], pool[len(sites) :]
        swapped = np.asarray(facts.visits[others].any(axis=0))
        yield Held(name, round_number, sites, facts.states_of(steps), swapped)


def _trajectory(
    guess: Mapping[str, Any], method: str, held: Sequence[Held], recording: Recording, facts: Facts
) -> dict[str, list[float]]:  # Any: scores
    """Return one person's true steps and the guessed states that match them best, one to one, in step order.

    Features of all steps in a row, and how many a step has; the first person with so many steps that it is a picture.
    """
    lengths = [len(recording.truth.steps_of(one.round, one.sites[:1])) for one in held]
    at = next((number for number, length in enumerate(lengths) if length >= _DRAWN_LEAST), int(np.argmax(lengths)))
    one = held[at]
    true = recording.truth.steps_of(one.round, one.sites[:1])
    count = max(int(one.visited.sum()), len(true))
    best = np.argsort(-guess[f"{method}/{one.name}"], kind="stable")[:count]
    guessed = matched(true, facts.features[best])
    return {
        "trajectory_features": [float(true.shape[1])],
        "trajectory_true": [round(float(value), 3) for value in true.ravel()],
        "trajectory_guessed": [round(float(value), 3) for value in guessed.ravel()],
    }


def matched(true: NDArray[np.float32], guessed: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return for each true row the guessed one that goes with it: one to one, at the least sum of squared distances.

    true: [steps, D]. guessed: at least as many rows. Source: Kuhn 1955 (the Hungarian method).
    """
    distances = ((true[:, None, :] - guessed[None, :, :]) ** 2).sum(axis=2)
    rows, columns = linear_sum_assignment(distances)
    return np.asarray(guessed[columns[np.argsort(rows)]])


def _cell(defence: Defence, found: Mapping[str, Reconstructed], drawn: dict[str, list[float]], effort: Effort) -> Cell:
    best = max(found, key=lambda method: found[method].excess[0])
    one = found[best]
    low = max(lower_limit(each.excess, each.trials, 1 - 0.05 / (2 * len(found))) for each in found.values())
    surely = max(lower_limit(each.excess, each.trials, holm_levels(len(found))[0]) for each in found.values())
    kind, bars, sentence = Kind.CONTROL, (Bar("high" if effort.quick else "value", at_least=0.95),), ""
    if defence in (CLIP, MASKING):
        kind, sentence = Kind.BY_DESIGN, WHY_BROKEN
        bars = (Bar("high" if effort.quick else "value", at_least=0.95 if defence == CLIP else BROKEN_SUM),)
    elif defence == MASKING_8:
        kind, bars = Kind.DEFENDED, (Bar("excess_low" if effort.quick else "excess", at_most=EXCESS_AT_8),)
        sentence = WHAT_IS_SMALL if one.found[0] < one.prior else ""
    elif defence.epsilon is not None:
        kind, bars = Kind.DEFENDED, (Bar("excess_surely", at_most=0.0),)
    methods = {
        f"{method}_{what}": value
        for method, each in found.items()
        for what, value in (("found", each.found[0]), ("excess", each.excess[0]), ("auc", each.area[0]))
    }
    return Cell(
        attack=THREAT.name,
        defence=defence.name,
        kind=kind,
        metric="share of visited states found",
        value=one.found[0],
        low=one.found[1],
        high=one.found[2],
        n=one.trials,
        view=str(View.COORDINATOR),
        bars=bars,
        nulls=one.nulls,
        figures={
            "excess": one.excess[0],
            "excess_low": low,  # 95 %, Bonferroni over the family: of its highest lower limit
            "excess_surely": surely,  # 99.9 %, Holm over the family: above 0 is a leak
            "auc": one.area[0],
            "methods": float(len(found)),  # of which the best is reported
            **methods,
        },
        curves=drawn,
        sentence=sentence,
        seeds=(effort.seed,),
    )


def lower_limit(interval: tuple[float, float, float], trials: int, level: float) -> float:
    """Return the one-sided lower limit of a mean. interval: its mean and two-sided 95 % t-interval over `trials`."""
    mean, low, _ = interval
    return mean if trials < 2 else mean - (mean - low) * float(t.ppf(level, trials - 1) / t.ppf(0.975, trials - 1))
