"""Simulated hospitals that differ: ICU-Sepsis at one site. A public function of the study's seed and the site.

    case_mix         who comes and how ill they fare: first states re-weighted by their SOFA score, rows by the risk of
                     death and by where patients tend to go. strength is in deviations: 1 is a plain difference between
                     hospitals.
    practice_effect  in a part `strength` of the states with a choice the same order has another effect: a random cycle
                     over the admissible actions says which published action a site's action amounts to. Whoever acts
                     best acts otherwise at each site, and is worth as much.

Both are dynamics alone: what is admissible, and what the clinicians do, stays as published. Like the published tables
they are for the environment and for evaluation, never for a learner.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import (
    ACTIONS,
    LIVE_STATES,
    SAMPLERS_KEPT,
    STATES,
    IcuSepsis,
    IcuSepsisTables,
    admissible_actions,
    load_tables,
)

NONE, CASE_MIX, PRACTICE_EFFECT = "none", "case_mix", "practice_effect"
KINDS = (NONE, CASE_MIX, PRACTICE_EFFECT)
_DEATH = 713
_LABELS = {CASE_MIX: 1, PRACTICE_EFFECT: 2}  # beside seed and site, so that kinds never share draws
# Deviations of logarithms at strength 1.
_SEVERITY = 0.5  # of a first state's weight, for each deviation of SOFA
_RISK = 0.15  # of death, of a site and of each pair of state and action
_DRIFT = 0.1  # of each next state


@dataclass(frozen=True, slots=True, eq=False)
class SiteDynamics:
    """ICU-Sepsis at one site; every array is read-only."""

    tables: IcuSepsisTables  # the published ones unless the case mix differs
    effect: NDArray[np.int64] | None  # [716, 25]: the action of the tables that a site's action is; None: itself


@lru_cache(maxsize=SAMPLERS_KEPT)
def dynamics_at(kind: str, strength: float, seed: int, site: int) -> SiteDynamics:
    """Return the dynamics of a site, the same for everybody who asks.

    strength: 0 to 1 for practice_effect, a part of the states; 0 to 2 for case_mix. seed, site: at least 0.
    Raises InvalidParameter for another kind or strength.
    """
    most = {NONE: 0.0, CASE_MIX: 2.0, PRACTICE_EFFECT: 1.0}.get(kind, -1.0)
    if not 0 <= strength <= most or min(seed, site) < 0:
        raise InvalidParameter(
            f"expected a kind of {', '.join(KINDS)} and a strength from 0 to 1 (case_mix: 2, none: 0), got {kind!r} "
            f"and {strength}. Correct data.site_shift."
        )
    if not strength:
        return SiteDynamics(load_tables(), None)
    generator = np.random.default_rng([seed, site, _LABELS[kind]])
    if kind == PRACTICE_EFFECT:
        return SiteDynamics(load_tables(), _cycles(strength, generator))
    return SiteDynamics(_mixed(strength, generator), None)


def _cycles(part: float, generator: np.random.Generator) -> NDArray[np.int64]:
    admissible = admissible_actions()
    effect = np.tile(np.arange(ACTIONS, dtype=np.int64), (STATES, 1))
    with_choice = np.flatnonzero(admissible[:LIVE_STATES].sum(axis=1) > 1)
    for state in generator.permutation(with_choice)[: round(part * with_choice.size)]:
        order = generator.permutation(np.flatnonzero(admissible[state]))
        effect[state, order] = np.roll(order, 1)  # nobody keeps its own effect
    effect.setflags(write=False)
    return effect


def _mixed(strength: float, generator: np.random.Generator) -> IcuSepsisTables:
    tables = load_tables()
    sofa = tables.sofa[:LIVE_STATES]
    standard = np.zeros(STATES)
    standard[:LIVE_STATES] = (sofa - sofa.mean()) / sofa.std()
    initial = tables.initial * np.exp(strength * _SEVERITY * generator.normal() * standard)
    pairs = np.repeat(np.arange(tables.row_starts.size - 1), np.diff(tables.row_starts))
    towards = np.zeros(STATES)
    towards[:LIVE_STATES] = strength * _DRIFT * generator.normal(size=LIVE_STATES)
    risk = strength * _RISK * (generator.normal() + generator.normal(size=tables.row_starts.size - 1))
    weight = np.exp(towards[tables.next_states] + np.where(tables.next_states == _DEATH, risk[pairs], 0.0))
    probabilities = tables.probabilities * weight
    probabilities /= np.add.reduceat(probabilities, tables.row_starts[:-1])[pairs]
    initial /= initial.sum()
    for array in (initial, probabilities):
        array.setflags(write=False)
    return replace(tables, initial=initial, probabilities=probabilities)


class ShiftedIcuSepsis(IcuSepsis):
    """`count` patients of one site side by side; an Environment."""

    def __init__(self, count: int, max_steps: int, dynamics: SiteDynamics) -> None:
        """Raise InvalidParameter unless count >= 0 and max_steps >= 1."""
        super().__init__(count, max_steps, tables=dynamics.tables)
        self._effect = dynamics.effect

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Treat every patient once; an action has the effect that it has at this site. See Environment.step."""
        if self._effect is not None:
            actions = self._effect[self._states, actions]
        return super().step(actions)
