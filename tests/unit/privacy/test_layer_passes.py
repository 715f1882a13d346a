"""One backward pass, each layer's own part of it, and nothing of a pass that was taken before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secure_frl.errors import InvalidParameter, UnexpectedState
from secure_frl.privacy.layer_passes import LayerPasses


def test_what_entered_and_came_back_makes_the_gradient_of_autograd() -> None:
    layer, entered = nn.Linear(3, 2).double(), torch.randn(4, 5, 3, dtype=torch.float64)
    passes = LayerPasses([layer])

    passes.backward((layer(entered) ** 2).sum() + layer(2 * entered).sum())
    pairs = passes.take(4)[layer]
    passes.remove()

    expected = torch.autograd.grad((layer(entered) ** 2).sum() + layer(2 * entered).sum(), layer.weight)[0]
    assert len(pairs) == 2
    torch.testing.assert_close(sum(torch.einsum("bto,bti->oi", back, seen) for seen, back in pairs), expected)


def test_a_pass_is_taken_once() -> None:
    layer = nn.Linear(3, 2)
    passes = LayerPasses([layer])
    passes.backward(layer(torch.ones(4, 3)).sum())
    passes.take(4)

    with pytest.raises(UnexpectedState, match="backward first"):
        passes.take(4)


def test_passes_of_another_number_of_rows_are_refused() -> None:
    layer = nn.Linear(3, 2)
    passes = LayerPasses([layer])
    passes.backward(layer(torch.ones(4, 3)).sum() + layer(torch.ones(2, 3)).sum())

    with pytest.raises(InvalidParameter, match=r"4 trajectories, got \[2, 4\]"):
        passes.take(4)


def test_inputs_changed_in_place_after_the_backward_pass_are_refused() -> None:
    layer, entered = nn.Linear(3, 2), torch.ones(4, 3)
    passes = LayerPasses([layer])
    passes.backward(layer(entered).sum())
    entered.mul_(2)

    with pytest.raises(InvalidParameter, match="in place"):
        passes.take(4)
