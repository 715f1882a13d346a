"""`plan --solve`: one of sigma, epsilon, rounds, sampling rate and patients, given the others. No torch.

Each candidate goes through the checks of a study and the accountant of the integer mechanism, so what is found can be
signed as it is. Epsilon rises with rounds and rate and falls with sigma; the noise against the clip falls with
patients: bisection finds the last value that fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from secure_frl.errors import CharterRefused, InvalidParameter
from secure_frl.privacy import accountant
from secure_frl.privacy.events import UNSAFE_NONE
from secure_frl.privacy.plan import Plan
from secure_frl.privacy.planning import constants_at, make_plan, noise_norm, planned_schedule, sum_constants
from secure_frl.privacy.round_shares import BEST_ROUNDS
from secure_frl.privacy.sensitivity import LARGEST_WINDOW
from secure_frl.study import Study

UNKNOWNS = ("epsilon", "sigma", "rounds", "sampling_rate", "patients")
LARGEST_ROUNDS = 10_000
_RATE_STEPS = 10_000  # a rate is a multiple of 1e-4, rounded down
_EPSILON_STEP = 1e-4  # an epsilon is rounded up to a multiple of this


@dataclass(frozen=True, slots=True)
class Solution:
    """The value that was asked for, the study that has it, and that study's plan."""

    unknown: str
    value: float
    study: Study
    plan: Plan

    def plain(self) -> dict[str, Any]:  # Any: JSON values
        """Return the plan's figures with what was solved beside them."""
        return {**self.plan.plain(), "solved": {"unknown": self.unknown, "value": self.value}}

    def sentence(self) -> str:
        """Return what was found, in words."""
        if self.unknown == "rounds" and self.study.sums_values:
            return f"solved: the recommended rounds, training.rounds = {self.value:g}: a value start and one backup"
        return f"solved: {_WORDS[self.unknown]} = {self.value:g}"


_WORDS = {
    "epsilon": "the epsilon that is spent, privacy.target_epsilon",
    "sigma": "the least noise multiplier",
    "rounds": "the most rounds, training.rounds",
    "sampling_rate": "the largest rate, privacy.sampling_rate",
    "patients": "the least declared units a site",
}


def solve(study: Study, unknown: str, *, sigma: float | None = None, largest_noise: float = 1.0) -> Solution:
    """Return the value of `unknown` that fits the rest of the study, with the plan that it gives.

    sigma: the noise multiplier, known. Needed for epsilon, rounds and sampling_rate; refused for sigma; for patients
    and for rounds of sums of values, which share one budget, None takes the one of privacy.target_epsilon.
    largest_noise: for patients, the L2 length of the noise in the mean gradient, in clips, that may not be exceeded.
    Raises InvalidParameter unless exactly one figure is unknown, CharterRefused for what cannot be reached.
    """
    if unknown not in UNKNOWNS:
        raise InvalidParameter(f"expected one of {UNKNOWNS} to solve for, got {unknown!r}. Ask for one of them.")
    if study.privacy.noise == UNSAFE_NONE:
        raise CharterRefused("expected noise to solve with, got noise = unsafe-none. Set privacy.noise.")
    if sigma is not None and not (math.isfinite(sigma) and sigma > 0):
        raise InvalidParameter(f"expected a noise multiplier above 0, got {sigma}. Correct --sigma.")
    if unknown == "sigma":
        if sigma is not None:
            raise InvalidParameter("expected one unknown figure, got sigma asked for and given. Leave --sigma out.")
        plan = make_plan(study)
        return Solution(unknown, plan.constants.noise_multiplier, study, plan)
    if unknown == "patients":
        return _patients(study, sigma, largest_noise)
    if unknown == "rounds" and study.sums_values:
        found = _with(study, "training", rounds=BEST_ROUNDS)  # any number costs the same, and one backup is best
        if sigma is not None and _spent(found, sigma) > study.privacy.target_epsilon:
            raise _beyond(found, sigma, "a value start with one backup")
        return Solution(unknown, BEST_ROUNDS, found, make_plan(found, sigma))
    if sigma is None:
        raise InvalidParameter(
            f"expected one unknown figure, got two, {unknown} and sigma. Give the noise multiplier with --sigma."
        )
    return {"epsilon": _epsilon, "rounds": _rounds, "sampling_rate": _rate}[unknown](study, sigma)


def _epsilon(study: Study, sigma: float) -> Solution:
    spent = _spent(study, sigma)
    if not math.isfinite(spent) or spent > 100:
        raise CharterRefused(f"expected an epsilon up to 100 at sigma = {sigma:g}, got none. Raise --sigma.")
    target = math.ceil(spent / _EPSILON_STEP) * _EPSILON_STEP
    found = _with(study, "privacy", target_epsilon=round(target, 6))
    return Solution("epsilon", spent, found, make_plan(found, sigma))


