"""Membership in the released policy: three hospitals that train on the same few patients in every round.

Such a federation memorises. Its patients' stays are fixed and met again, which costs each of them every round: the
charter's epsilon is of all rounds together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from secure_frl.errors import UnexpectedState
from secure_frl.federation.simulated_patients import PatientSource
from secure_frl.learning.acting import Acting
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.ceilings import view_mu
from secure_frl.privacy.planning import planned_event
from secure_frl.secure_sum import RoundContext
from secure_frl.study import Study
from threat_models.adversaries.membership_policy import THREAT, MembershipPolicy
from threat_models.defences import MASKING, MASKING_1, MASKING_8, PLAIN, Defence, changed, defended, digest_of
from threat_models.evaluation import Effort, Task
from threat_models.evaluations.membership_update import why_no_person
from threat_models.laboratory import rehearse, view_of
from threat_models.membership import INCLUDE_OMIT, Decisions, ceiling_bars, scored
from threat_models.public import Public, public_of, typical_norm
from threat_models.results import Bar, Cell, Kind
from threat_models.threat import View

SITES, SLOTS, ROUNDS = 3, 20, 8  # slots of a site: so many candidates, each in by a coin
REFERENCE: Mapping[str, Any] = {  # Any: TOML values
    "sites.count": SITES,
    "sites.min_survivors": SITES,
    "sites.max_colluders": 1,
    "sites.simulate_drop.before_masked": 0,
    "sites.simulate_drop.after_masked": 0,
    "protection.threshold": 0,
    "data.observation": "features",
    "data.max_steps": 16,
    "policy.kind": "mlp",
    "policy.hidden": [64],
    "policy.critic": "none",
    "policy.critic_start": 0.0,  # so the return is the weight: a patient who lives is imitated
    "training.objective": "reinforce",
    "training.gae_lambda": 1.0,
    "training.aggregation": "fedsgd",
    "training.episodes_per_site": SLOTS,
    "training.rounds": ROUNDS,
    "training.global.optimiser": "sgd",
    "training.global.step_size": 0.5,
    "training.global.momentum": 0.9,
    "training.global.schedule": "constant",
    "privacy.max_rounds_per_person": ROUNDS,
    "privacy.max_sites_per_person": 1,
    "output.evaluation_episodes": 2,
}
WHY_BROKEN = "The policy itself remembers: whatever carries the updates, the sum is what is released."
WHY_FEW = "Patients who lived: with the return as weight one who died leaves no gradient, and nothing to find."


class SamePatients:
    """Fixed patients of one site, whom every round meets again."""

    def __init__(self, source: PatientSource, people: Trajectories) -> None:
        self._source, self._people = source, people

    def probe(self) -> Trajectories:
        """Return what the source does."""
        return self._source.probe()

    def records(self) -> None:
        """Return None: to the site these are fresh people, whom its register counts round by round."""

    def collect(self, acting: Acting, context: RoundContext) -> Trajectories:
        """Return the same people, whoever acts."""
        return self._people


class MembershipPolicyEvaluation:
    """B2."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        return why_no_person(study)

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return one task a defence."""
        columns = (PLAIN, MASKING_8) if effort.quick else (PLAIN, MASKING, MASKING_8, MASKING_1)
        return tuple(
            Task(THREAT.name, (one.name,), f"{THREAT.name}, {one.name}", 60.0, partial(_measure, one), one == PLAIN)
            for one in columns
        )


def survivors(public: Public, count: int, seed: int) -> Trajectories:
    """Return simulated people who lived, under the first policy, each with a name of his own."""
    people = public.people(public.first_policy, 6 * count, seed)
    lived = np.flatnonzero(np.where(people.steps, people.rewards, 0.0).sum(axis=1) > 0.5)[:count]
    found = people.select(lived)
    return replace(found, persons=np.arange(1, found.count + 1, dtype=np.uint64))


def _measure(defence: Defence, study: Study, effort: Effort) -> Iterator[Cell]:
    targets, shadows = effort.trials(18, 2), effort.trials(24, 4)
    reference = changed(study, REFERENCE)
    attacked = defended(reference, defence, clip_norm=typical_norm(reference))
    public = public_of(attacked)
    pool = survivors(public, SITES * SLOTS, effort.study_seed(THREAT.name, "pool"))
    others = survivors(public, SITES * SLOTS, effort.study_seed(THREAT.name, "others"))
    adversary = MembershipPolicy(pool, others, rounds=ROUNDS, shadows=shadows)
    adversary.prepare(public, effort.rng(THREAT.name, defence.name, "shadows"))
    scores: dict[str, list[np.ndarray]] = {}
    coins, likely, returns = [], [], []
    for target in range(targets):
        purpose = (THREAT.name, defence.name, str(target))
        coin = effort.rng(*purpose, "coins").random(pool.count) < 0.5
        run = changed(attacked, {"study.seed": effort.study_seed(*purpose)})
        recording = rehearse(run, around=partial(admitted, pool, coin))
        if recording.rounds < ROUNDS:
            raise UnexpectedState(
                f"expected {ROUNDS} rounds that remember, got {recording.rounds}. See why some were lost."
            )
        view = view_of(recording, View.POLICY_USER)
        for way, found in adversary.run(view).items():
            scores.setdefault(way, []).append(found)
        coins.append(coin)
        (policy,) = view.policies.values()
        likely.append(public.log_likelihoods(policy, others).mean())
        returns.append(public.people(policy, 300, effort.study_seed(*purpose, "return")).rewards.sum(axis=1).mean())
    groups, people = np.repeat(np.arange(targets), pool.count), np.tile(np.arange(pool.count), targets)
    family = {
        way: Decisions(np.concatenate(found), np.concatenate(coins), groups, people) for way, found in scores.items()
    }
    mu = None
    if defence.epsilon is not None:  # Gaussians compose: so many releases move the mean by a root of as many
        mu = view_mu(planned_event(attacked, public.constants), SITES) * math.sqrt(ROUNDS)
    fields = scored(family, mu, effort.rng(THREAT.name, defence.name, "bootstrap"))
    fields["figures"] |= {
        "return": float(np.mean(returns)),
        "log_likelihood_of_others": float(np.mean(likely)),
        "targets": float(targets),
        "shadows": float(shadows),
    }
    yield Cell(
        attack=THREAT.name,
        defence=defence.name,
        view=str(View.POLICY_USER),
        game=INCLUDE_OMIT,
        seeds=(effort.seed,),
        defence_digest=digest_of(attacked),
        **fields,
        **_asked(defence, fields, mu, effort),
    )


def admitted(pool: Trajectories, coin: np.ndarray, source: PatientSource, site: int) -> PatientSource:
    """Return a site's own part of the pool, those whom the coin let in; what `rehearse` takes as `around`."""
    mine = np.arange(pool.count) // SLOTS == site
    return SamePatients(source, pool.select(np.flatnonzero(mine & coin)))


def _asked(defence: Defence, fields: Mapping[str, Any], mu: float | None, effort: Effort) -> dict[str, Any]:
    point = "high" if effort.quick else "value"
    if defence == PLAIN:
        above_chance = Bar("low", at_least=0.5)  # of two targets the upper end alone is soon far up
        return {"kind": Kind.CONTROL, "bars": (Bar(point, at_least=0.75), above_chance), "sentence": WHY_FEW}
    if mu is None:
        return {"kind": Kind.BY_DESIGN, "bars": (Bar(point, at_least=0.75),), "sentence": WHY_BROKEN}
    bars = ceiling_bars(fields, mu)
    if defence == MASKING_8:
        bars = (*bars, Bar("low" if effort.quick else "value", at_most=0.70))
    return {"kind": Kind.DEFENDED, "bars": bars}
