"""Column support through the wire: one person a site, a network over numbered states, each protection in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from secure_frl.learning.settings import ICU_SEPSIS, setting_of
from secure_frl.study import Study
from threat_models.adversaries.column_support import THREAT, ColumnSupport
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
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.public import Public, public_of, typical_norm
from threat_models.reconstruction import Reconstructed, Trial, score
from threat_models.results import Bar, Cell, Kind
from threat_models.threat import View

MANY = 50  # sites of the second control: a union of so many is still read
REFERENCE: Mapping[str, Any] = {  # Any: TOML values
    "data.observation": "state",
    "policy.kind": "mlp",
    "policy.hidden": [16],  # a wider one has longer messages, and as many rows
    "policy.critic": "network",  # a baseline: without one a death leaves no gradient
    "training.objective": "reinforce",
    "training.gae_lambda": 1.0,
    "training.aggregation": "fedsgd",
    "training.episodes_per_site": 1,
    "training.global.step_size": 1e-9,  # every round meets the first policy, so that rounds are trials
    "training.global.momentum": 0.0,
    "output.evaluation_episodes": 2,
}
WHY_BROKEN = (
    "A sum hides who, not what: a state that anybody visited leaves a row that is not zero, however many sites there "
    "are. Only noise, or an encoding without such rows, stops it."
)


class ColumnSupportEvaluation:
    """A4."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        if study.data.environment != ICU_SEPSIS:
            return "states have no numbers here"
        return ""

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return one task a defence, and one of masking among many sites."""
        columns = (PLAIN, CLIP, LOCAL_8, MASKING, MASKING_8, *(() if effort.quick else (LOCAL_1, MASKING_1)))
        found = [
            Task(THREAT.name, (one.name,), f"column_support, {one.name}", 20.0, partial(_measure, one, 0), one == PLAIN)
            for one in columns
        ]
        if not effort.quick:
            title = f"column_support, masking of {MANY} sites"
            found.append(Task(THREAT.name, (MASKING.name,), title, 60.0, partial(_measure, MASKING, MANY)))
        return tuple(found)


def _measure(defence: Defence, sites: int, study: Study, effort: Effort) -> Iterator[Cell]:
    is_plain = defence.changes["protection.method"] == "unsafe-plain"
    of_a_run = sites or study.sites.count
    trials = effort.trials(60, 10) if not sites else 10
    rounds = -(-trials // of_a_run) if is_plain else trials
    seed = effort.study_seed(THREAT.name, defence.name, str(sites))
    reference = changed(study, REFERENCE, {"training.rounds": rounds, "study.seed": seed}, _many(sites))
    attacked = defended(reference, defence, clip_norm=typical_norm(reference))
    recording = rehearse(attacked)
    public = public_of(attacked)
    adversary = ColumnSupport()
    adversary.prepare(public, effort.rng(THREAT.name))
    guess = adversary.run(view_of(recording, View.COORDINATOR))
    found = score(list(_trials(guess, recording, public, is_plain, effort)), effort.rng(THREAT.name, "ties"))
    yield replace(_cell(defence, found, of_a_run, effort), defence_digest=digest_of(attacked))


def _many(sites: int) -> dict[str, Any]:  # Any: TOML values
    if not sites:
        return {}
    return {"sites.count": sites, "sites.min_survivors": sites - 5, "sites.max_colluders": 1, "protection.threshold": 0}


def _trials(
    guess: Mapping[str, np.ndarray], recording: Recording, public: Public, is_plain: bool, effort: Effort
) -> Iterator[Trial]:
    live = setting_of(recording.study).live_states
    prior = visits(public, 3000, live, effort.seed + 1).mean(axis=0)
    for number, (name, scores) in enumerate(sorted(guess.items())):
        kind, round_number, *site = name.split("/")
        if (kind == "upload") != is_plain:
            continue
        sites = tuple(map(int, site)) or recording.memory.sums[int(round_number)].contributors
        visited = recording.truth.states_of(int(round_number), sites, live)
        others = np.asarray(visits(public, len(sites), live, 1_000_000 + number).any(axis=0))
        yield Trial(scores[:live], visited, others, prior)


def visits(public: Public, count: int, live: int, seed: int) -> np.ndarray:
    """Return bool [count, live]: which states simulated people visit."""
    people = public.people(public.first_policy, count, seed)
    found = np.zeros((count, live), dtype=np.bool_)
    for person in range(count):
        states = people.observations[person][people.steps[person]]
        found[person, states[states < live]] = True
    return found


def _cell(defence: Defence, found: Reconstructed, sites: int, effort: Effort) -> Cell:
    value, low, high = found.found
    kind, bars, sentence = Kind.CONTROL, (Bar("high" if effort.quick else "value", at_least=0.99),), ""
    if defence in (CLIP, MASKING):
        kind, sentence = Kind.BY_DESIGN, WHY_BROKEN
    elif defence.epsilon is not None:
        kind = Kind.DEFENDED
        slack = found.area[2] - found.area[0] if effort.quick else 0.0
        bars = (Bar("auc", at_least=0.45 - slack, at_most=0.55 + slack),)
    return Cell(
        attack=THREAT.name,
        defence=defence.name,
        kind=kind,
        metric="share of visited states found",
        value=value,
        low=low,
        high=high,
        n=found.trials,
        view=str(View.COORDINATOR),
        game=f"{sites} sites" if sites == MANY else "",
        bars=bars,
        nulls=found.nulls,
        figures={
            "auc": found.area[0],
            "auc_low": found.area[1],
            "auc_high": found.area[2],
            "excess": found.excess[0],
            "excess_low": found.excess[1],
            "excess_high": found.excess[2],
            "sites": float(sites),
        },
        sentence=sentence,
        seeds=(effort.seed,),
    )
