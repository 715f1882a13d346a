"""Dynamics inference: hospitals of one of some worlds train together, and the released policy is asked which it was.

In each world other actions have exchanged effects, in a part of the states: what is best to do differs, and nothing
else. A coin of many sides picks the world of each trial.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from secure_frl.federation.simulated_patients import PatientSource
from secure_frl.learning.acting import Acting
from secure_frl.learning.environments.icu_sepsis import ACTIONS, LIVE_STATES, STATES, SURVIVAL
from secure_frl.learning.environments.site_shift import PRACTICE_EFFECT, ShiftedIcuSepsis, SiteDynamics, dynamics_at
from secure_frl.learning.evaluation import exact_values
from secure_frl.learning.forms import policy_form
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.settings import ICU_SEPSIS
from secure_frl.learning.trajectories import Trajectories
from secure_frl.secure_sum import RoundContext
from secure_frl.study import Study
from threat_models.adversaries.dynamics_inference import DIRECTION, GREEDY, THREAT, DynamicsInference, World
from threat_models.defences import MASKING_8, PLAIN, Defence, changed, digest_of
from threat_models.evaluation import Effort, Task
from threat_models.laboratory import rehearse, view_of
from threat_models.public import public_of
from threat_models.results import Bar, Cell, Kind
from threat_models.statistics import proportion
from threat_models.threat import View

WORLDS, QUICK_WORLDS = 8, 4
STRENGTH = 0.3  # the part of the states with a choice in which actions have exchanged effects
PEOPLE = 100  # of a site and round: two thousand in all, where the shipped study has 200,100
ROUNDS = 2
REFERENCE: Mapping[str, Any] = {  # Any: TOML values
    "data.observation": "state",
    "data.site_shift": {"kind": "none", "strength": 0.0},  # sites of a trial share one world, which no study names
    "policy.kind": "table",
    "policy.critic": "private",
    "training.objective": "reinforce",
    "training.aggregation": "fedsgd",
    "training.episodes_per_site": PEOPLE,
    "privacy.unit": "patient",
    "privacy.max_rounds_per_person": 1,
    "privacy.max_sites_per_person": 1,
    "output.evaluation_episodes": 2,
}
MASKING_4 = replace(
    MASKING_8,
    name="masking+dp-4",
    changes={**MASKING_8.changes, "privacy.target_epsilon": 4.0},
    epsilon=4.0,
)
NOT_COVERED = (
    "Differential privacy of a person does not cover what all patients show: a policy that has learned something "
    "reveals the dynamics it was trained in, the more so the more people train it. Say so to whoever releases it."
)


class InWorld:
    """Patients of one site in a given world."""

    def __init__(self, source: PatientSource, study: Study, dynamics: SiteDynamics, rng: np.random.Generator) -> None:
        self._source, self._rng = source, rng
        self._environment = ShiftedIcuSepsis(study.training.episodes_per_site, study.data.max_steps, dynamics)

    def probe(self) -> Trajectories:
        """Return what the source does."""
        return self._source.probe()

    def records(self) -> Trajectories | None:
        """Return what the source does."""
        return self._source.records()

    def collect(self, acting: Acting, context: RoundContext) -> Trajectories:
        """Return fresh people of this world, under the names that the source gives."""
        names = self._source.collect(acting, context).persons
        return roll_out(acting, self._environment, self._rng, names)


class DynamicsInferenceEvaluation:
    """B4."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        return "" if study.data.environment == ICU_SEPSIS else "no table of transitions is known here"

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return one task a defence."""
        return tuple(
            Task(THREAT.name, (one.name,), f"{THREAT.name}, {one.name}", 15.0, partial(_measure, one), one == PLAIN)
            for one in ((PLAIN,) if effort.quick else (PLAIN, MASKING_8, MASKING_4))
        )


def reference(study: Study, defence: Defence, rounds: int) -> Study:
    """Return the study under attack, behind a defence; the control clips as the study does."""
    units = study.sites.count * rounds * PEOPLE
    sizes = {"training.rounds": rounds, "privacy.delta": min(study.privacy.delta, 0.5 / units)}
    attacked: Study = changed(study, REFERENCE, sizes, defence.changes)
    return attacked


def candidates(count: int, rng: np.random.Generator) -> list[SiteDynamics]:
    """Return worlds that differ in what actions do."""
    return [dynamics_at(PRACTICE_EFFECT, STRENGTH, int(seed), 0) for seed in rng.integers(2**31, size=count)]


def world_of(dynamics: SiteDynamics) -> World:
    """Return a world as its public tables say."""
    tables = dynamics.tables
    states, actions = np.nonzero(tables.admissible[:LIVE_STATES])
    published = csr_array((tables.probabilities, tables.next_states, tables.row_starts), shape=(states.size, STATES))
    worth = np.zeros(STATES)
    worth[SURVIVAL] = 1.0
    if dynamics.effect is None:
        return World(published, tables.initial[:LIVE_STATES], worth)
    row = np.full((LIVE_STATES, ACTIONS), -1)
    row[states, actions] = np.arange(states.size)
    amounts_to = row[states, dynamics.effect[states, actions]]
    return World(published[amounts_to], tables.initial[:LIVE_STATES], worth)


def _inside(
    study: Study, dynamics: SiteDynamics, effort: Effort, purpose: tuple[str, ...], source: PatientSource, site: int
) -> PatientSource:
    return InWorld(source, study, dynamics, effort.rng(*purpose, "people", str(site)))


def _measure(defence: Defence, study: Study, effort: Effort) -> Iterator[Cell]:
    count, trials, rounds = effort.trials(WORLDS, QUICK_WORLDS), effort.trials(8, 3), ROUNDS
    attacked = reference(study, defence, rounds)
    worlds = candidates(count, effort.rng(THREAT.name, "worlds"))
    adversary = DynamicsInference([world_of(one) for one in worlds])
    adversary.prepare(public_of(attacked), effort.rng(THREAT.name))
    right = dict.fromkeys((DIRECTION, GREEDY), 0)
    gaps = []
    for trial in range(trials):
        purpose = (THREAT.name, defence.name, str(trial))
        truth = int(effort.rng(*purpose, "coin").integers(count))
        run = changed(attacked, {"study.seed": effort.study_seed(*purpose)})
        recording = rehearse(run, around=partial(_inside, run, worlds[truth], effort, purpose))
        view = view_of(recording, View.POLICY_USER)
        for way, scores in adversary.run(view).items():
            right[way] += int(scores.argmax()) == truth
        (policy,) = view.policies.values()
        acting = policy_form(run).probabilities(policy, run.output.sharpen)
        gaps.append(exact_values(worlds[truth]).score(acting).gap_recovered)
    low, high = proportion(right[DIRECTION], trials)
    is_control = defence == PLAIN
    yield Cell(
        attack=THREAT.name,
        defence=defence.name,
        kind=Kind.CONTROL if is_control else Kind.REPORT,
        metric="share of worlds named right",
        value=right[DIRECTION] / trials,
        low=low,
        high=high,
        n=trials,
        view=str(View.POLICY_USER),
        bars=(Bar("low", at_least=1 / count),) if is_control else (),
        nulls={"uniform": 1 / count},
        figures={
            "right_by_greedy_actions": right[GREEDY] / trials,
            "worlds": float(count),
            "people": float(study.sites.count * rounds * PEOPLE),
            "gap_recovered": float(np.mean(gaps)),
        },
        sentence=NOT_COVERED,
        seeds=(effort.seed,),
        defence_digest=digest_of(attacked),
    )
