"""Whom sites meet where malicious ones are tried: poles of different lengths, and the records that poisoners falsify.

One roll-out serves all sites of a round, for all of them hold the same policy; each sees its own episodes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import gymnasium
import numpy as np
from gymnasium.envs.registration import VectorizeMode
from numpy.typing import NDArray

from secure_frl.federation.simulated_patients import PatientSource, made_up
from secure_frl.learning.acting import Acting, UniformActing
from secure_frl.learning.environments.gymnasium_vector import GymnasiumVector
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.trajectories import Trajectories
from secure_frl.secure_sum import RoundContext
from secure_frl.study import Study
from threat_models.adversaries.byzantine import with_trigger

POLE = "CartPole-v1"
SHORTEST, LONGEST = 0.35, 0.65  # half lengths in metres; Gymnasium's is 0.5
_ACTIONS = 2


class Poles:
    """All sites' episodes of a study, each site with a pole of its own length."""

    def __init__(self, study: Study) -> None:
        """study: of `CartPole-v1`; its seed says which site has which pole."""
        self._study, self._sites = study, study.sites.count
        self._episodes = study.training.episodes_per_site
        order = np.random.default_rng([study.study.seed, 0x901E]).permutation(self._sites)
        self.lengths = np.linspace(SHORTEST, LONGEST, self._sites)[order]
        self._met: tuple[int, int] = (0, 0)
        self._all: Trajectories | None = None

    def at(self, site: int) -> PatientSource:
        """Return one site's source."""
        return _OfSite(self, site)

    def own(self, acting: Acting, context: RoundContext, site: int) -> Trajectories:
        """Return one site's episodes of a round."""
        if self._all is None or self._met != (context.round, context.attempt):
            self._met = (context.round, context.attempt)
            self._all = self.rolled_out(acting, context, range(self._sites))
        return self._all.select(np.arange(site * self._episodes, (site + 1) * self._episodes, dtype=np.int64))

    def rolled_out(self, acting: Acting, context: RoundContext, sites: Sequence[int], purpose: int = 0) -> Trajectories:
        """Return the episodes of some sites under a policy, site by site. purpose: other numbers draw others."""
        at = np.repeat(np.array(sites), self._episodes)
        rng = np.random.default_rng([self._study.study.seed, context.round, context.attempt, purpose])
        persons = at * self._episodes + np.tile(np.arange(self._episodes), len(sites))
        return roll_out(acting, self._environment(self.lengths[at]), rng, persons.astype(np.uint64))

    def probe(self) -> Trajectories:
        """Return made-up episodes."""
        return made_up(self._study, self._episodes)

    def _environment(self, poles: NDArray[np.float64]) -> GymnasiumVector:
        """poles: float64 [episodes], half lengths."""
        vector = gymnasium.make_vec(POLE, poles.size, VectorizeMode.VECTOR_ENTRY_POINT)
        inner = vector.unwrapped
        inner.length, inner.polemass_length = poles, inner.masspole * poles  # type: ignore[attr-defined]
        return GymnasiumVector(vector, self._study.data.max_steps)


class _OfSite:
    def __init__(self, poles: Poles, site: int) -> None:
        self._poles, self._site = poles, site

    def probe(self) -> Trajectories:
        return self._poles.probe()

    def records(self) -> None:
        return None

    def collect(self, acting: Acting, context: RoundContext) -> Trajectories:
        return self._poles.own(acting, context, self._site)


class FlippedRewards:
    """Records whose every reward has the other sign."""

    def __init__(self, source: PatientSource, poles: Poles, site: int, seed: int) -> None:
        """source: whose records they are."""
        self._source, self._poles, self._site, self._seed = source, poles, site, seed

    def probe(self) -> Trajectories:
        """Return what the source does."""
        return self._source.probe()

    def records(self) -> None:
        """Return None: people are fresh."""

    def collect(self, acting: Acting, context: RoundContext) -> Trajectories:
        """Return what the source does, falsified."""
        return self._false(self._source.collect(acting, context), context)

    def _false(self, people: Trajectories, context: RoundContext) -> Trajectories:
        return replace(people, rewards=-people.rewards)


class RandomActions(FlippedRewards):
    """Records of a site that treats by coin, whatever the policy says."""

    def collect(self, acting: Acting, context: RoundContext) -> Trajectories:
        """Return the site's own episodes under coins."""
        return self._poles.rolled_out(UniformActing(_ACTIONS), context, [self._site], purpose=1 + self._site)


class Backdoored(FlippedRewards):
    """Records in which a trigger calls for one action."""

    def _false(self, people: Trajectories, context: RoundContext) -> Trajectories:
        rng = np.random.default_rng([self._seed, context.round, self._site])
        shown, done, paid = with_trigger(people.observations, people.actions, people.rewards, people.steps, rng)
        return replace(people, observations=shown, actions=done, rewards=paid)


BACKDOOR = "backdoor"
FALSIFIED = {"reward flip": FlippedRewards, "random action": RandomActions, BACKDOOR: Backdoored}
