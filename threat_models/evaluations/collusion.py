"""Collusion through the wire: the coordinator with 0 to n - 1 sites, without noise and with it; and a shrunken cohort.

Each site is the victim in turn, so a round gives n trials; with all others in the coalition they share nothing, and
with fewer they share the people of their round.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import RoundRefused
from secure_frl.privacy import accountant
from secure_frl.privacy.ceilings import auc_ceiling, view_mu
from secure_frl.privacy.charging import WhatIf
from secure_frl.privacy.planning import planned_schedule
from secure_frl.study import Study
from threat_models.adversaries.collusion import THREAT, Collusion
from threat_models.adversaries.state_scores import FILTER
from threat_models.defences import MASKING, MASKING_1, MASKING_8, Defence, digest_of
from threat_models.evaluation import Effort, Task
from threat_models.evaluations.one_victim import (
    States,
    best,
    cell_of,
    family,
    reference,
    refused,
    why_not,
    wins,
)
from threat_models.keepers import ShrinkingKeeper, keeper
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.public import Public, public_of
from threat_models.reconstruction import Trial, found_share
from threat_models.results import Bar, Cell, Kind
from threat_models.statistics import auc, auc_interval, auc_lower_limit, mean_interval
from threat_models.threat import View

ON_MAX = 0.03  # of the victim's states, at epsilon 1, by all others together
_SHRUNKEN_TO = 3  # sites, the fewest of any charter
_LEVEL = 0.999
_OUTSIDE = (
    "More colluders than the charter assumes: its epsilon is not theirs. The curve gives epsilon for each number of "
    "them, for the fewest survivors and for all, with what was measured when all survive."
)
_WITHIN = "Which of two people was the victim, by the mean score of their states: never above the ceiling at h shares."
_SHRUNKEN = "n, threshold and the fewest survivors are numbers of the charter; an announcement has no say in them."


class CollusionEvaluation:
    """A10, and A11 as one of its cells."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        return why_not(study)

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return a task a defence, and the shrunken cohort."""
        name = THREAT.name
        return (
            Task(name, (MASKING.name,), f"{name}, masking", 10.0, partial(_all_others, MASKING), is_control=True),
            Task(name, (MASKING_8.name,), f"{name}, noise", 40.0, _curve),
            Task(name, (MASKING_1.name,), f"{name}, more noise", 10.0, partial(_all_others, MASKING_1)),
            Task(name, (MASKING.name,), "shrunken cohort", 3.0, _shrunken),
        )


def _all_others(defence: Defence, study: Study, effort: Effort) -> Iterator[Cell]:
    rounds = effort.trials(8 if defence == MASKING else 16, 2)
    run = _Run(reference(study, defence, rounds, effort.study_seed(THREAT.name, defence.name)), effort)
    if defence == MASKING:
        kind, bars = Kind.CONTROL, wins(effort)
    else:
        kind, bars = Kind.DEFENDED, (Bar("low" if effort.quick else "value", at_most=ON_MAX),)
    yield cell_of(
        THREAT.name,
        defence,
        kind,
        _view(run.sites - 1),
        run.trials(run.sites - 1),
        effort,
        bars,
        defence_digest=digest_of(run.study),
    )


def _curve(study: Study, effort: Effort) -> Iterator[Cell]:
    """Yield the cell of all others with the curve over their number, and the cell of as many as the charter assumes."""
    defence, rounds = MASKING_8, effort.trials(16, 2)
    run = _Run(reference(study, defence, rounds, effort.study_seed(THREAT.name, defence.name)), effort)
    constants = run.public.constants
    schedule = planned_schedule(run.study, constants)
    curves: dict[str, list[float]] = {name: [] for name in ("colluders", "epsilon", "epsilon_all_survive")}
    curves |= {"excess": [], "excess_low": [], "excess_high": [], "assumed": [float(constants.max_colluders)]}
    numbers = {0, constants.max_colluders, run.sites // 2, run.sites - 1}
    for colluders in sorted(numbers) if effort.quick else range(run.sites):
        trials = run.trials(colluders)
        method, _ = best(trials, effort.rng(THREAT.name, "curve"))
        mean, low, high = mean_interval(run.by_round(trials[method], effort))
        for name, value in (
            ("colluders", float(colluders)),
            ("epsilon", _epsilon(schedule, constants.min_survivors - colluders)),
            ("epsilon_all_survive", _epsilon(schedule, run.sites - colluders)),
            ("excess", mean),
            ("excess_low", low),
            ("excess_high", high),
        ):
            curves[name].append(value)
        if colluders == constants.max_colluders:
            yield _claimed(run, trials, colluders, effort)
        if colluders == run.sites - 1:
            figures = {"epsilon": curves["epsilon_all_survive"][-1]}
            yield cell_of(
                THREAT.name,
                defence,
                Kind.REPORT,
                _view(colluders),
                trials,
                effort,
                figures=figures,
                curves=curves,
                sentence=_OUTSIDE,
                defence_digest=digest_of(run.study),
            )


def _epsilon(schedule: accountant.Schedule, shares: int) -> float:
    """Return epsilon when so many honest shares are there; the person's own site is always one."""
    return accountant.epsilon_of_schedule(schedule, WhatIf(shares=max(1, shares)))


