"""Membership in a window through the wire: a secret coin fills each slot of each site, under each protection in turn.

Include/omit: a candidate is in or nobody is in his place. Swap: of two candidates exactly one is in. Each game has a
ceiling of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_frl.federation.simulated_patients import PatientSource
from secure_frl.learning.acting import Acting
from secure_frl.learning.settings import ICU_SEPSIS
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.ceilings import view_mu
from secure_frl.privacy.planning import planned_event
from secure_frl.privacy.unit import SITE
from secure_frl.secure_sum import RoundContext
from secure_frl.study import Study
from threat_models.adversaries.membership_update import THREAT, Candidates, MembershipUpdate
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
from threat_models.laboratory import rehearse, view_of
from threat_models.membership import INCLUDE_OMIT, SWAP, Decisions, ceiling_bars, scored
from threat_models.public import public_of, typical_norm
from threat_models.results import Bar, Cell, Kind
from threat_models.threat import View

WINDOW = 64  # slots of a site and round; half of them are filled, on the mean
REFERENCE: Mapping[str, Any] = {  # Any: TOML values
    "data.observation": "features",
    "data.max_steps": 16,  # most stays are shorter
    "policy.kind": "mlp",
    "policy.hidden": [64],
    "policy.critic": "network",  # every step has a gradient, also where one action alone is admissible
    "training.objective": "reinforce",
    "training.gae_lambda": 1.0,
    "training.aggregation": "fedsgd",
    "training.episodes_per_site": WINDOW,
    "training.global.step_size": 1e-9,  # every round meets the first policy, so that rounds are trials
    "training.global.momentum": 0.0,
    "privacy.max_rounds_per_person": 1,
    "privacy.max_sites_per_person": 1,
    "output.evaluation_episodes": 2,
}
WHY_BROKEN = (
    "A sum hides one person among the others' gradients, not behind a bound: nothing limits what a sharper filter, or "
    "fewer people, would give. Only noise has a ceiling."
)
COLUMNS = (PLAIN, CLIP, LOCAL_8, LOCAL_1, MASKING, MASKING_8, MASKING_1)
QUICK = (CLIP, LOCAL_8, MASKING_8)
SWAPPED = (CLIP, LOCAL_8, LOCAL_1)


def why_no_person(study: Study) -> str:
    """Return why nobody asks about single people of a study, empty when somebody does."""
    if study.data.environment != ICU_SEPSIS:
        return "the reference setting is of the sepsis tables"
    return (
        "its unit is the site, so noise hides sites: nobody is told apart in one" if study.privacy.unit == SITE else ""
    )


class Coins:
    """Patients of one site, each of them in only if a coin says so."""

    def __init__(self, source: PatientSource, site: int, is_swap: bool, rng: np.random.Generator, pools: Pools) -> None:
        self._source, self._site, self._is_swap, self._rng, self._pools = source, site, is_swap, rng, pools

    def probe(self) -> Trajectories:
        """Return what the source does."""
        return self._source.probe()

    def records(self) -> Trajectories | None:
        """Return what the source does."""
        return self._source.records()

    def collect(self, acting: Acting, context: RoundContext) -> Trajectories:
        """Return those whom the source gives and a coin lets in."""
        people = self._source.collect(acting, context)
        coins = self._rng.random(people.count) < 0.5
        if self._is_swap:
            coins[1::2] = ~coins[::2]
        self._pools[context.round, self._site] = (people, coins)
        return people.select(np.flatnonzero(coins))


Pools = dict[tuple[int, int], tuple[Trajectories, NDArray[np.bool_]]]


class MembershipUpdateEvaluation:
    """B1."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        return why_no_person(study)

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return one task a defence, and the swap game of some."""
        found = []
        for one in QUICK if effort.quick else COLUMNS:
            for is_swap in (False, True) if one in SWAPPED and not effort.quick else (False,):
                title = f"{THREAT.name}, {one.name}{', swap' if is_swap else ''}"
                found.append(
                    Task(
                        THREAT.name,
                        (one.name,),
                        title,
                        15.0,
                        partial(_measure, one, is_swap),
                        _is_control(one, is_swap),
                    )
                )
        return tuple(found)


def _is_control(defence: Defence, is_swap: bool) -> bool:
    return defence == CLIP and not is_swap


def _measure(defence: Defence, is_swap: bool, study: Study, effort: Effort) -> Iterator[Cell]:
    is_plain = defence.changes["protection.method"] == "unsafe-plain"
    rounds = effort.trials(4 if is_swap else 2, 1) if is_plain else effort.trials(20, 2)
    purpose = (THREAT.name, defence.name, SWAP if is_swap else INCLUDE_OMIT)
    reference = changed(study, REFERENCE, {"training.rounds": rounds, "study.seed": effort.study_seed(*purpose)})
    attacked = defended(reference, defence, clip_norm=typical_norm(reference))
    pools: Pools = {}

    def around(source: PatientSource, site: int) -> PatientSource:
        return Coins(source, site, is_swap, effort.rng(*purpose, "coins", str(site)), pools)

    recording = rehearse(attacked, around=around)
    recording.truth.coins.update({key: coins for key, (_, coins) in pools.items()})
    public = public_of(attacked)
    asked_at = effort.trials(study.sites.count, 5) if is_plain else effort.trials(1, 2)  # of each site, its own pool
    asked = {key: Candidates(people, is_swap) for key, (people, _) in pools.items() if key[1] < asked_at}
    adversary = MembershipUpdate(asked, window=WINDOW, shadows=effort.trials(1200, 400))
    adversary.prepare(public, effort.rng(THREAT.name, "shadows"))
    guess = adversary.run(view_of(recording, View.COORDINATOR))
    family = family_of(guess, recording.truth.coins, is_swap)
    mu = None
    if defence.epsilon is not None:
        mu = view_mu(planned_event(attacked, public.constants), study.sites.count, is_swap=is_swap)
    fields = scored(family, mu, effort.rng(*purpose, "bootstrap"))
    kind, bars, sentence = _asked(defence, is_swap, fields, mu, effort)
    yield Cell(
        attack=THREAT.name,
        defence=defence.name,
        kind=kind,
        view=str(View.COORDINATOR),
        game=SWAP if is_swap else INCLUDE_OMIT,
        bars=bars,
        sentence=sentence,
        seeds=(effort.seed,),
        defence_digest=digest_of(attacked),
        **fields,
    )


def family_of(
    guess: Mapping[str, NDArray[Any]], coins: Mapping[tuple[int, int], NDArray[np.bool_]], is_swap: bool
) -> dict[str, Decisions]:
    """Return a guess as decisions by way of looking, a group a window. coins: of all candidates, by (round, site)."""
    parts: dict[str, list[tuple[NDArray[Any], NDArray[np.bool_]]]] = {}
    for name, scores in sorted(guess.items()):
        way, number, site = name.split("/")
        parts.setdefault(way, []).append((scores, coins[int(number), int(site)][:: 2 if is_swap else 1]))
    return {
        way: Decisions(
            np.concatenate([scores for scores, _ in found]),
            np.concatenate([members for _, members in found]),
            np.repeat(np.arange(len(found)), [scores.size for scores, _ in found]),
        )
        for way, found in parts.items()
    }


def _asked(
    defence: Defence, is_swap: bool, fields: Mapping[str, Any], mu: float | None, effort: Effort
) -> tuple[Kind, tuple[Bar, ...], str]:
    if mu is not None:
        works = defence == LOCAL_8 and not is_swap
        bars = ceiling_bars(fields, mu)
        return Kind.DEFENDED, (*bars, Bar("high" if effort.quick else "value", at_least=0.60)) if works else bars, ""
    if _is_control(defence, is_swap):
        bars = (Bar("high" if effort.quick else "value", at_least=0.85),)
        has_rate = "tpr_at_1_percent" in fields["figures"]
        return Kind.CONTROL, (*bars, Bar("tpr_at_1_percent", at_least=0.3)) if has_rate else bars, ""
    return Kind.REPORT, (), WHY_BROKEN if defence == MASKING else ""
