"""Simulated patients of one site: fresh people for every window, named by a keyed hash that never leaves the site.

The study's seed governs them, with site, round and attempt, so an attempt never meets the people of another window.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from secure_frl.learning.environments.icu_sepsis import IcuSepsis
from secure_frl.learning.rollout import roll_out_table
from secure_frl.learning.trajectories import Trajectories
from secure_frl.randomness import CipherStream
from secure_frl.secure_sum import RoundContext, SiteId
from secure_frl.study import Study
from secure_frl.wire.hashing import labelled_hash, lp

# Where a window's trajectories come from: (how the policy acts, which window) -> trajectories.
Collect = Callable[[NDArray[np.float64], RoundContext], Trajectories]


def simulated_patients(study: Study, site: SiteId, person_key: bytes) -> Collect:
    """Return the source of one simulated site's trajectories.

    person_key: 32 bytes that stay at the site; whoever has them could link persons to windows.
    """
    environment = IcuSepsis(study.training.episodes_per_site, study.data.max_steps)

    def collect(probabilities: NDArray[np.float64], context: RoundContext) -> Trajectories:
        window = ("window", study.data.dataset_id, study.study.seed, int(site), context.round, context.attempt)
        seed = np.frombuffer(labelled_hash("rollout-seed", *window), dtype="<u4").astype(np.uint32)
        names = CipherStream(hmac.digest(person_key, lp(*window), hashlib.sha256), is_rehearsal=False)
        generator = np.random.default_rng(seed)
        return roll_out_table(probabilities, environment, generator, names.words(environment.count))

    return collect
