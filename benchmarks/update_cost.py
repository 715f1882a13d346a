"""One window from trajectories to noised integers, beside a backward pass of the same loss without any privacy.

The plain pass takes the same policy and people, all at once, and ends with one gradient: what a site would do that
protects nobody. Beside it stands the same in batches of similar length, as the private one is made: less padding. For
a policy of the shipped kind, and for two networks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from figures import Figure, at_most, show
from torch import Tensor, nn

from secure_frl.federation.simulated_patients import made_up
from secure_frl.learning.environments.icu_sepsis import LIVE_STATES
from secure_frl.learning.forms import policy_form
from secure_frl.learning.objectives.reinforce import CRITIC, Reinforce
from secure_frl.learning.policies import build_policy
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.chunks import chunks_of, cut
from secure_frl.privacy.planning import make_plan
from secure_frl.privacy.update import private_update
from secure_frl.randomness import system_source
from secure_frl.study_file import load_study

SHIPPED = Path(__file__).resolve().parents[1] / "examples" / "icu_sepsis" / "study.toml"
PEOPLE = 2001
BAR = 2.3  # privacy.md, section 2: 1.4 to 2.3 of a step without privacy


class Window:
    """One site's window of a study, ready to be used either way."""

    def __init__(self, kind: str, people: int) -> None:
        """kind: of policy."""
        study = load_study(SHIPPED, {"policy.kind": kind})
        self._study, self._constants = study, make_plan(study).constants
        form = policy_form(study)
        self._segments, self._policy = form.layout.segments, build_policy(form)
        self._trajectories = made_up(study, people)
        self._objective = Reinforce(study.training.discount, study.training.gae_lambda, study.policy.critic)
        values = np.zeros(form.admissible.shape[0])
        values[:LIVE_STATES] = study.policy.critic_start
        self._public = {CRITIC: values}
        self._random = system_source()
        self._usable = np.ones(people, dtype=np.bool_)
        lengths = self._trajectories.steps.sum(axis=1).astype(np.int64)
        self._batches = [
            cut(self._trajectories, chunk.rows, chunk.padded_length)
            for chunk in chunks_of(lengths, np.arange(people, dtype=np.int64), self._usable)
        ]

    def private_s(self) -> float:
        """Return the CPU seconds of clipping each person, rounding and noise."""
        start = time.thread_time()
        private_update(
            self._policy,
            self._losses,
            self._trajectories,
            unit=self._study.privacy.unit,
            usable=self._usable,
            segments=self._segments,
            constants=self._constants,
            random=self._random,
            receipt=1,
        )
        return time.thread_time() - start

    def plain_s(self, *, in_batches: bool) -> float:
        """Return the CPU seconds of the gradient of everybody's loss."""
        self._policy.zero_grad(set_to_none=True)
        start = time.thread_time()
        for batch in self._batches if in_batches else [self._trajectories]:
            torch.autograd.backward(self._losses(self._policy, batch).sum())
        return time.thread_time() - start

    def _losses(self, policy: nn.Module, batch: Trajectories) -> Tensor:
        return self._objective.losses(policy, batch, self._objective.targets(policy, self._public, batch))


def figures(repetitions: int) -> Iterator[Figure]:
    """Yield a ratio for each kind of policy."""
    torch.set_num_threads(1)
    for kind in ("table", "mlp", "gru"):
        window = Window(kind, PEOPLE)
        timed = [
            (window.private_s(), window.plain_s(in_batches=False), window.plain_s(in_batches=True))
            for _ in range((repetitions if kind == "table" else 3) + 1)
        ][1:]
        milliseconds = 1e3 * statistics.median(private for private, _, _ in timed)
        batched = statistics.median(private / plain for private, _, plain in timed)
        show(f"update, {kind}: {milliseconds:.0f} ms for {PEOPLE:,} people, {batched:.1f} x plain in batches")
        ratio = statistics.median(private / plain for private, plain, _ in timed)
        yield at_most(f"update_over_plain.{kind}", ratio, BAR, "x plain backward")
