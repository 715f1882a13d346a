"""A planted policy through the wire: what a sum shows where sites take any policy, and that honest sites refuse it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from secure_frl.errors import ModelDoesNotFollow
from secure_frl.federation.simulated_patients import PatientSource
from secure_frl.learning.acting import Acting
from secure_frl.learning.settings import ICU_SEPSIS
from secure_frl.learning.trajectories import Trajectories
from secure_frl.secure_sum import RoundContext
from secure_frl.study import Study
from threat_models.adversaries.imprint import MISSED as MISSED_THREAT
from threat_models.adversaries.imprint import THREAT, Imprint
from threat_models.defences import LOCAL_8, MASKING, MASKING_8, PLAIN, Defence, changed, defended, digest_of
from threat_models.evaluation import Effort, Task
from threat_models.keepers import keeper
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.malicious_coordinator import MISSED, SUCCESSOR, PlantingEverywhereKeeper, TrustingSite
from threat_models.public import Public, public_of
from threat_models.results import Bar, Cell, Kind
from threat_models.statistics import proportion
from threat_models.threat import Guess, Threat, Vector, View

SPREAD = 0.3  # deviation of a person's features around the state's, each of deviation 1: no codebook holds them
CLIP_NORM = 4.0  # of about the first gradients; under an imprint every gradient is far longer and cut, so all sizes do
NEAR = 0.01  # mean squared error of a step's features below which it counts as recovered
WIDEST = 256  # units of the widest layer there is: a bin a unit
REFERENCE: Mapping[str, Any] = {  # Any: TOML values
    "data.observation": "features",
    "policy.kind": "mlp",
    "policy.hidden": [WIDEST],
    "policy.critic": "network",
    "training.objective": "reinforce",
    "training.gae_lambda": 1.0,
    "training.aggregation": "fedsgd",
    "training.episodes_per_site": 1,
    "training.global.step_size": 1e-9,  # every round meets the planted policy, so that rounds are trials
    "training.global.momentum": 0.0,
    "training.global.schedule": "constant",
    "output.evaluation_episodes": 2,
}
CONTROLS = {PLAIN.name: 0.85, MASKING.name: 0.6}
MOST_UNDER_NOISE = 0.02
TRUSTING = "malicious coordinator, sites that take any policy"
CHECKING = "malicious coordinator"
WHY_MISSED = (
    "Open: a site that missed steps takes the coordinator's copy of the policy, and cannot tell that there were none. "
    "Its log says that the policy was taken unchecked; only noise stops what follows."
)


class ImprintEvaluation:
    """A5."""

    threats = (THREAT, MISSED_THREAT)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        return why_no_features(study)

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return one task a column with sites that take any policy, and one with sites as they are."""
        found = [
            Task(THREAT.name, (one.name,), f"imprint, {one.name}", 8.0, partial(_trusting, one), one.name in CONTROLS)
            for one in (PLAIN, MASKING, LOCAL_8, MASKING_8)
        ]
        also = (MISSED_THREAT.name,)
        found.append(Task(THREAT.name, (MASKING.name,), "imprint, sites that check", 4.0, _checking, also=also))
        return tuple(found)


def why_no_features(study: Study) -> str:
    """Return why people of a study have no features of their own, empty when they do."""
    return "" if study.data.environment == ICU_SEPSIS else "its people have no features around a state's"


class OwnFeatures:
    """A source of people whose features lie around the state's, each step's by a draw of its own."""

    def __init__(self, source: PatientSource, site: int, seed: int) -> None:
        """seed: of the rehearsal."""
        self._source, self._site, self._seed = source, site, seed

    def probe(self) -> Trajectories:
        """Return what the source does."""
        return self._source.probe()

    def records(self) -> Trajectories | None:
        """Return what the source does."""
        return self._source.records()

    def collect(self, acting: Acting, context: RoundContext) -> Trajectories:
        """Return what the source does, with features of their own."""
        rng = np.random.default_rng((self._seed, self._site, context.round, context.attempt))
        return own_features(self._source.collect(acting, context), rng)


def own_features(people: Trajectories, rng: np.random.Generator) -> Trajectories:
    """Return people with features of their own."""
    moved = SPREAD * rng.standard_normal(people.observations.shape)
    return replace(people, observations=(people.observations + moved).astype(np.float32))


