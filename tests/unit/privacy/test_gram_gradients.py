"""Clipped sums by Gram matrices, against Opacus' samplers and against autograd of one trajectory at a time.

How far one unit moves such a sum: test_gram_influence.py.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from gram_policies import ACTIONS, Batch, Mixed, batch, blocks_of, losses, made, segments_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from opacus.layers import DPGRU
from torch import nn

from secure_frl.errors import InvalidParameter, UnexpectedState
from secure_frl.learning.layout import Segment
from secure_frl.privacy.clipping import clip_units
from secure_frl.privacy.gram_gradients import GramGradients, is_offered
from secure_frl.privacy.message_gradients import MessageGradients

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]


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
