"""Steering through the wire: honest sites that check everything, and a coordinator that states sums of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from secure_frl.errors import UnexpectedState
from secure_frl.study import Study
from threat_models.adversaries.imprint_steering import THREAT, SteeredImprint
from threat_models.defences import MASKING, MASKING_8, Defence, digest_of
from threat_models.evaluation import Effort, Task
from threat_models.evaluations.imprint import (
    CHECKING,
    CONTROLS,
    MOST_UNDER_NOISE,
    SPREAD,
    OwnFeatures,
    attacked,
    cell_of,
    nulls,
    score,
    units,
    why_no_features,
)
from threat_models.keepers import keeper
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.malicious_coordinator import SteeringKeeper, finest_step, longest_step
from threat_models.public import Public, public_of
from threat_models.results import Bar, Cell, Kind
from threat_models.threat import Summed, View

# One stated sum moves a parameter by up to 80 here: step size times clip. The shipped study of a table has 2,000.
STEP_SIZE = 20.0
OTHER_STEPS = (0.05, 0.5, 5.0, 50.0)  # whose rounds are counted beside it
OPEN = "open, nothing of the study is off here"
WHY_OPEN = (
    "Open: sites check that the policy follows from the stated sum, and nobody but the coordinator knows the real one. "
    "The range of a sum bounds how far a round steers, the step size how many rounds it takes; only noise stops it."
)


class ImprintSteeringEvaluation:
    """A5s."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        return why_no_features(study)

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return one task without noise, where the reading must succeed, and one with it."""
        return tuple(
            Task(
                THREAT.name,
                (one.name,),
                f"imprint_steering, {one.name}",
                8.0,
                partial(_measure, one),
                is_control=one == MASKING,
            )
            for one in (MASKING, MASKING_8)
        )


def _measure(defence: Defence, study: Study, effort: Effort) -> Iterator[Cell]:
    seed = effort.study_seed(THREAT.name, defence.name)
    keys = {"policy.hidden": [units(effort, defence)], "study.seed": seed, "training.global.step_size": STEP_SIZE}
    public = public_of(attacked(study, defence, {**keys, "training.rounds": 1}))
    adversary = SteeredImprint(SPREAD)
    adversary.prepare(public, effort.rng(THREAT.name, defence.name))
    way = float(np.abs(adversary.policy - public.first_policy).max())
    under_way = _rounds(way, STEP_SIZE, public)
    rounds = under_way + effort.trials(8, 2)
    knows: dict[int, Summed] = {}
    recording = rehearse(
        attacked(study, defence, {**keys, "training.rounds": rounds}),
        around=partial(OwnFeatures, seed=seed),
        make_keeper=keeper(SteeringKeeper, target=adversary.policy, knows=knows),
    )
    yield _cell(defence, adversary, recording, knows, public, way, effort)


def _rounds(way: float, step_size: float, public: Public) -> int:
    return math.ceil(way / longest_step(step_size, public.constants))


def _cell(
    defence: Defence,
    adversary: SteeredImprint,
    recording: Recording,
    knows: dict[int, Summed],
    public: Public,
    way: float,
    effort: Effort,
) -> Cell:
    """Return what the real sums show from the first round on whose people met the imprint."""
    kind, bars = Kind.CONTROL, (Bar("high" if effort.quick else "value", at_least=CONTROLS[MASKING.name]),)
    if defence == MASKING_8:
        kind, bars = Kind.DEFENDED, (Bar("low" if effort.quick else "value", at_most=MOST_UNDER_NOISE),)
    near = finest_step(STEP_SIZE, public.constants)  # a sum is of whole numbers: nobody comes nearer than half of that
    met_by = sorted(recording.memory.policies.items())
    there = [number for number, met in met_by if np.abs(met - adversary.policy).max() < near]
    if not there or not knows:  # nobody met the imprint, so that nothing was read says nothing about noise
        raise UnexpectedState(
            f"expected {recording.rounds} rounds to steer to the imprint, they did not. Steer longer."
        )
    guess = adversary.run(replace(view_of(recording, View.COORDINATOR), sums=knows))
    sums = {number: {f"sum/{number}": guess[f"sum/{number}"]} for number in sorted(knows)}
    met_it = {name: steps for number in there for name, steps in sums[number].items()}
    found = score(met_it, recording, is_single=False)
    chance = nulls(met_it, recording, public, adversary.policy, is_single=False)
    cell = cell_of(THREAT, defence, kind, found, chance, CHECKING, bars, effort)
    shares = [hits / total for hits, total, _ in (score(one, recording, is_single=False) for one in sums.values())]
    figures = {**cell.figures, "rounds_needed": float(there[0] - 1), "way": way, "step_size": STEP_SIZE}
    curves = {
        "round": list(map(float, sums)),
        "share_by_round": shares,
        "step_size": list(OTHER_STEPS),
        "rounds_by_step_size": [float(_rounds(way, one, public)) for one in OTHER_STEPS],
    }
    remark = OPEN if kind is Kind.CONTROL else ""
    digest = digest_of(recording.study)
    return replace(cell, figures=figures, curves=curves, sentence=WHY_OPEN, remark=remark, defence_digest=digest)