def attacked(study: Study, defence: Defence, more: Mapping[str, Any]) -> Study:  # Any: TOML values
    """Return the reference study behind a defence. more: keys over the reference's."""
    found: Study = defended(changed(study, REFERENCE, more), defence, clip_norm=CLIP_NORM)
    return found


def _trusting(defence: Defence, study: Study, effort: Effort) -> Iterator[Cell]:
    is_single = defence in (PLAIN, LOCAL_8)  # each site's upload is a trial
    rounds = effort.trials(20 if defence == MASKING else 5, 1)
    seed = effort.study_seed(THREAT.name, defence.name)
    keys = {"training.rounds": rounds, "study.seed": seed, "policy.hidden": [units(effort, defence)]}
    behind = attacked(study, defence, keys)
    adversary = Imprint(SPREAD)
    public = public_of(behind)
    adversary.prepare(public, effort.rng(THREAT.name, defence.name))
    recording = rehearse(
        behind,
        around=partial(OwnFeatures, seed=seed),
        sites=dict.fromkeys(range(behind.sites.count), TrustingSite),
        make_keeper=keeper(PlantingEverywhereKeeper, planted=adversary.policy, claims={1: SUCCESSOR}),
    )
    guess = adversary.run(view_of(recording, View.COORDINATOR))
    found = score(guess, recording, is_single)
    chance = nulls(guess, recording, public, adversary.policy, is_single)
    kind, bars = Kind.DEFENDED, (Bar("low" if effort.quick else "value", at_most=MOST_UNDER_NOISE),)
    if defence.name in CONTROLS:
        kind, bars = Kind.CONTROL, (Bar("high" if effort.quick else "value", at_least=CONTROLS[defence.name]),)
    cell = cell_of(THREAT, defence, kind, found, chance, TRUSTING, bars, effort)
    yield replace(cell, defence_digest=digest_of(behind))


def _checking(study: Study, effort: Effort) -> Iterator[Cell]:
    """Plant a policy as the next step's in rounds 1 and 2; in round 3 say that sites missed the steps of both."""
    seed = effort.study_seed(THREAT.name, "checking")
    keys = {"training.rounds": 3, "study.seed": seed, "policy.hidden": [units(effort, MASKING_8)]}
    behind = attacked(study, MASKING, keys)
    adversary = Imprint(SPREAD)
    public = public_of(behind)
    adversary.prepare(public, effort.rng(THREAT.name, "checking"))
    recording = rehearse(
        behind,
        around=partial(OwnFeatures, seed=seed),
        make_keeper=keeper(
            PlantingEverywhereKeeper, planted=adversary.policy, claims={1: SUCCESSOR, 2: SUCCESSOR, 3: MISSED}
        ),
        may_stop=True,
    )
    guess = adversary.run(view_of(recording, View.COORDINATOR))
    refusals = Counter(recording.refusals)[ModelDoesNotFollow.__name__]
    both = 2 * behind.sites.count
    for threat, kind, numbers, bars, sentence in (
        (THREAT, Kind.DEFENDED, (1, 2), (Bar(at_most=0.0), Bar("refusals", at_least=both)), ""),
        (MISSED_THREAT, Kind.REPORT, (3,), (), WHY_MISSED),
    ):
        kept = {name: steps for name, steps in guess.items() if name in [f"sum/{number}" for number in numbers]}
        if kept:
            found = score(kept, recording, is_single=False)
            chance = nulls(kept, recording, public, adversary.policy, is_single=False)
            cell = cell_of(threat, MASKING, kind, found, chance, CHECKING, bars, effort)
        else:
            name = next(iter(recording.refusals), "")
            cell = refusal_of(threat, MASKING, kind, name, behind.sites.count, bars, effort)
        figures = {**cell.figures, "refusals": float(refusals)}
        yield replace(cell, sentence=sentence, figures=figures, defence_digest=digest_of(behind))


def units(effort: Effort, defence: Defence) -> int:
    """Return how many bins a layer has; fewer where none is read, for each is then a larger part of a message."""
    return WIDEST if defence.name in CONTROLS else effort.trials(WIDEST, 64)


