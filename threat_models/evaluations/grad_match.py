"""Gradient matching through the wire: one person of at most four steps a site, fitted without any table of states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from secure_frl.learning.settings import ICU_SEPSIS
from secure_frl.study import Study
from threat_models.adversaries.grad_match import THREAT, GradMatch
from threat_models.defences import CLIP, LOCAL_8, MASKING, MASKING_8, PLAIN, Defence, changed, defended, digest_of
from threat_models.evaluation import Effort, Task
from threat_models.evaluations.row_space import REFERENCE as DENSE
from threat_models.laboratory import rehearse, view_of
from threat_models.public import public_of, typical_norm
from threat_models.results import Bar, Cell, Kind
from threat_models.statistics import proportion
from threat_models.threat import View

STEPS = 4  # of a person; beyond, the fit loses its way
ATTACKED = 2  # messages a column: a fit takes seconds
ATTACKED_NOISED = 6  # of single sites: noise hides which messages are of several steps
ITERATIONS = 300
TIMES_CHANCE = 10.0  # what the control's lower limit must pass
REFERENCE: Mapping[str, Any] = {  # Any: TOML values
    **DENSE,
    "data.max_steps": STEPS,
    "training.discount": 0.9,  # a stay that is cut is worth less than its baseline, so that it too leaves a gradient
}
Features = NDArray[np.float64]


class GradMatchEvaluation:
    """A1."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        return (
            "" if study.data.environment == ICU_SEPSIS else "no public table of features here, to tell what was found"
        )

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return one task a defence; none in a quick suite, for a fit takes seconds."""
        if effort.quick:
            return ()
        return tuple(
            Task(THREAT.name, (one.name,), f"grad_match, {one.name}", 15.0, partial(_measure, one), one == PLAIN)
            for one in (PLAIN, CLIP, LOCAL_8, MASKING, MASKING_8)
        )


def _measure(defence: Defence, study: Study, effort: Effort) -> Iterator[Cell]:
    is_plain = defence.changes["protection.method"] == "unsafe-plain"
    messages = ATTACKED_NOISED if defence == LOCAL_8 else ATTACKED
    run = {
        "training.rounds": -(-messages // study.sites.count) if is_plain else messages,
        "study.seed": effort.study_seed(THREAT.name, defence.name),
    }
    reference = changed(study, REFERENCE, run)
    attacked = defended(reference, defence, clip_norm=typical_norm(reference))
    recording = rehearse(attacked)
    public = public_of(attacked)
    adversary = GradMatch(STEPS, messages, ITERATIONS)
    adversary.prepare(public, effort.rng(THREAT.name))
    guess = adversary.run(view_of(recording, View.COORDINATOR))
    states = public.codebook().astype(np.float64)
    hits, swapped, prior, errors = np.zeros(0, np.bool_), np.zeros(0, np.bool_), np.zeros(0, np.bool_), np.zeros(0)
    for number, (name, fitted) in enumerate(sorted(guess.items())):
        _, round_number, *site = name.split("/")
        sites = tuple(map(int, site)) or recording.memory.sums[int(round_number)].contributors
        true = recording.truth.steps_of(int(round_number), sites).astype(np.float64)
        others = public.people(public.first_policy, len(sites), 1_000_000 + number)
        found, error = identified(fitted, true, states)
        hits, errors = np.r_[hits, found], np.r_[errors, error]
        theirs = others.observations[others.steps].astype(np.float64)
        swapped = np.r_[swapped, identified(fitted, theirs, states)[0]]
        drawn = theirs[np.random.default_rng(number).integers(len(theirs), size=len(fitted))]
        prior = np.r_[prior, identified(drawn, true, states)[0]]
    chance = {"uniform": 1 / len(states), "prior": float(prior.mean()), "swapped": float(swapped.mean())}
    cell = _cell(defence, messages, hits, chance, errors, effort)
    yield replace(cell, defence_digest=digest_of(attacked))


def identified(fitted: Features, true: Features, states: Features) -> tuple[NDArray[np.bool_], Features]:
    """Return for each true step whether its fit is nearest to its state, and the fit's mean squared error.

    fitted, true: [steps, D], matched one to one at the least sum of errors; a true step beyond the fitted ones counts
    as not found. states: [states, D].
    """
    errors = ((fitted[:, None, :] - true[None, :, :]) ** 2).mean(axis=2)
    guesses, steps = linear_sum_assignment(errors)
    found, of_each = np.zeros(len(true), dtype=np.bool_), np.full(len(true), np.inf)
    for guess, step in zip(guesses, steps, strict=True):
        nearest = int(((states - fitted[guess]) ** 2).sum(axis=1).argmin())
        found[step] = nearest == int(((states - true[step]) ** 2).sum(axis=1).argmin())
        of_each[step] = errors[guess, step]
    return found, of_each


def _cell(
    defence: Defence,
    messages: int,
    hits: NDArray[np.bool_],
    chance: dict[str, float],
    errors: Features,
    effort: Effort,
) -> Cell:
    low, high = proportion(int(hits.sum()), hits.size)
    is_control = defence == PLAIN
    return Cell(
        attack=THREAT.name,
        defence=defence.name,
        kind=Kind.CONTROL if is_control else Kind.REPORT,
        metric=f"share of steps whose state is identified, at most {STEPS} a person",
        value=float(hits.mean()),
        low=low,
        high=high,
        n=hits.size,
        view=str(View.COORDINATOR),
        bars=(Bar("low", at_least=TIMES_CHANCE * chance["uniform"]),) if is_control else (),
        nulls=chance,
        figures={
            "messages": float(messages),
            "median_error": float(np.median(errors)),  # 1: as far as the mean of all states
            "exact": float((errors < 0.01).mean()),
        },
        seeds=(effort.seed,),
    )
