"""Faults at honest sites that an audit must find: each is what a mistake in a line of code would do.

Nothing touches a report: a site clips, draws and sends as always, from constants or a window that are not right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from secure_frl.federation.audit_rounds import AuditParts
from secure_frl.learning.trajectories import Trajectories
from secure_frl.secure_sum import SumConstants
from secure_frl.study import Study

HALVED, DOUBLED, DIVIDED, MISSING = (
    "halved noise",
    "doubled contribution",
    "noise divided by the batch",
    "half of the shares missing",
)


def audit_faults(study: Study) -> Mapping[str, AuditParts]:
    """Return what honest sites of a study are made of under each fault, by name.

    A study whose batch is one unit has no noise that dividing by it changes: that fault is left out.
    """
    batch = study.training.episodes_per_site
    found = {HALVED: _divided(2), DOUBLED: AuditParts(window=_twice), MISSING: AuditParts(constants_at=_half_silent)}
    return found if batch == 1 else {**found, DIVIDED: _divided(batch)}


def _divided(by: int) -> AuditParts:
    def divided(rank: int, constants: SumConstants) -> SumConstants:
        return replace(constants, integer_noise_scale=max(1, constants.integer_noise_scale // by))

    return AuditParts(constants_at=divided)


def _half_silent(rank: int, constants: SumConstants) -> SumConstants:
    is_silent = rank < max(1, constants.honest_shares // 2)
    return replace(constants, noise="unsafe-none") if is_silent else constants


def _twice(window: Trajectories) -> Trajectories:
    """Return every unit again under another number: what a list that was joined with itself does."""
    both = window.select(np.tile(np.arange(window.count), 2))
    second = np.repeat(np.array([0, 1], dtype=np.uint64), window.count) << np.uint64(32)
    return replace(both, persons=both.persons + second)
