"""Clipped sums by Gram matrices, against Opacus' samplers and against autograd of one trajectory at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from opacus.layers import DPGRU
from torch import nn
from update_windows import constants

from secure_frl.errors import InvalidParameter, UnexpectedState
from secure_frl.learning.layout import Layout, Segment
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy import gram_gradients, gram_layers
from secure_frl.privacy.clipping import ClippedSum, clip_units
from secure_frl.privacy.gram_gradients import GramGradients, is_offered
from secure_frl.privacy.gram_layers import Layer
from secure_frl.privacy.message_gradients import MessageGradients
from secure_frl.privacy.update import clipped_sum
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import Block

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]

FEATURES, STATES, ACTIONS = 5, 7, 3
SENT = np.array([0, 4, 5, 6, 7, 8, 20, 27], dtype=np.int64)  # of the embedding's 28 coordinates


class Mixed(nn.Module):
    """Features and states enter one network; a second one stands beside it."""

    def __init__(self, width: int = 4, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, width, dtype=dtype)
        self.embedding = nn.Embedding(STATES, 4, dtype=dtype)
        self.deep = nn.Linear(width + 4, width, bias=False, dtype=dtype)
        self.head = nn.Linear(width, ACTIONS, dtype=dtype)
        self.value = nn.Linear(width, 1, dtype=dtype)

    def hidden_of(self, features: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        entered = torch.cat([torch.tanh(self.first(features)), self.embedding(states)], dim=-1)
        return torch.tanh(self.deep(entered))

    def value_of(self, features: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.value(self.hidden_of(features, states))
        return values[..., 0]

    def forward(self, features: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.hidden_of(features, states)
        return torch.log_softmax(self.head(hidden), dim=-1), self.value(hidden)[..., 0]


@dataclasses.dataclass
class Batch:
    features: torch.Tensor
    states: torch.Tensor
    actions: torch.Tensor
    sizes: torch.Tensor  # of each step's part; 0 where no step exists

    def rows(self, which: slice) -> Batch:
        return Batch(self.features[which], self.states[which], self.actions[which], self.sizes[which])


def batch(rows: int, steps: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    drawn = torch.Generator().manual_seed(seed)
    exists = torch.arange(steps) < torch.randint(1, steps + 1, (rows, 1), generator=drawn)
    spread = 10 ** (2 * torch.rand(rows, 1, generator=drawn, dtype=dtype) - 1)  # short and long gradients
    return Batch(
        torch.randn(rows, steps, FEATURES, generator=drawn, dtype=dtype),
        torch.randint(0, STATES, (rows, steps), generator=drawn),
        torch.randint(0, ACTIONS, (rows, steps), generator=drawn),
        torch.randn(rows, steps, generator=drawn, dtype=dtype) * exists * spread,
    )


def losses(policy: Mixed, some: Batch) -> torch.Tensor:
    """What lies beyond makes a second pass through all layers but the head, as bootstrapped values do."""
    log_probabilities, values = policy(some.features, some.states)
    taken = log_probabilities.gather(-1, some.actions[..., None])[..., 0]
    beyond = policy.value_of(some.features[:, :1].flip(-1), some.states[:, :1])
    found: torch.Tensor = ((taken + values**2) * some.sizes).sum(1) + (beyond * some.sizes[:, :1]).sum(1)
    return found


def segments_of(policy: nn.Module) -> tuple[Segment, ...]:
    """Policy and value in blocks of their own, the embedding in part."""
    whole = {name: np.arange(weight.numel(), dtype=np.int64) for name, weight in policy.named_parameters()}
    whole["embedding.weight"] = SENT
    return tuple(Segment("critic" if name.startswith("value") else "policy", name, c) for name, c in whole.items())


def blocks_of(segments: tuple[Segment, ...], clip_norm: float = 2.0) -> tuple[Block, ...]:
    critic = sum(s.coordinates.size for s in segments if s.block == "critic")
    length = sum(s.coordinates.size for s in segments)
    start = length - critic
    return Block("policy", 0, start, clip_norm, 0.8), Block("critic", start, length, clip_norm / 2, 0.2)


def made(dtype: torch.dtype = torch.float64, width: int = 4) -> Mixed:
    torch.manual_seed(3)
    return Mixed(width, dtype)


def by_gram(policy: Mixed, some: Batch, units: int | None = None) -> tuple[NDArray[np.float64], int]:
    segments = segments_of(policy)
    engine = GramGradients(policy, segments)
    try:
        rows = some.sizes.shape[0]
        engine.backward(losses(policy, some).sum())
        return engine.sum_clipped(units or rows, rows, blocks_of(segments), np.zeros(units or rows))
    finally:
        engine.to_standard_module()


def one_at_a_time(policy: Mixed, some: Batch) -> NDArray[np.float64]:
    segments, found = segments_of(policy), []
    names = [name for name, _ in policy.named_parameters()]
    for row in range(some.sizes.shape[0]):
        loss = losses(policy, some.rows(slice(row, row + 1))).sum()
        named = dict(zip(names, torch.autograd.grad(loss, list(policy.parameters())), strict=True))
        found.append(np.concatenate([named[s.parameter].double().reshape(-1).numpy()[s.coordinates] for s in segments]))
    return np.array(found)


def by_opacus(policy: Mixed, some: Batch) -> NDArray[np.float64]:
    wrapped = MessageGradients(policy.train(), segments_of(policy))
    wrapped.backward(losses(policy, some).sum())
    gradients = wrapped.take(some.sizes.shape[0])
    wrapped.to_standard_module()
    return gradients


@settings(deadline=None, max_examples=12)
@given(
    rows=st.integers(1, 9),
    steps=st.sampled_from([1, 2, 5, 16, 40]),
    width=st.sampled_from([4, 48]),
    seed=st.integers(0),
)
def test_the_clipped_sum_is_that_of_opacus_and_of_one_at_a_time(rows: int, steps: int, width: int, seed: int) -> None:
    policy, some = made(width=width), batch(rows, steps, seed % 2**31)
    blocks = blocks_of(segments_of(policy))

    vector, dropped = by_gram(policy, some)

    assert dropped == 0
    for gradients in (one_at_a_time(policy, some), by_opacus(policy, some)):
        expected = clip_units(gradients, blocks)[0]
        assert np.abs(vector - expected).max() <= 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("steps", [2, 16])
def test_in_float32_it_is_the_sum_of_autograd_to_a_hundred_thousandth(steps: int) -> None:
    policy, some = made(torch.float32, width=48), batch(64, steps, dtype=torch.float32)

    vector, _ = by_gram(policy, some)

    expected = clip_units(one_at_a_time(policy, some), blocks_of(segments_of(policy)))[0]
    assert np.abs(vector - expected).max() <= 1e-5 * np.abs(expected).max()


def test_rows_own_gradients_are_those_of_autograd() -> None:
    policy, some = made(), batch(6, 9)
    engine = GramGradients(policy, segments_of(policy))
    engine.backward(losses(policy, some).sum())

    assert engine.take(6) == pytest.approx(one_at_a_time(policy, some), rel=1e-10, abs=1e-13)


def test_rows_behind_the_units_are_nobody() -> None:
    policy, some = made(), batch(6, 9)

    beside, _ = by_gram(policy, some, units=4)

    expected = clip_units(one_at_a_time(policy, some)[:4], blocks_of(segments_of(policy)))[0]
    assert beside == pytest.approx(expected, rel=1e-10, abs=1e-13)


def test_a_unit_whose_gradient_is_not_finite_counts_as_absent() -> None:
    policy, some = made(), batch(6, 9)
    poisoned = dataclasses.replace(some, sizes=some.sizes.clone())
    poisoned.sizes[2, 0], poisoned.sizes[5, 0] = float("nan"), float("inf")

    vector, dropped = by_gram(policy, poisoned)

    others = one_at_a_time(policy, some)[[0, 1, 3, 4]]
    assert dropped == 2
    assert vector == pytest.approx(clip_units(others, blocks_of(segments_of(policy)))[0], rel=1e-10, abs=1e-13)


# --- influence ------------------------------------------------------------------------------------------------------


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
        usable=np.ones(everyone.count, dtype=np.bool_),
        segments=layout.segments,
        constants=constants(layout, blocks=layout.blocks(0.4, 1.0, 0.15)),
        random=rehearsal_source(0),
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


# --- what is refused, and what is left to Opacus ----------------------------------------------------------------------


def test_two_backward_passes_are_refused() -> None:
    policy = made()
    engine = GramGradients(policy, segments_of(policy))
    engine.backward(losses(policy, batch(3, 2)).sum())

    with pytest.raises(InvalidParameter, match="one backward pass"):
        engine.backward(losses(policy, batch(3, 2)).sum())


def test_taking_without_a_pass_is_refused() -> None:
    policy = made()

    with pytest.raises(UnexpectedState, match="backward first"):
        GramGradients(policy, segments_of(policy)).take(3)


def test_flattened_steps_are_refused() -> None:
    policy, some = made(), batch(6, 4)
    flat = Batch(some.features.reshape(24, 1, -1), some.states.reshape(24, 1), some.actions.reshape(24, 1),
                 some.sizes.reshape(24, 1))  # fmt: skip
    engine = GramGradients(policy, segments_of(policy))
    engine.backward(losses(policy, flat).sum())

    with pytest.raises(InvalidParameter, match="6 trajectories"):
        engine.take(6)


def test_a_forward_pass_with_gradient_that_no_loss_uses_is_refused() -> None:
    policy, some = made(), batch(3, 2)
    engine = GramGradients(policy, segments_of(policy))
    policy(some.features, some.states)  # targets made without torch.no_grad()

    with pytest.raises(InvalidParameter, match=r"torch\.no_grad"):
        engine.backward(losses(policy, some).sum())


def test_a_layer_outside_the_loss_is_refused() -> None:
    policy, some = made(), batch(3, 2)
    engine = GramGradients(policy, segments_of(policy))

    with pytest.raises(InvalidParameter, match="got none"):
        engine.backward(policy.first(some.features).sum())


def test_an_output_changed_in_place_is_refused() -> None:
    policy, some = made(), batch(3, 2)
    engine = GramGradients(policy, segments_of(policy))

    with pytest.raises(InvalidParameter, match="in place"):
        engine.backward(losses(policy, some).sum() + policy.first(some.features).relu_().sum())


class _Tied(Mixed):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(4, ACTIONS, dtype=torch.float64)
        self.again.weight = self.head.weight


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = DPGRU(2, 2, batch_first=True)
        self.head = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("policy", "names", "is_taken"),
    [
        (Mixed(), ("first.weight", "first.bias", "head.weight"), True),
        (Mixed(), ("embedding.weight",), False),  # tables alone
        (_Tied(), ("head.weight", "head.bias"), False),
        (_Recurrent(), ("recurrent.ih.weight", "head.weight"), False),
        (nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2)), ("0.weight", "1.weight"), False),
        (nn.Sequential(nn.Embedding(3, 2, padding_idx=0), nn.Linear(2, 2)), ("0.weight", "1.weight"), False),
    ],
)
def test_only_linear_layers_and_plain_embeddings_are_taken(
    policy: nn.Module, names: tuple[str, ...], is_taken: bool
) -> None:
    sizes = {name: weight.numel() for name, weight in policy.named_parameters()}
    segments = [Segment("policy", name, np.arange(sizes.get(name, 1), dtype=np.int64)) for name in names]

    assert is_offered(policy, segments) is is_taken
    if not is_taken:
        with pytest.raises(InvalidParameter, match="MessageGradients"):
            GramGradients(policy, segments)


def test_a_linear_layer_in_part_or_in_two_blocks_is_left_to_opacus() -> None:
    whole = np.arange(12, dtype=np.int64)

    assert not is_offered(Mixed(), [Segment("policy", "head.weight", whole[:5])])
    assert not is_offered(Mixed(), [Segment("policy", "head.weight", whole), Segment("critic", "head.bias", whole[:3])])
