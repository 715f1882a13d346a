"""Simulated patients of one site: fresh people for every window, named by a keyed hash that never leaves the site.

The study's seed governs them, with site, round and attempt, so an attempt never meets the people of another window.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Protocol

import numpy as np

from secure_frl.learning.acting import Acting, TableActing, UniformActing
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.settings import Setting, setting_of
from secure_frl.learning.site_settings import setting_at
from secure_frl.learning.trajectories import Trajectories
from secure_frl.randomness import CipherStream
from secure_frl.secure_sum import RoundContext, SiteId
from secure_frl.study import Study
from secure_frl.wire.hashing import labelled_hash, lp


class PatientSource(Protocol):
    """Where a site's trajectories come from. It lives and stays at the site."""

    def probe(self) -> Trajectories:
        """Return a few trajectories of the same kind, for the checks before a site joins; never part of a window."""
        ...

    def records(self) -> Trajectories | None:
        """Return what the site holds already and every round meets again; None when each window has fresh people."""
        ...

    def collect(self, acting: Acting, context: RoundContext) -> Trajectories:
        """Return what one window may use: fresh people treated by the policy that acts so, or the site's records.

        Never raises because of data.
        """
        ...


class SimulatedPatients:
    """Fresh simulated people for every window of one site."""

    def __init__(self, study: Study, site: SiteId, person_key: bytes) -> None:
        """person_key: 32 bytes that stay at the site; whoever has them could link persons to windows."""
        self._study = study
        self._site = site
        self._person_key = person_key
        self._setting = setting_at(study, int(site))
        self._environment = self._setting.make(study.training.episodes_per_site, study.data.max_steps)

    def __repr__(self) -> str:
        return f"SimulatedPatients(site={self._site})"

    def probe(self) -> Trajectories:
        """Roll out people of round 0, which no study asks for, under the uniform policy."""
        return self._roll_out(_uniform(self._setting), round_number=0, attempt=0)

    def records(self) -> None:
        """Return None: nobody is here before a window opens."""
        return None

    def collect(self, acting: Acting, context: RoundContext) -> Trajectories:
        """Roll out one person a slot."""
        return self._roll_out(acting, context.round, context.attempt)

    def _roll_out(self, acting: Acting, round_number: int, attempt: int) -> Trajectories:
        seed, dataset = self._study.study.seed, self._study.data.dataset_id
        window = ("window", dataset, seed, int(self._site), round_number, attempt)
        rollout_seed = np.frombuffer(labelled_hash("rollout-seed", *window), dtype="<u4").astype(np.uint32)
        names = CipherStream(hmac.digest(self._person_key, lp(*window), hashlib.sha256), is_rehearsal=False)
        persons = names.words(self._environment.count)
        return roll_out(acting, self._environment, np.random.default_rng(rollout_seed), persons)


def made_up(study: Study, count: int) -> Trajectories:
    """Return `count` trajectories of nobody, under the uniform policy; the same at every site."""
    setting = setting_of(study)
    environment = setting.make(count, study.data.max_steps)
    return roll_out(_uniform(setting), environment, np.random.default_rng(0), np.arange(count, dtype=np.uint64))


def _uniform(setting: Setting) -> Acting:
    if setting.admissible is None:
        return UniformActing(setting.actions)
    admissible = setting.admissible.astype(np.float64)
    return TableActing(admissible / admissible.sum(axis=1, keepdims=True))
