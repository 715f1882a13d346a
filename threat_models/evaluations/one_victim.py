"""What the attacks round the sum share: the study that they meet, one person a site, and the scoring of one victim."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from secure_frl.errors import SecureFrlError
from secure_frl.learning.settings import ICU_SEPSIS
from secure_frl.learning.trajectories import Trajectories
from secure_frl.study import Study
from threat_models.adversaries.state_scores import FILTER, SPAN, SPARSE
from threat_models.defences import Defence, changed, defended
from threat_models.evaluation import Effort
from threat_models.public import Public, typical_norm
from threat_models.reconstruction import Reconstructed, Trial, score
from threat_models.results import Bar, Cell, Kind
from threat_models.threat import Guess

VICTIM = 0  # the site that is named beforehand
FAMILY = (SPAN, FILTER, SPARSE)
METRIC = "share of the victim's states found"
REFERENCE: Mapping[str, Any] = {  # Any: TOML values
    "data.observation": "features",
    "policy.kind": "mlp",
    "policy.hidden": [64, 64],
    "policy.critic": "network",  # a baseline: without one a death leaves no gradient
    "training.objective": "reinforce",
    "training.gae_lambda": 1.0,
    "training.aggregation": "fedsgd",
    "training.episodes_per_site": 1,
    "training.global.step_size": 1e-9,  # every round meets the first policy, so that rounds are trials
    "training.global.momentum": 0.0,
    "output.evaluation_episodes": 2,
}
_PEOPLE_OF_PRIOR = 300
_LEVEL = 0.999  # of a violation, divided among the family


def why_not(study: Study) -> str:
    """Return why the reference cannot be built from a study, empty when it can."""
    return "" if study.data.environment == ICU_SEPSIS else "no table describes the states here"


def reference(study: Study, defence: Defence, rounds: int, seed: int) -> Study:
    """Return the study under attack, behind a defence."""
    made = changed(study, REFERENCE)
    run = {"training.rounds": rounds, "study.seed": seed}
    attacked: Study = defended(changed(made, run), defence, clip_norm=typical_norm(made))
    return attacked


class States:
    """Which numbered states people met, from the features that they showed."""

    def __init__(self, public: Public) -> None:
        """public: of the study under attack."""
        self._public = public
        self._number = {row.tobytes(): number for number, row in enumerate(public.codebook())}
        people = public.people(public.first_policy, _PEOPLE_OF_PRIOR, public.study.study.seed + 1)
        self.prior = np.mean([self.met(people, row) for row in range(people.count)], axis=0)

    def met(self, people: Trajectories, row: int) -> NDArray[np.bool_]:
        """Return which states one of these people met, bool [states]."""
        found = np.zeros(len(self._number), dtype=np.bool_)
        shown = people.observations[row][people.steps[row]]
        found[[self._number[one.tobytes()] for one in np.ascontiguousarray(shown)]] = True
        return found

    def others(self, count: int, seed: int) -> list[NDArray[np.bool_]]:
        """Return what so many people met who were in no round."""
        people = self._public.people(self._public.first_policy, count, seed)
        return [self.met(people, row) for row in range(count)]


def family(
    guess: Guess, met: Mapping[str, NDArray[np.bool_]], states: States, effort: Effort
) -> dict[str, list[Trial]]:
    """Return trials by method. met: what the victim met, by the guess's name without its method."""
    swapped = dict(zip(met, states.others(len(met), effort.seed + 1_000_003), strict=True))
    return {
        method: [Trial(guess[f"{method}/{name}"], met[name], swapped[name], states.prior) for name in met]
        for method in FAMILY
    }


def best(trials: Mapping[str, Sequence[Trial]], rng: np.random.Generator) -> tuple[str, dict[str, Reconstructed]]:
    """Return which of the family found most, and what each found."""
    found = {method: score(list(some), rng) for method, some in trials.items()}
    return max(found, key=lambda method: found[method].found[0]), found


