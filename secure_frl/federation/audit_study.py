"""An audit of one study: toss the canaries' coins, run the rounds, score, judge.

Coins come from the study's seed under a name of their own. An audit is a rehearsal by nature: it plants people, and
takes away every share of noise that the claim does not count on. It never opens what a study keeps.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.federation.audit_rounds import AuditFederation, AuditParts
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.accountant import covers_every_reader
from secure_frl.privacy.audit import CanaryScores
from secure_frl.privacy.audit_report import AuditReport, audited_release, judge
from secure_frl.privacy.canaries import Canaries
from secure_frl.privacy.events import GaussianSumEvent
from secure_frl.privacy.planning import planned_schedule, sum_constants
from secure_frl.privacy.sampling import poisson_sample
from secure_frl.privacy.unit import REPLACE_ONE, SITE
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import RandomSource
from secure_frl.study import Study

LEAST_CANARIES = 4000
USUAL_CANARIES = 8000  # enough to judge epsilon = 4 and above at delta = 1e-6
MOST_CANARIES = 1_000_000


def audit_study(study: Study, *, canaries: int = USUAL_CANARIES, parts: AuditParts | None = None) -> AuditReport:
    """Return what `canaries` or a few more, in whole sums, say about one noised sum of the study.

    parts: what honest sites are made of; a control of the audit replaces some.
    Raises InvalidParameter for a study without a claim, or too few canaries; CharterRefused, BitBudget as `plan` does.
    """
    if not LEAST_CANARIES <= canaries <= MOST_CANARIES:
        raise InvalidParameter(
            f"expected {LEAST_CANARIES} to {MOST_CANARIES} canaries, got {canaries}. Fewer show no fault worth finding."
        )
    constants = sum_constants(study)
    release = audited_release(planned_schedule(study, constants)[-1][0])  # of value iteration, a backup
    if not covers_every_reader(constants):
        raise InvalidParameter(
            f"expected a study that states an epsilon, got protection.method={constants.protection!r}: there is no "
            "claim to audit. Set protection.method to 'masking'."
        )
    made, constants = Canaries(release.blocks), replace(constants, blocks=release.blocks)
    with closing(AuditFederation(study, constants, made, release)) as federation:
        return _audited(study, canaries, parts or AuditParts(), made, release, federation)


def _audited(
    study: Study,
    canaries: int,
    parts: AuditParts,
    made: Canaries,
    release: GaussianSumEvent,
    federation: AuditFederation,
) -> AuditReport:
    deal = _Deal(made, release, federation.shares, rehearsal_source(study.study.seed, "audit sampling"))
    fitting = (
        federation.shares if release.unit == SITE else made.most_in_one_sum
    )  # one unit a site, or one a coordinate
    in_one_sum = min(fitting, made.most_in_one_sum, canaries)
    coins = rehearsal_source(study.study.seed, "audit coins")
    values, included = [], []
    for turn in range(math.ceil(canaries / in_one_sum)):
        coin = (coins.words(in_one_sum) & np.uint64(1)).astype(np.bool_)
        windows = [deal.window(coin, site) for site in range(federation.shares)]
        summed = federation.sum(turn, windows, parts)
        values.append(deal.shifts(made.scores(turn, summed, in_one_sum)))
        included.append(coin)
    norm = made.norm * deal.at_sites / release.max_sites_per_person
    return judge(CanaryScores(np.concatenate(values), np.concatenate(included)), release, norm)


@dataclass(frozen=True, slots=True)
class _Deal:
    """How canaries are dealt to the honest sites: round them in turn, each canary at M of them."""

    made: Canaries
    release: GaussianSumEvent
    sites: int
    chance: RandomSource  # of Poisson sampling; each site's own in a run

    @property
    def at_sites(self) -> int:
        return min(self.release.max_sites_per_person, self.sites)

    def window(self, coin: NDArray[np.bool_], site: int) -> Trajectories:
        """Return what one honest site holds.

        A canary whose coin says out is absent; where neighbours differ by a replaced unit, its opposite is there.
        """
        numbers = np.arange(coin.size, dtype=np.int64)
        is_here = (site - numbers) % self.sites < self.at_sites
        if self.release.relation != REPLACE_ONE:
            is_here &= coin
        numbers = numbers[is_here]
        drawn = poisson_sample(np.arange(numbers.size, dtype=np.int64), self.release.sampling_rate, self.chance)
        return self.made.window(numbers[drawn], np.where(coin, 1, -1).astype(np.float32)[is_here][drawn])

    def shifts(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return scores on the scale where a canary that is out has the mean 0, and one that is in the mean 1."""
        scores = scores / self.at_sites
        return (scores + 1) / 2 if self.release.relation == REPLACE_ONE else scores
