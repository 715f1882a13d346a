"""An adversary of one's own, in one file: did the one patient whom a hospital treated this round die?

    python examples/attack_your_own_study/my_attack.py [STUDY]

It reads one number of an upload, the gradient of the value network's last bias. That is the sum of (value - return)
over a stay's steps: above zero exactly when the patient did worse than the network expected.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from secure_frl import Study, load_study
from threat_models.decoding import gradients, uploads
from threat_models.defences import CLIP, LOCAL_1, LOCAL_8, MASKING, PLAIN, Defence, changed, defended, digest_of
from threat_models.evaluation import Effort, Task
from threat_models.laboratory import rehearse, view_of
from threat_models.matrix import matrix_of
from threat_models.public import public_of, typical_norm
from threat_models.results import Bar, Cell, Kind
from threat_models.statistics import proportion
from threat_models.suite import attack
from threat_models.threat import CapturedView, Guess, PublicInfo, Threat, View

THREAT = Threat(
    id="MINE-1",
    name="who_died",
    title="whether the one patient of an upload died",
    views=frozenset({View.COORDINATOR}),
    given="the code and the charter",
    stronger="the same over all parameters, calibrated on simulated people",
    sources=("Phong et al. 2018, section 3: a bias's gradient is the sum of the errors",),
    stride="Information disclosure",
    linddun="Data disclosure",
    atlas="AML.T0024",
    nist="NISTAML.034",
)


class WhoDied:
    """The adversary: it sees a view and what everybody knows, nothing else."""

    def prepare(self, public: PublicInfo, rng: np.random.Generator) -> None:
        """Keep what is public."""
        self._public = public

    def run(self, view: CapturedView) -> Guess:
        """Return for each upload, under "round/site", how much worse than expected its patient did."""
        return {
            f"{number}/{site}": gradients(vector, self._public)["value.head.bias"]
            for (number, site), vector in uploads(view, self._public).items()
        }


class WhoDiedEvaluation:
    """The experiment: one patient a hospital and round, each protection in turn, guesses held against the truth."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        """Return why this does not apply to a study, empty when it does."""
        return "" if study.data.environment == "icu-sepsis" else "nobody dies here"

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        """Return one task a defence."""
        columns = (PLAIN, CLIP, MASKING, LOCAL_8, LOCAL_1)
        return tuple(
            Task(THREAT.name, (one.name,), f"who_died, {one.name}", 5.0, partial(_measure, one), one == PLAIN)
            for one in columns
        )


def _measure(defence: Defence, study: Study, effort: Effort) -> Iterator[Cell]:
    reference = changed(
        study,
        {
            "data.observation": "features",
            "policy.kind": "mlp",
            "policy.critic": "network",
            "training.objective": "reinforce",
            "training.aggregation": "fedsgd",
            "training.gae_lambda": 1.0,
            "training.episodes_per_site": 1,
            "training.rounds": effort.trials(30, 10),
            "training.global.step_size": 1e-9,  # each round meets the first policy, so that uploads are trials
            "study.seed": effort.study_seed(THREAT.name, defence.name),
        },
    )
    attacked = defended(reference, defence, clip_norm=typical_norm(reference))
    recording = rehearse(attacked)  # the real stack: books, keys, wire, capture
    adversary = WhoDied()
    adversary.prepare(public_of(attacked), effort.rng(THREAT.name))
    guess = adversary.run(view_of(recording, View.COORDINATOR))

    right, deaths = 0, 0
    for (number, site), people in recording.truth.trajectories.items():  # from here on: the scorer
        died = float(people.rewards.sum()) <= 0
        right += bool(guess[f"{number}/{site}"][0] > 0) == died
        deaths += died
    trials = len(recording.truth.trajectories)
    low, high = proportion(right, trials)
    usual = max(deaths, trials - deaths) / trials  # always guess what is more common
    is_read = defence in (PLAIN, CLIP)
    yield Cell(
        attack=THREAT.name,
        defence=defence.name,
        kind=Kind.CONTROL if defence == PLAIN else Kind.REPORT if is_read else Kind.DEFENDED,
        metric="guessed right",
        value=right / trials,
        low=low,
        high=high,
        n=trials,
        view=str(View.COORDINATOR),
        bars=(Bar(at_least=0.95),) if is_read else (Bar("low", at_most=usual),),
        nulls={"prior": usual},
        sentence="A clip changes lengths, not signs: it hides nothing." if defence == CLIP else "",
        defence_digest=digest_of(attacked),
    )


def main() -> int:
    """Attack a study with this adversary alone, and print its section of the matrix."""
    study = load_study(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/icu_sepsis/study.toml"))
    report = attack(study, evaluations=(WhoDiedEvaluation(),), effort=Effort(quick=True), jobs=1)
    console = Console()
    for part in matrix_of(report):
        console.print(part)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
