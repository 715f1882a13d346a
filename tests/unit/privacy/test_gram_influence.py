"""How far one unit moves a sum by Gram matrices, and that nobody's company changes a bit of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from clipped_sums import clipped_sum
from gram_policies import batch, losses, made, segments_of
from numpy.typing import NDArray
from torch import nn
from update_windows import constants

from secure_frl.learning.layout import Layout, Segment
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy import gram_gradients, gram_layers
from secure_frl.privacy.clipping import ClippedSum, clip_units
from secure_frl.privacy.gram_gradients import GramGradients, is_offered
from secure_frl.privacy.gram_layers import Layer
from secure_frl.secure_sum import Block

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]


class Net(nn.Module):
    """Wide enough for Gram matrices at the steps used here."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(12, 32, dtype=torch.float64)
        self.head = nn.Linear(32, 16, dtype=torch.float64)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.head(torch.tanh(self.hidden(features)))
        return outputs


def net() -> Net:
    torch.manual_seed(1)
    return Net()


def net_losses(policy: nn.Module, people: Trajectories) -> torch.Tensor:
    chosen = policy(torch.from_numpy(people.observations.astype(np.float64)))
    taken = torch.log_softmax(chosen, -1).gather(-1, torch.from_numpy(people.actions)[..., None])[..., 0]
    size = torch.from_numpy(np.where(people.steps, people.rewards, 0).astype(np.float64))
    return -(taken * size).sum(dim=1)


def people(count: int, steps: int, seed: int = 0) -> Trajectories:
    generator = np.random.default_rng(seed)
    return Trajectories(
        observations=generator.normal(size=(count, steps, 12)).astype(np.float32),
        actions=generator.integers(0, 16, (count, steps)),
        allowed=None,
        rewards=generator.normal(0, 3, (count, steps)).astype(np.float32),
        log_behaviour=None,
        steps=np.ones((count, steps), dtype=np.bool_),
        terminated=np.ones(count, dtype=np.bool_),
        final_observations=np.zeros((count, 12), dtype=np.float32),
        persons=np.arange(count, dtype=np.uint64),
    )


def message(everyone: Trajectories, unit: str = "patient", policy: nn.Module | None = None) -> ClippedSum:
    policy = policy or net()
    named = dict(policy.named_parameters()).items()
    layout = Layout(tuple(Segment("policy", name, np.arange(w.numel(), dtype=np.int64)) for name, w in named))
    assert is_offered(policy, layout.segments)
    return clipped_sum(
        policy,
        net_losses,
        everyone,
        unit=unit,
        segments=layout.segments,
        constants=constants(layout, blocks=layout.blocks(0.4, 1.0, 0.15)),
    )


def count_own(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets how many units' own gradients are made, at each call."""
    calls: list[int] = []
    own = GramGradients._own

    def counted(self: GramGradients, layers: Sequence[Layer], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        calls.append(rows.size)
        return own(self, layers, rows)

    monkeypatch.setattr(GramGradients, "_own", counted)
    return calls


def test_one_of_ten_thousand_aligned_units_moves_the_message_by_one() -> None:
    one = people(1, 2)
    everyone = dataclasses.replace(one.select(np.zeros(10_000, dtype=np.int64)), persons=np.arange(10_000, dtype="u8"))

    moved = np.linalg.norm(message(everyone).vector - message(everyone.select(np.arange(9_999))).vector)

    assert 0.999 < moved <= 1 + 1e-6


def cancelling(everyone: Trajectories, size: float, count: int) -> Trajectories:
    """First and last step of the last `count` are the same but for a sign: two long parts that cancel."""
    fields = {name: getattr(everyone, name).copy() for name in ("observations", "actions", "rewards")}
    for name in ("observations", "actions"):
        fields[name][-count:, -1] = fields[name][-count:, 0]
    fields["rewards"][-count:, 0], fields["rewards"][-count:, -1] = size, -size
    return dataclasses.replace(everyone, **fields)


def test_units_whose_parts_cancel_do_not_let_others_move_the_message_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everyone = cancelling(people(128, 4), 1e14, 120)

    def worst() -> float:
        whole = message(everyone).vector
        others = [np.delete(np.arange(128), left_out) for left_out in range(8)]
        return max(float(np.linalg.norm(whole - message(everyone.select(o)).vector)) for o in others)

    calls = count_own(monkeypatch)
    assert worst() <= 1 + 1e-6
    assert set(calls) == {120}
    # The control: added up with everybody's, their parts leave a rounding behind that depends on who is there.
    monkeypatch.setattr(gram_gradients, "LARGEST_CANCELLATION", np.inf)
    monkeypatch.setattr(gram_layers, "UNIT_ROUNDOFF", 0.0)
    assert worst() > 1 + 1e-6


def test_a_units_bits_are_the_same_whoever_is_beside_it() -> None:
    everyone = people(140, 3)

    def beside(company: NDArray[np.int64]) -> NDArray[np.float64]:
        rows = np.r_[company, 60]
        silent = np.where(np.arange(rows.size) < company.size, np.nan, 1.0).astype(np.float32)[:, None]
        some = everyone.select(rows)
        return message(dataclasses.replace(some, rewards=some.rewards * silent)).vector

    alone, others = beside(np.zeros(0, dtype=np.int64)), np.delete(np.arange(140), 60)
    assert alone.any()
    for company in (others, others[::-1], others[:1], others[:67], others[5:128]):
        assert np.array_equal(beside(company), alone)


def test_a_units_length_has_the_same_bits_whoever_is_beside_it() -> None:
    """Of units that do contribute: what others are changes the order of the sum, never a unit's weight."""
    policy, found = made(width=48), []
    for seed in (1, 2, 3):
        some, other = batch(128, 4, 0), batch(128, 4, seed)
        for name in ("features", "states", "actions", "sizes"):
            getattr(some, name)[1:] = getattr(other, name)[1:]
        engine = GramGradients(policy, segments_of(policy))
        engine.backward(losses(policy, some).sum())
        found.append([layer.lengths(128)[0][0] for layer in engine._taken(128)])
        engine.to_standard_module()

    assert len(found[0]) == 5
    assert found[0] == found[1] == found[2]


def test_all_trajectories_of_a_person_are_one_unit() -> None:
    everyone = dataclasses.replace(people(30, 3), persons=np.arange(30, dtype=np.uint64) % 11)
    policy = net()

    found = message(everyone, policy=policy).vector

    own = []
    for row in range(30):
        loss = net_losses(policy, everyone.select(np.array([row]))).sum()
        own.append(
            np.concatenate([g.reshape(-1).numpy() for g in torch.autograd.grad(loss, list(policy.parameters()))])
        )
    whole = np.zeros((11, len(own[0])))
    np.add.at(whole, np.arange(30) % 11, np.array(own))
    block = Block("policy", 0, whole.shape[1], 0.4, 1.0)
    assert found == pytest.approx(clip_units(whole, (block,))[0], rel=1e-10, abs=1e-12)
    assert np.linalg.norm(message(everyone, "site").vector) <= 1 + 1e-9


def test_episodes_too_long_for_the_bound_are_added_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    everyone = people(9, 3)
    expected = message(everyone).vector
    monkeypatch.setattr(gram_gradients, "LONGEST_STEPS", 2)
    calls = count_own(monkeypatch)

    assert message(everyone).vector == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert sum(calls) == 9