def violation(found: Iterable[Reconstructed]) -> float:
    """Return the largest lower limit of an excess over the swapped cohort, 99.9 % over the whole family."""
    limits, each = [], 1 - (1 - _LEVEL) / len(FAMILY)
    for one in found:
        mean, low, _ = one.excess
        wider = t.ppf((1 + each) / 2, one.trials - 1) / t.ppf(0.975, one.trials - 1)
        limits.append(mean - (mean - low) * float(wider))
    return max(limits)


WINS = 0.95
LEAST_OF_FEW = 0.7  # what a control's mean must reach where the interval of three trials is as wide as everything
_MOST_OF_FEW = WINS / 2  # excess: the limit of three trials is below 0 also for an attack that finds all


def wins(effort: Effort) -> tuple[Bar, ...]:
    """Return what a control must reach."""
    if effort.quick:
        return Bar("high", at_least=WINS), Bar(at_least=LEAST_OF_FEW)
    return (Bar(at_least=WINS),)


def nothing(effort: Effort) -> tuple[Bar, ...]:
    """Return what a defence must keep: an excess within its interval of 0, and of few trials a small one."""
    within = Bar("excess_limit", at_most=0.0)
    return (within, Bar("excess", at_most=_MOST_OF_FEW)) if effort.quick else (within,)


def cell_of(
    attack: str,
    defence: Defence,
    kind: Kind,
    view: str,
    trials: Mapping[str, Sequence[Trial]],
    effort: Effort,
    bars: tuple[Bar, ...] = (),
    **more: Any,  # Any: further fields of a cell
) -> Cell:
    """Return a cell of the family's maximum."""
    method, found = best(trials, effort.rng(attack, defence.name, view, "ties"))
    top = found[method]
    figures = {f"found_by_{name}": one.found[0] for name, one in found.items()}
    figures |= {f"excess_by_{name}": one.excess[0] for name, one in found.items()}
    figures |= {"auc": top.area[0], "auc_low": top.area[1], "auc_high": top.area[2]}
    figures |= {"excess": top.excess[0], "excess_low": top.excess[1], "excess_high": top.excess[2]}
    figures |= {"excess_limit": violation(found.values()), **more.pop("figures", {})}
    value, low, high = top.found
    return Cell(
        attack=attack,
        defence=defence.name,
        kind=kind,
        metric=METRIC,
        value=value,
        low=low,
        high=high,
        n=top.trials,
        view=view,
        bars=bars,
        nulls=top.nulls,
        figures=figures,
        seeds=(effort.seed,),
        **more,
    )


def refused(
    attack: str,
    defence: Defence,
    view: str,
    refusals: Sequence[str],
    expected: type[SecureFrlError],
    asked: int,
    opened: int,
    effort: Effort,
    bars: tuple[Bar, ...] = (),
    **more: Any,
) -> Cell:
    """Return the cell of requests that honest sites refuse; one that opened is a failure. Any: fields of a cell.

    expected: the refusal that says what is wrong here. Nothing that opened is no refusal yet: as many as were asked
    must be there, every one by this name. A site that broke, one that refused something else, or a run in which nobody
    was asked, refused nothing. bars: beside these.
    """
    named = refusals.count(expected.__name__)
    share = opened / max(1, asked)
    counts = {"refusals": float(named), "other_endings": float(len(refusals) - named)}
    return Cell(
        attack=attack,
        defence=defence.name,
        kind=Kind.DEFENDED,
        metric="share of the requests that opened",
        value=share,
        low=share,
        high=share,
        n=asked,
        view=view,
        bars=(
            Bar("value", at_most=0.0),
            Bar("refusals", at_least=float(max(1, asked))),
            Bar("other_endings", at_most=0.0),
            *bars,
        ),
        figures={**counts, **more.pop("figures", {})},
        refusal=expected.__name__ if named and not opened else "",
        seeds=(effort.seed,),
        **more,
    )