def _rounds(study: Study, sigma: float) -> Solution:
    limit = study.privacy.max_rounds_per_person

    def with_rounds(rounds: int) -> Study:
        # A person is in no more rounds than there are.
        few = _with(study, "privacy", max_rounds_per_person=min(limit, rounds))
        return _with(few, "training", rounds=rounds)

    most = _last(lambda rounds: _fits(with_rounds(rounds), sigma), LARGEST_ROUNDS, study.training.rounds)
    if most == 0:
        raise _beyond(with_rounds(1), sigma, "even one round")
    found = with_rounds(most)
    return Solution("rounds", most, found, make_plan(found, sigma))


def _rate(study: Study, sigma: float) -> Solution:
    if not study.is_logged:
        raise CharterRefused(
            "expected logged data to sample from, got fresh windows, which take every unit once. Set data.source, or "
            "solve for another figure."
        )

    def with_rate(steps: int) -> Study:
        return _with(study, "privacy", sampling_rate=steps / _RATE_STEPS)

    guess = max(1, int(study.privacy.sampling_rate * _RATE_STEPS))
    most = _last(lambda steps: _fits(with_rate(steps), sigma), _RATE_STEPS, guess)
    if most == 0:
        raise _beyond(with_rate(1), sigma, f"even a sampling rate of {1 / _RATE_STEPS:g}")
    found = with_rate(most)
    return Solution("sampling_rate", found.privacy.sampling_rate, found, make_plan(found, sigma))


def _patients(study: Study, sigma: float | None, largest_noise: float) -> Solution:
    if study.privacy.unit == "site":
        raise CharterRefused("expected people to count, got unit = site, of which each site is one. Solve for sigma.")
    if not largest_noise > 0:
        raise InvalidParameter(f"expected a length above 0, got {largest_noise}. Correct --noise-norm.")
    constants = sum_constants(study) if sigma is None else constants_at(study, sigma)
    if sigma is not None and _spent(study, sigma) > study.privacy.target_epsilon:
        raise _beyond(study, sigma, "any number of patients")

    def with_patients(count: int) -> Study:
        section, key = ("data", "declared_units") if study.is_logged else ("training", "episodes_per_site")
        return _with(study, section, **{key: count})

    # The noise multiplier does not depend on how many there are: epsilon is a promise to each of them.
    too_few = _last(lambda count: noise_norm(with_patients(count), constants) > largest_noise, LARGEST_WINDOW, 1)
    found = with_patients(too_few + 1)
    if too_few >= LARGEST_WINDOW or found.units_per_site > LARGEST_WINDOW:
        raise CharterRefused(
            f"expected at most {LARGEST_WINDOW} units a site, but the noise is still "
            f"{noise_norm(with_patients(LARGEST_WINDOW), constants):.3g} clips long with so many. Add sites, raise "
            "privacy.target_epsilon, send fewer values, or allow more with --noise-norm."
        )
    plan = make_plan(found, sigma)  # refuses a delta that so many people are too many for
    return Solution("patients", too_few + 1, found, plan)


def _spent(study: Study, sigma: float) -> float:
    return accountant.epsilon_of_schedule(planned_schedule(study, constants_at(study, sigma)))


def _fits(study: Study, sigma: float) -> bool:
    try:
        return _spent(study, sigma) <= study.privacy.target_epsilon
    except CharterRefused:  # for instance more declared people than delta allows
        return False


def _beyond(study: Study, sigma: float, what: str) -> CharterRefused:
    spent = _spent(study, sigma)  # a refusal of its own, if that is what stands in the way
    return CharterRefused(
        f"expected epsilon <= {study.privacy.target_epsilon:g} at sigma = {sigma:g}, but {what} spends {spent:.4g} at "
        f"delta {study.privacy.delta:g}. Raise --sigma or privacy.target_epsilon."
    )


def _last(holds: Callable[[int], bool], largest: int, guess: int) -> int:
    """Return the last of 1..largest for which `holds` is true, 0 if none: it is true up to somewhere, then false."""
    low, high = 0, largest + 1
    tried = guess
    while low < tried < high:  # away from the guess in doubling steps, until both sides are known
        if holds(tried):
            low, tried = tried, 2 * tried
        else:
            high, tried = tried, tried // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _with(study: Study, section: str, **changes: object) -> Study:
    part = getattr(study, section)
    return study.model_copy(update={section: part.model_copy(update=changes)})
