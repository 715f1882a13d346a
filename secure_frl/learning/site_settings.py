"""The setting of each simulated site of a study: where hospitals differ, so do what patients do and what is best."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

from secure_frl.learning.environment import Environment
from secure_frl.learning.environments.icu_sepsis_features import IcuSepsisFeatures
from secure_frl.learning.environments.site_shift import NONE, ShiftedIcuSepsis, SiteDynamics, dynamics_at
from secure_frl.learning.evaluation import ExactValues, exact_values
from secure_frl.learning.settings import ICU_SEPSIS, STATE, Setting, setting_named, setting_of
from secure_frl.study import Study


def sites_differ(study: Study) -> bool:
    """Return whether the study's simulated hospitals differ by more than chance."""
    return study.data.site_shift.kind != NONE


def dynamics_of(study: Study, site: int) -> SiteDynamics | None:
    """Return ICU-Sepsis as it is at one site; None for records and other environments. For evaluation only."""
    if study.is_logged or study.data.environment != ICU_SEPSIS:
        return None
    shift = study.data.site_shift
    return dynamics_at(shift.kind, shift.strength, *((study.study.seed, site) if sites_differ(study) else (0, 0)))


def exact_at(study: Study, site: int) -> ExactValues | None:
    """Return the solved site, None where nothing is known exactly."""
    dynamics = dynamics_of(study, site)
    return None if dynamics is None else exact_values(dynamics)


def setting_at(study: Study, site: int) -> Setting:
    """Return the setting of a site: `setting_of` the study unless sites differ. Raises StudyRefused as that does."""
    if not sites_differ(study):
        return setting_of(study)
    shift = study.data.site_shift
    return _shifted(study.data.environment, study.data.observation, shift.kind, shift.strength, study.study.seed, site)


@cache
def _shifted(environment: str, observation: str, kind: str, strength: float, seed: int, site: int) -> Setting:
    where = (kind, strength, seed, site)
    return replace(
        setting_named(environment, observation),
        make=partial(_made, observation, where),
        value_of=lambda probabilities: exact_values(dynamics_at(*where)).mean_return(probabilities),
        gap_of=lambda value: exact_values(dynamics_at(*where)).gap_of(value),
    )


def _made(observation: str, where: tuple[str, float, int, int], count: int, max_steps: int) -> Environment:
    below = ShiftedIcuSepsis(count, max_steps, dynamics_at(*where))
    return below if observation == STATE else IcuSepsisFeatures(count, max_steps, below)
