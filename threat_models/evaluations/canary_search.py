"""The canary search behind masks and, as its control, without them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from secure_frl.study import Study
from threat_models.adversaries.canary_search import THREAT, CanarySearch
from threat_models.defences import MASKING, NOTHING, PLAIN, Defence, changed, digest_of
from threat_models.evaluation import Effort, Task
from threat_models.laboratory import rehearse, view_of
from threat_models.public import public_of
from threat_models.results import Bar, Cell, Kind
from threat_models.statistics import proportion
from threat_models.threat import View

MOST_SITES = 40
FEW_PEOPLE = 16  # a site and round: what is searched for is a vector, whoever is in it
MEANING = (
    "Eight consecutive values of each site's own update, as ring words, integers, floats and text, in all frames that "
    "the coordinator received; and the correlation of each upload with the update behind it."
)


class CanarySearchEvaluation:
    """What the coordinator received, searched."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        return "" if study.sites.count <= MOST_SITES else f"measured with at most {MOST_SITES} sites"

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return the control and the masked run."""
        return tuple(
            Task(THREAT.name, (one.name,), f"canary_search, {one.name}", 3.0, partial(_measure, one), one == PLAIN)
            for one in (PLAIN, MASKING)
        )


def _measure(defence: Defence, study: Study, effort: Effort) -> Iterator[Cell]:
    changes: Mapping[str, Any] = {  # Any: TOML values
        "protection.method": defence.changes["protection.method"],
        **NOTHING,
        "training.rounds": effort.trials(3, 1),
        "training.episodes_per_site": min(FEW_PEOPLE, study.training.episodes_per_site),
        "output.evaluation_episodes": 2,
        "study.seed": effort.study_seed(THREAT.name),  # the same people in both
    }
    searched = changed(study, changes)
    public = public_of(searched)
    adversary = CanarySearch()
    adversary.prepare(public, effort.rng(THREAT.name))
    everybody = tuple(range(searched.sites.count))
    guess = adversary.run(view_of(rehearse(searched), View.COALITION, everybody))
    found, alike = guess["found"], guess["correlation"]
    low, high = proportion(int(found.sum()), max(1, found.size))
    bars: tuple[Bar, ...] = (Bar(at_most=0.0), Bar("correlation", at_most=5 / float(np.sqrt(public.length))))
    if defence == PLAIN:
        bars = (Bar(at_least=1.0), Bar("least_correlation", at_least=0.999))
    yield Cell(
        attack=THREAT.name,
        defence=defence.name,
        kind=Kind.CONTROL if defence == PLAIN else Kind.DEFENDED,
        metric="canaries found",
        value=float(found.mean()) if found.size else 0.0,
        low=low,
        high=high,
        n=int(found.size),
        view=str(View.COORDINATOR),
        bars=bars,
        nulls={"uniform": 0.0},
        figures={
            "correlation": float(alike.max()),
            "least_correlation": float(alike.min()),
            "uploads": float(alike.size),
        },
        sentence=MEANING,
        seeds=(effort.seed,),
        defence_digest=digest_of(searched),
    )
