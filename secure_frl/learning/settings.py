"""What every party knows of a study's environment without data: spaces, public masks, and an exact value if there is
one. No torch; Gymnasium is imported only when a study names such an environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import StudyRefused
from secure_frl.learning.environment import Environment
from secure_frl.study import Study

ICU_SEPSIS = "icu-sepsis"
STATE, FEATURES = "state", "features"
_LONGEST_STAY = 400  # steps of a roll-out that stands for no limit: hardly a stay is longer


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """An environment as a policy meets it. Every array is read-only.

    Observations are numbers of states, int64, or vectors of features, float32. Without a public table of admissible
    actions, masks come with the observations, from the environment.
    """

    name: str
    states: int | None  # numbered states, those where an episode is over last; None for features
    features: int | None  # numbers of an observation; None for states
    actions: int
    admissible: NDArray[np.bool_] | None  # [states, actions], public; None: masks come with observations
    live_states: int  # states in which somebody acts; 0 for features
    make: Callable[[int, int], Environment]  # copies side by side, and the step that cuts an episode
    episode_limit: int | None  # steps, of the environment itself; used when a policy is scored
    # Of an environment whose states are all known: what each of them shows [states] or [states, D], what it allows
    # [states, actions], the exact value of a table of probabilities [states, actions], and the score of a value.
    shown: NDArray[np.int64] | NDArray[np.float32] | None = None
    shown_allowed: NDArray[np.bool_] | None = None
    value_of: Callable[[NDArray[np.float64]], float] | None = None
    gap_of: Callable[[float], float] | None = None


def setting_of(study: Study) -> Setting:
    """Return the setting of a study. Raises StudyRefused for an environment that no policy here can use."""
    return setting_named(study.data.environment, study.data.observation)


@cache
def setting_named(environment: str, observation: str) -> Setting:
    """Return the setting of an environment under its name in a study; see `setting_of`."""
    if environment == ICU_SEPSIS:
        return _icu_sepsis(observation)
    from secure_frl.learning.environments import gymnasium_named

    spaces = gymnasium_named.spaces_of(environment)
    shown = STATE if spaces.features is None else FEATURES
    if observation != shown:
        raise StudyRefused(
            f"data.observation: expected {shown!r}, which {environment} gives; found {observation!r}. "
            f"To mend it: write {shown!r}."
        )
    return Setting(
        name=environment,
        states=spaces.states,
        features=spaces.features,
        actions=spaces.actions,
        admissible=None,
        live_states=spaces.states or 0,
        make=partial(gymnasium_named.made, environment),
        episode_limit=spaces.limit,
    )


def public_table(environment: str, observation: str) -> NDArray[np.bool_] | None:
    """Return the public table of admissible actions, bool [states, actions]; None where masks come otherwise.

    It makes no environment, so whoever reads a released policy needs none.
    """
    if (environment, observation) != (ICU_SEPSIS, STATE):
        return None
    return _icu_sepsis(STATE).admissible


@cache
def _icu_sepsis(observation: str) -> Setting:
    from secure_frl.learning.environments.icu_sepsis import ACTIONS, LIVE_STATES, STATES, IcuSepsis, admissible_actions
    from secure_frl.learning.environments.icu_sepsis_features import IcuSepsisFeatures, state_features
    from secure_frl.learning.evaluation import exact_return, gap_of

    is_state = observation == STATE
    numbers = np.arange(STATES)
    numbers.setflags(write=False)
    return Setting(
        name=ICU_SEPSIS,
        states=STATES if is_state else None,
        features=None if is_state else state_features().shape[1],
        actions=ACTIONS,
        admissible=admissible_actions() if is_state else None,
        live_states=LIVE_STATES if is_state else 0,
        make=IcuSepsis if is_state else IcuSepsisFeatures,
        episode_limit=_LONGEST_STAY,
        shown=numbers if is_state else state_features(),
        shown_allowed=admissible_actions(),
        value_of=exact_return,
        gap_of=gap_of,
    )
