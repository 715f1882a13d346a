"""Clipped sums of per-person gradients beside the plain gradient of the same losses, in the same precision.

256 people of 16 steps, a network of 47-64-64-25, REINFORCE; about half of the people are clipped. Plain is one forward
and one backward pass over all of them, which protects nobody.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from figures import Figure, at_most, show
from ratios import median_ratio
from torch import Tensor, nn

from secure_frl.learning.forms import PolicyForm
from secure_frl.learning.layout import Segment
from secure_frl.learning.objectives.reinforce import CRITIC, Reinforce
from secure_frl.learning.policies import NetworkPolicy
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.chunks import CHUNK_UNITS
from secure_frl.privacy.clipping import clip_units
from secure_frl.privacy.gram_gradients import GramGradients
from secure_frl.privacy.message_gradients import MessageGradients
from secure_frl.secure_sum import Block

PEOPLE, STEPS, FEATURES, ACTIONS = 256, 16, 47, 25
BAR = 1.15
OBJECTIVE = Reinforce(1.0, 0.5, "none")
PUBLIC = {CRITIC: np.zeros(1)}


def people(shortest: int) -> Trajectories:
    """Return made-up people of `shortest` to 16 steps."""
    generator = np.random.default_rng(0)
    steps = np.arange(STEPS) < generator.integers(shortest, STEPS + 1, PEOPLE)[:, None]
    return Trajectories(
        observations=generator.normal(size=(PEOPLE, STEPS, FEATURES)).astype(np.float32),
        actions=generator.integers(0, ACTIONS, steps.shape),
        allowed=None,
        rewards=generator.normal(size=steps.shape).astype(np.float32),
        log_behaviour=None,
        steps=steps,
        terminated=np.ones(PEOPLE, dtype=np.bool_),
        final_observations=np.zeros((PEOPLE, FEATURES), dtype=np.float32),
        persons=np.arange(PEOPLE, dtype=np.uint64),
    )


def losses(policy: nn.Module, batch: Trajectories) -> Tensor:
    """Return one loss a person."""
    return OBJECTIVE.losses(policy, batch, OBJECTIVE.targets(policy, PUBLIC, batch))


class Bench:
    """A policy, its people, and the ways to a gradient."""

    def __init__(self, dtype: torch.dtype, shortest: int) -> None:
        """shortest: stay, in steps."""
        form = PolicyForm("mlp", (64, 64), None, 0, "none", features=FEATURES, actions=ACTIONS)
        assert form.network is not None
        self._policy = NetworkPolicy(form.network, None, "none", dtype=dtype)
        self._policy.load(form.arrays(form.first_vector()))
        self._segments: tuple[Segment, ...] = form.layout.segments
        self._people = people(shortest)
        self._batches = [
            self._people.select(np.arange(start, start + CHUNK_UNITS)) for start in range(0, PEOPLE, CHUNK_UNITS)
        ]
        self.gradients = self._one_at_a_time()
        clip_norm = float(np.median(np.linalg.norm(self.gradients, axis=1)))
        self._blocks = (Block("policy", 0, self.gradients.shape[1], clip_norm, 1.0),)

    def _one_at_a_time(self) -> np.ndarray:
        rows = []
        for row in range(PEOPLE):
            loss = losses(self._policy, self._people.select(np.array([row]))).sum()
            found = torch.autograd.grad(loss, list(self._policy.parameters()))
            rows.append(torch.cat([part.double().reshape(-1) for part in found]).numpy())
        return np.array(rows)

    def plain(self) -> None:
        """Differentiate the sum of all losses."""
        torch.autograd.grad(losses(self._policy, self._people).sum(), list(self._policy.parameters()))

    def by_gram(self) -> np.ndarray:
        """Return the clipped sum."""
        engine, vector = GramGradients(self._policy, self._segments), np.zeros(self.gradients.shape[1])
        for batch in self._batches:
            engine.backward(losses(self._policy, batch).sum())
            vector += engine.sum_clipped(batch.count, batch.count, self._blocks, np.zeros(batch.count))[0]
        engine.to_standard_module()
        return vector

    def by_opacus(self) -> np.ndarray:
        """Return the same through Opacus' hooks."""
        engine, vector = MessageGradients(self._policy, self._segments), np.zeros(self.gradients.shape[1])
        for batch in self._batches:
            engine.backward(losses(self._policy, batch).sum())
            vector += clip_units(engine.take(batch.count), self._blocks)[0]
        engine.to_standard_module()
        return vector

    def error(self) -> float:
        """Return the largest difference from autograd of one person at a time, over the largest value."""
        expected = clip_units(self.gradients.copy(), self._blocks)[0]
        return float(np.abs(self.by_gram() - expected).max() / np.abs(expected).max())


def figures(turns: int) -> Iterator[Figure]:
    """Yield the ratio of the engine to plain, and how far it is from autograd."""
    for name, dtype, shortest, bar in (
        ("", torch.float64, STEPS, BAR),
        (".up_to_16_steps", torch.float64, 4, BAR),
    ):
        bench = Bench(dtype, shortest)
        ratio, ours, plain = median_ratio(bench.by_gram, bench.plain, turns)
        hooks, _, _ = median_ratio(bench.by_opacus, bench.plain, max(3, turns // 4))
        show(f"gradients{name}: {1e3 * ours:.1f} ms, plain {1e3 * plain:.1f} ms at best; Opacus {hooks:.2f} x plain")
        yield at_most(f"private_gradient_over_plain{name}", ratio, bar, "x plain")
    yield at_most("gram_error.float64", Bench(torch.float64, 4).error() / 1e-10, 1, "x 1e-10")
    single = Bench(torch.float32, STEPS)
    ratio, _, _ = median_ratio(single.by_gram, single.plain, turns)
    show(f"gradients in float32: {ratio:.2f} x plain in float32; the sum is float64 whatever the policy is")
    yield at_most("gram_error.float32", single.error() / 1e-5, 1, "x 1e-5")
