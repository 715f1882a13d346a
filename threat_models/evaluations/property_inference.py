"""Property inference through the wire: a secret coin of each trial makes case mixes severe or mild.

Where single updates are seen, each site of each round is a trial; where a sum is seen, each round is one, and all of
its sites have the case mix of its coin. Noise of a person leaves this visible: the property is of everybody together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.federation.simulated_patients import PatientSource
from secure_frl.learning.acting import Acting
from secure_frl.learning.environments.icu_sepsis import LIVE_STATES
from secure_frl.learning.evaluation import SEVERITY_GROUPS, severity_groups
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.settings import ICU_SEPSIS, setting_of
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.ceilings import auc_ceiling, view_mu
from secure_frl.privacy.planning import planned_event, sum_constants
from secure_frl.privacy.unit import SITE
from secure_frl.secure_sum import RoundContext
from secure_frl.study import Study
from threat_models.adversaries.property_inference import THREAT, PropertyInference
from threat_models.defences import (
    CLIP,
    LOCAL_1,
    LOCAL_8,
    MASKING,
    MASKING_8,
    PLAIN,
    Defence,
    changed,
    defended,
    digest_of,
)
from threat_models.evaluation import Effort, Task
from threat_models.laboratory import rehearse, view_of
from threat_models.membership import SWAP, Decisions, scored
from threat_models.public import public_of, typical_norm
from threat_models.results import Bar, Cell, Kind
from threat_models.threat import View

FEW, MANY = 32, 512  # people of a site and round
SEVERE, MILD = 2 / 3, 1 / 6  # the part of them who come in the severe third
_ROLLED = 4  # people a place, from whom a window is chosen: about a third of them are severe
REFERENCE: Mapping[str, Any] = {  # Any: TOML values
    "data.observation": "state",
    "policy.kind": "table",
    "policy.critic": "private",  # counts visits of each state, in the same message
    "training.objective": "reinforce",
    "training.aggregation": "fedsgd",
    "training.global.step_size": 1e-9,  # every round meets the first policy, so that rounds are trials
    "training.global.momentum": 0.0,
    "privacy.unit": "patient",
    "privacy.max_rounds_per_person": 1,
    "privacy.max_sites_per_person": 1,
    "output.evaluation_episodes": 2,
}
CLIPPED_SITES = Defence("clip, unit site", {**CLIP.changes, "privacy.unit": SITE})
OF_SITES = Defence(  # at epsilon 8 the ceiling is .985, which this attack does not pass without any noise either
    "local-1, unit site",
    {**LOCAL_1.changes, "privacy.unit": SITE},
    epsilon=1.0,
)
COLUMNS = (
    (PLAIN, FEW),
    (LOCAL_8, FEW),
    (LOCAL_8, MANY),
    (CLIPPED_SITES, MANY),
    (OF_SITES, MANY),
    (MASKING, FEW),
    (MASKING_8, FEW),
)
QUICK = ((PLAIN, FEW),)
NOT_COVERED = (
    "Differential privacy of a person does not cover a property of a whole site, or of everybody: no single patient "
    "carries it, and it shows the more clearly the more people a site has. privacy.unit = 'site' covers what one site "
    "adds; nothing here hides a property of all sites."
)
OF_ALL = "The property of the whole cohort, which a sum is made to tell: who carries it stays hidden."
Coins = dict[tuple[int, int], bool]  # by (round, site)


class CaseMix:
    """Patients of one site, of whom as many come severely ill as a coin says."""

    def __init__(self, source: PatientSource, site: int, study: Study, coins: Coins, rng: np.random.Generator) -> None:
        self._source, self._site, self._coins, self._rng = source, site, coins, rng
        self._window = study.training.episodes_per_site
        self._environment = setting_of(study).make(_ROLLED * self._window, study.data.max_steps)

    def probe(self) -> Trajectories:
        """Return what the source does."""
        return self._source.probe()

    def records(self) -> Trajectories | None:
        """Return what the source does."""
        return self._source.records()

    def collect(self, acting: Acting, context: RoundContext) -> Trajectories:
        """Return fresh people under the names that the source gives, chosen by how ill they came."""
        names = self._source.collect(acting, context).persons
        everybody = np.arange(self._environment.count, dtype=np.uint64)
        people = roll_out(acting, self._environment, self._rng, everybody)
        severe = is_severe()[people.observations[:, 0]]
        count = round(self._window * (SEVERE if self._coins[context.round, self._site] else MILD))
        chosen = np.concatenate([np.flatnonzero(severe)[:count], np.flatnonzero(~severe)[: self._window - count]])
        return replace(people.select(chosen), persons=names)


def is_severe() -> NDArray[np.bool_]:
    """Return which live states belong to the severe third, bool [live states]; public."""
    return np.asarray(severity_groups()[:LIVE_STATES] == SEVERITY_GROUPS.index("severe"))


class PropertyInferenceEvaluation:
    """B3."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        return "" if study.data.environment == ICU_SEPSIS else "no table says here who is severely ill"

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return one task a defence."""
        return tuple(
            Task(
                THREAT.name,
                (one.name,),
                f"{THREAT.name}, {one.name}, {people} people a site",
                5.0,
                partial(_measure, one, people),
                one in (PLAIN, CLIPPED_SITES),
            )
            for one, people in (QUICK if effort.quick else COLUMNS)
        )


def reference(study: Study, defence: Defence, people: int, rounds: int, seed: int) -> Study:
    """Return the study under attack, behind a defence. people: of a site and round."""
    sizes = {"training.episodes_per_site": people, "training.rounds": rounds, "study.seed": seed}
    delta = {"privacy.delta": min(study.privacy.delta, 0.5 / (study.sites.count * people * rounds))}
    made = changed(study, REFERENCE, sizes, delta)
    attacked: Study = defended(made, defence, clip_norm=typical_norm(made))
    return attacked


def mu_of_sites(study: Study) -> float:
    """Return the mu of one release of one site under its own noise, where its whole case mix is swapped."""
    held = reference(study, OF_SITES, MANY, 1, 0)
    return view_mu(planned_event(held, sum_constants(held)), 1, is_swap=True)  # what others add hides nothing of it


def tossed(rounds: int, sites: int, is_plain: bool, rng: np.random.Generator) -> Coins:
    """Return a coin for each round and site: of half of the trials, which are sites, or rounds where a sum is seen."""
    if is_plain:
        flat = rng.permutation(rounds * sites) < rounds * sites // 2
        rows = flat.reshape(rounds, sites)
    else:
        rows = np.repeat((rng.permutation(rounds) < rounds // 2)[:, None], sites, axis=1)
    return {(number + 1, site): bool(rows[number, site]) for number in range(rounds) for site in range(sites)}


def decisions(guess: Mapping[str, NDArray[Any]], coins: Coins) -> Decisions:
    """Return a guess as decisions, each a group of its own: its people are fresh, and its coin is its own."""
    keys = [tuple(map(int, name.split("/"))) for name in guess]
    labels = np.array([coins[key[0], key[1] if len(key) > 1 else 0] for key in keys], dtype=np.bool_)
    return Decisions(np.concatenate(list(guess.values())), labels, np.arange(len(keys)))


def _measure(defence: Defence, people: int, study: Study, effort: Effort) -> Iterator[Cell]:
    is_plain = defence.changes["protection.method"] == "unsafe-plain"
    is_of_sites = defence.changes.get("privacy.unit") == SITE
    rounds = effort.trials(5 if is_of_sites else 8, 2) if is_plain else effort.trials(16, 8)
    # A site is in every round, and epsilon is of all of them: one release is a run of its own.
    runs, rounds = (rounds, 1) if is_of_sites else (1, rounds)
    what = (THREAT.name, defence.name, str(people))
    first = reference(study, defence, people, rounds, effort.study_seed(*what, "0"))
    adversary = PropertyInference(is_severe(), window=people, shadows=effort.trials(3000, 2000))
    adversary.prepare(public_of(first), effort.rng(THREAT.name, "shadows"))  # the same in all runs, clip and all
    parts: list[Decisions] = []
    for run in range(runs):
        purpose = (*what, str(run))
        attacked = changed(first, {"study.seed": effort.study_seed(*purpose)})
        coins = tossed(rounds, study.sites.count, is_plain, effort.rng(*purpose, "coins"))
        recording = rehearse(attacked, around=partial(_mixed, attacked, coins, effort, purpose))
        recording.truth.coins.update({key: np.array([coin]) for key, coin in coins.items()})
        truth = {key: bool(coin[0]) for key, coin in recording.truth.coins.items()}
        parts.append(decisions(adversary.run(view_of(recording, View.COORDINATOR)), truth))
    scores, labels = np.concatenate([p.scores for p in parts]), np.concatenate([p.is_member for p in parts])
    together = {"discriminant": Decisions(scores, labels, np.arange(scores.size))}
    mu = mu_of_sites(study) if is_of_sites else None
    known = None if defence.epsilon is None else mu  # without noise there is no ceiling
    fields = scored(together, known, effort.rng(THREAT.name, defence.name, "bootstrap"))
    # No curve of so few trials; and chance is one half, for coins are fair: one shift of so few says less.
    fields |= {"metric": "AUC of a severe case mix", "curves": {}, "nulls": {"uniform": 0.5}}
    of_what = "one site" if is_plain else "all sites"
    yield Cell(
        attack=THREAT.name,
        defence=defence.name,
        view=f"{View.COORDINATOR}; {of_what}, {people} people each",
        game=SWAP if is_of_sites else "",
        seeds=(effort.seed,),
        defence_digest=digest_of(first),
        **fields,
        **_asked(defence, None if mu is None else auc_ceiling(mu), effort),
    )


def _mixed(
    study: Study, coins: Coins, effort: Effort, purpose: tuple[str, ...], source: PatientSource, site: int
) -> PatientSource:
    return CaseMix(source, site, study, coins, effort.rng(*purpose, "people", str(site)))


def _asked(defence: Defence, ceiling: float | None, effort: Effort) -> dict[str, Any]:  # Any: fields of a cell
    if defence == PLAIN:
        least = (Bar("high", at_least=0.9), Bar(at_least=0.75)) if effort.quick else (Bar(at_least=0.9),)
        bars = (*least, Bar("low", at_least=0.5))
        return {"kind": Kind.CONTROL, "bars": bars}
    if defence == CLIPPED_SITES:  # where the noise is missing, the cell that has it would fail
        return {"kind": Kind.CONTROL, "bars": (Bar("lowest", at_least=ceiling),)}
    if ceiling is not None:
        return {"kind": Kind.DEFENDED, "bars": (Bar("lowest", at_most=ceiling),)}
    return {"kind": Kind.REPORT, "sentence": OF_ALL if defence == MASKING else NOT_COVERED}