def _claimed(run: _Run, trials: dict[str, list[Trial]], colluders: int, effort: Effort) -> Cell:
    """Return whether as many colluders as the charter assumes stay below the ceiling of its h shares."""
    constants = run.public.constants
    event = planned_schedule(run.study, constants)[0][0]
    ceiling = auc_ceiling(view_mu(event, constants.honest_shares, is_swap=True))
    scored = trials[FILTER]
    scores = np.array([one.scores[who].mean() for one in scored for who in (one.visited, one.swapped)])
    is_member = np.tile([True, False], len(scored))
    rounds = np.repeat(run.rounds_of_trials, 2)
    value = auc(scores, is_member)
    low, high = auc_interval(scores, is_member, rounds, effort.rng(THREAT.name, "interval"))
    limit = auc_lower_limit(scores, is_member, rounds, effort.rng(THREAT.name, "limit"), _LEVEL)
    return Cell(
        attack=THREAT.name,
        defence=MASKING_8.name,
        kind=Kind.DEFENDED,
        metric="AUC, the victim against another person",
        value=value,
        low=low,
        high=high,
        n=len(scored),
        view=_view(colluders),
        game="swap",
        bars=(Bar("auc_limit", at_most=ceiling),),
        nulls={"chance": 0.5},
        ceiling=ceiling,
        figures={"auc_limit": limit, "honest_shares": float(constants.honest_shares)},
        sentence=_WITHIN,
        seeds=(effort.seed,),
        defence_digest=digest_of(run.study),
    )


def _shrunken(study: Study, effort: Effort) -> Iterator[Cell]:
    """Yield what honest sites answer to a cohort of fewer sites than the charter's."""
    attacked = reference(study, MASKING, 1, effort.study_seed(THREAT.name, "shrunken"))
    cohort = tuple(range(_SHRUNKEN_TO))
    recording = rehearse(attacked, make_keeper=keeper(ShrinkingKeeper, cohort=cohort), may_stop=True)
    view = f"coordinator; a cohort of {_SHRUNKEN_TO}"
    yield refused(
        THREAT.name,
        MASKING,
        view,
        recording.refusals,
        RoundRefused,
        len(cohort),
        len(recording.memory.policies),
        effort,
        sentence=_SHRUNKEN,
        defence_digest=digest_of(attacked),
    )


def _view(colluders: int) -> str:
    return f"{View.COALITION}: {colluders}"


class _Run:
    """An honest run, and the trials of coalitions of any size in it."""

    def __init__(self, study: Study, effort: Effort) -> None:
        self.study, self._effort = study, effort
        self.public: Public = public_of(study)
        self.sites = study.sites.count
        self._recording: Recording = rehearse(study)
        self._states = States(self.public)
        self._adversary = Collusion()
        self._adversary.prepare(self.public, effort.rng(THREAT.name))
        self._rounds = sorted(self._recording.memory.sums)
        self.rounds_of_trials = np.repeat(np.array(self._rounds), self.sites)

    def trials(self, colluders: int) -> dict[str, list[Trial]]:
        """Return a trial a round and victim, rounds outermost, by method; the sites after the victim collude."""
        guess: dict[str, NDArray[np.float64]] = {}
        met: dict[str, NDArray[np.bool_]] = {}
        people = self._recording.truth.trajectories
        for victim in range(self.sites):
            coalition = tuple(sorted((victim + one) % self.sites for one in range(1, colluders + 1)))
            if coalition:
                view = view_of(self._recording, View.COALITION, coalition)
            else:
                view = view_of(self._recording, View.COORDINATOR)
            found = self._adversary.run(view)
            guess |= {f"{name}/{victim}": scores for name, scores in found.items()}
        for number in self._rounds:
            for victim in range(self.sites):
                met[f"{number}/{victim}"] = self._states.met(people[number, victim], 0)
        return family(guess, met, self._states, self._effort)

    def by_round(self, trials: list[Trial], effort: Effort) -> list[float]:
        """Return the excess over the swapped cohort, a mean a round: its trials share people."""
        rng = effort.rng(THREAT.name, "ties")
        excess = np.array(
            [found_share(one.scores, one.visited, rng) - found_share(one.scores, one.swapped, rng) for one in trials]
        )
        return [float(excess[self.rounds_of_trials == number].mean()) for number in self._rounds]