# --- scoring ---------------------------------------------------------------------------------------------------------


def score(guess: Guess, recording: Recording, is_single: bool) -> tuple[int, int, int]:
    """Return how many steps were recovered, of how many, and from how many guesses.

    is_single: hold uploads against their site, not sums against all contributors. One guess counts for one step.
    """
    found = total = guesses = 0
    for name, steps in sorted(guess.items()):
        who = _contributors(name, recording, is_single)
        if who is None:
            continue
        true = recording.truth.steps_of(*who).astype(np.float64)
        found, total, guesses = found + recovered(steps, true), total + len(true), guesses + len(steps)
    return found, total, guesses


def nulls(guess: Guess, recording: Recording, public: Public, policy: Vector, is_single: bool) -> dict[str, float]:
    """Return what share of steps is found by chance.

    swapped: the same guesses, held against the steps of as many others. prior, uniform: as many steps of other people,
    and as many states drawn evenly, held against the steps that were there.
    """
    found, total, states = {"uniform": 0, "prior": 0, "swapped": 0}, {"there": 0, "others": 0}, public.codebook()
    for number, (name, steps) in enumerate(sorted(guess.items())):
        who = _contributors(name, recording, is_single)
        if who is None:
            continue
        rng = np.random.default_rng(number)
        others = own_features(public.people(policy, len(who[1]), 1_000_000 + number), rng)
        theirs = others.observations[others.steps].astype(np.float64)
        true = recording.truth.steps_of(*who).astype(np.float64)
        found["swapped"] += recovered(steps, theirs)
        found["prior"] += recovered(theirs[rng.integers(len(theirs), size=len(steps))], true)
        found["uniform"] += recovered(states[rng.integers(len(states), size=len(steps))].astype(np.float64), true)
        total["there"], total["others"] = total["there"] + len(true), total["others"] + len(theirs)
    of = {name: total["others" if name == "swapped" else "there"] for name in found}
    return {name: found[name] / of[name] if of[name] else 0.0 for name in found}


def _contributors(name: str, recording: Recording, is_single: bool) -> tuple[int, tuple[int, ...]] | None:
    kind, number, *site = name.split("/")
    if (kind == "upload") != is_single:
        return None
    return int(number), tuple(map(int, site)) or recording.memory.sums[int(number)].contributors


def recovered(guesses: NDArray[np.float64], steps: NDArray[np.float64]) -> int:
    """Return how many steps [S, D] have a guess [G, D] of their own with a mean squared error below `NEAR`."""
    if not len(guesses) or not len(steps):
        return 0
    squares = (guesses**2).mean(axis=1)[:, None] + (steps**2).mean(axis=1)
    is_near = squares - 2 * guesses @ steps.T / steps.shape[1] < NEAR
    return int((maximum_bipartite_matching(csr_matrix(is_near), perm_type="column") >= 0).sum())


def cell_of(
    threat: Threat,
    defence: Defence,
    kind: Kind,
    found: tuple[int, int, int],
    chance: dict[str, float],
    view: str,
    bars: tuple[Bar, ...],
    effort: Effort,
) -> Cell:
    """Return a cell of steps recovered."""
    hits, total, guesses = found
    low, high = proportion(hits, total)
    return Cell(
        attack=threat.name,
        defence=defence.name,
        kind=kind,
        metric=f"share of steps with a feature error below {NEAR:g}",
        value=hits / total,
        low=low,
        high=high,
        n=total,
        view=view,
        bars=bars,
        nulls=chance,
        figures={"guesses": float(guesses)},
        seeds=(effort.seed,),
    )


def refusal_of(
    threat: Threat, defence: Defence, kind: Kind, name: str, sites: int, bars: tuple[Bar, ...], effort: Effort
) -> Cell:
    """Return the cell of a policy that nobody took."""
    return Cell(
        attack=threat.name,
        defence=defence.name,
        kind=kind,
        metric=f"share of steps with a feature error below {NEAR:g}",
        value=0.0,
        low=0.0,
        high=0.0,
        n=sites,
        view=CHECKING,
        bars=bars,
        refusal=name,
        seeds=(effort.seed,),
    )
