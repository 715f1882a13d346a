"""The study that malicious sites are tried in: twelve sites balance poles of different lengths, by a round's moves.

A site's whole move is one vector, so the clip of the protocol is a norm bound on a site. (Where people are clipped one
by one, a site's bound is as many clips as it declares people.) No noise: what a bound does is measured without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.stats import trim_mean

from secure_frl.federation.simulated_patients import PatientSource
from secure_frl.study import Study
from secure_frl.study_file import parse_study
from threat_models.adversaries.byzantine import RIDERS, TARGET, TRIGGER, UPDATES
from threat_models.defences import MASKING, Defence, changed, digest_of
from threat_models.evaluation import Effort
from threat_models.evaluations.byzantine_people import FALSIFIED, POLE, Poles
from threat_models.evaluations.byzantine_rounds import Federation, Groups, Plot, Trained, groups_of, study_of_group
from threat_models.robust_rules import RULES
from threat_models.statistics import mean_interval

SITES, MALICIOUS = 12, 2  # f/n = 1/6: the most that anything is claimed for
GROUPED_SITES, GROUP = 15, 3  # five groups: more than twice two malicious sites
BOUND, NO_BOUND = 0.1, 2.0  # clips; the median site's move is about 0.2 long, and ten times that fits the wide one
NORM_BOUND = Defence("masking+norm-bound", MASKING.changes)  # the clip binds every site's move
GROUPS = Defence("masking+groups", MASKING.changes, clip=False)  # a sum a group, and a robust rule over them
REFERENCE: Mapping[str, Any] = {  # Any: TOML values
    "sites.max_colluders": 1,
    "sites.simulate_drop.before_masked": 0,
    "sites.simulate_drop.after_masked": 0,
    "data.environment": POLE,
    "data.observation": "features",
    "data.site_shift.kind": "none",
    "data.site_shift.strength": 0.0,
    "data.dataset_id": "",
    "data.lifetime_epsilon": 0.0,
    "data.max_steps": 100,
    "data.declared_units": 0,
    "policy.kind": "mlp",
    "policy.hidden": [16],
    "policy.critic": "none",
    "training.objective": "reinforce",
    "training.aggregation": "fedadam",
    "training.local_steps": 1,
    "training.epochs": 1,
    "training.episodes_per_site": 8,
    "training.discount": 0.99,
    "training.gae_lambda": 1.0,
    "training.entropy_weight": 0.0,
    "training.personalise": "none",
    "training.global.optimiser": "adam",
    "training.global.step_size": 0.1,
    "training.global.momentum": 0.9,
    "training.global.second_momentum": 0.99,
    "training.global.root_floor": 1e-3,
    "training.global.noise_corrected": False,
    "training.global.schedule": "constant",
    "training.local.optimiser": "sgd",
    "training.local.step_size": 1.0,
    "training.local.last_step": 1.0,
    "training.local.minibatch": 0,
    "training.local.max_gradient_norm": 0.0,
    "training.local.proximal": 0.0,
    "privacy.unit": "site",
    "privacy.relation": "add_or_remove_one",
    "privacy.noise": "unsafe-none",
    "privacy.delta": 1e-6,
    "privacy.clip_quantile": 0.0,
    "privacy.sampling_rate": 1.0,
    "privacy.max_rounds_per_person": 1,
    "privacy.max_sites_per_person": 1,
    "protection.method": "masking",
    "protection.profile": "cross_silo",
    "protection.threshold": 0,
    "protection.modulus_bits": 0,
    "output.tail_average": 1,
    "output.keep_policies": "last",
    "output.release": ["policy"],
    "output.evaluation_episodes": 2,
}
_PART = 4  # one in so many rounds, the last ones, is what returns are taken from


@dataclass(frozen=True, slots=True)
class Case:
    """One training: who is malicious, how, and behind what."""

    attack: str = ""  # a name of UPDATES, RIDERS or FALSIFIED; "" for none
    malicious: int = MALICIOUS
    is_bounded: bool = True  # whether the clip binds
    keeps_bound: bool = True  # whether malicious sites clip too
    rule: str = ""  # of groups; "" for one sum of all

    @property
    def sites(self) -> int:
        """Return how many sites there are."""
        return GROUPED_SITES if self.rule else SITES


@dataclass(frozen=True, slots=True)
class Outcome:
    """What honest sites' people got."""

    last: float  # mean return over the last quarter of the rounds
    whole: float  # over all rounds: how fast it was learned
    length: float  # mean length of a round's mean message, in clips
    triggered: float  # share of steps at which the policy takes the backdoor's action, the trigger put in
    untriggered: float  # the same, as the steps were


@dataclass(frozen=True, slots=True)
class Compared:
    """Attacked trainings beside clean ones of the same seeds."""

    relative: tuple[float, float, float]  # of last rounds' returns: interquartile mean; 95 % t-interval of the mean
    whole: float  # of all rounds' returns, mean
    clean: tuple[Outcome, ...]
    attacked: tuple[Outcome, ...]
    digest: str = ""  # of what protects the attacked trainings


def study_of(study: Study, case: Case, seed: int, rounds: int) -> Study:
    """Return the study of one training, on a user's study. Raises StudyRefused for what no study can become."""
    clip = BOUND if case.is_bounded else NO_BOUND
    sizes = {"sites.count": case.sites, "sites.min_survivors": case.sites - 1}
    own = {"training.rounds": rounds, "study.seed": seed, "privacy.clip_norm": clip}
    found: Study = changed(study, REFERENCE, sizes, own)
    return found


def rounds_of(effort: Effort) -> int:
    """Return how many rounds a training has."""
    return effort.trials(20, 15)


def train(reference: Study, case: Case) -> Outcome:
    """Run one training. reference: of `study_of`."""
    poles, seed = Poles(reference), reference.study.seed
    bad = tuple(range(case.sites - case.malicious, case.sites)) if case.attack else ()

    def people(site: int) -> PatientSource:
        source, false = poles.at(site), FALSIFIED.get(case.attack)
        return false(source, poles, site, seed) if false and site in bad else source

    formula = UPDATES.get(case.attack) or RIDERS.get(case.attack)
    plot = Plot(bad, formula, keeps_bound=case.keeps_bound)
    federation = Federation(reference, people, plot, _groups(case, seed))
    return _outcome(federation, federation.train(reference.training.rounds), bad)


def compared(study: Study, case: Case, effort: Effort, seeds: int) -> Compared:
    """Run a case and its clean twin on paired seeds."""
    rounds = rounds_of(effort)
    numbers = [effort.study_seed("byzantine", str(number)) for number in range(seeds)]
    twin_of = Case(is_bounded=False, malicious=0, rule="mean" if case.rule else "")
    clean = tuple(_once(json.dumps(study_of(study, twin_of, number, rounds).plain()), twin_of) for number in numbers)
    attacked = clean
    if case != twin_of:
        attacked = tuple(train(study_of(study, case, number, rounds), case) for number in numbers)
    ratios = [found.last / twin.last for found, twin in zip(attacked, clean, strict=True)]
    _, low, high = mean_interval(ratios)
    whole = float(np.mean([found.whole / twin.whole for found, twin in zip(attacked, clean, strict=True)]))
    reference = study_of(study, case, numbers[0], rounds)
    digest = digest_of(study_of_group(reference, GROUP) if case.rule else reference)
    return Compared((float(trim_mean(ratios, 0.25)), low, high), whole, clean, attacked, digest)


@lru_cache(maxsize=32)
def _once(reference: str, case: Case) -> Outcome:
    """Train, once a process: a clean training serves all that is compared with it. reference: the study in JSON."""
    return train(parse_study(json.loads(reference), source="a study under attack"), case)


def _groups(case: Case, seed: int) -> Groups | None:
    if not case.rule:
        return None
    order = np.random.default_rng([seed, 0x6209]).permutation(case.sites).tolist()
    members = groups_of(order, GROUP)
    countable = (len(members) - 1) // 2  # more bad ones than that no rule can count on
    return Groups(members, RULES[case.rule], min(case.malicious, countable))


def _outcome(federation: Federation, found: Trained, bad: tuple[int, ...]) -> Outcome:
    steps = [one.observations[one.steps] for site, one in federation.people.items() if site not in bad]
    seen = np.concatenate(steps)
    marked = seen.copy()
    marked[:, 0] = TRIGGER
    shares = [float((federation.acts(rows) == TARGET).mean()) for rows in (marked, seen)]
    last = float(np.mean(found.returns[-max(1, len(found.returns) // _PART) :]))
    return Outcome(last, float(np.mean(found.returns)), float(np.mean(found.lengths)), shares[0], shares[1])
