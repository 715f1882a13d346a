"""Linear layers whose way back is NumPy's product: what comes back is torch's, and they are put back as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from secure_frl.privacy import linear_products

PLACES, WIDTHS = 128, (64, 25)


def layer(dtype: torch.dtype, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(*WIDTHS, bias=bias, dtype=dtype)


def back_through(part: nn.Linear, entered: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    entered = entered.clone().requires_grad_()
    left = part(entered)
    return left.detach(), torch.autograd.grad((left * weights).sum(), entered)[0]


@pytest.mark.parametrize("bias", [True, False])
def test_what_leaves_and_what_comes_back_are_those_of_torch(bias: bool) -> None:
    part, entered = layer(torch.float64, bias=bias), torch.randn(5, 3, 64, dtype=torch.float64)
    crossed = torch.randn(25, 3, 5, dtype=torch.float64).transpose(0, 2)  # not side by side in memory
    expected = back_through(part, entered, crossed)

    linear_products.use(part)
    found = back_through(part, entered, crossed)

    assert "forward" in vars(part)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-13, atol=1e-13)


def test_a_float32_layer_stays_torchs() -> None:
    part = layer(torch.float32)
    linear_products.use(part)

    assert "forward" not in vars(part)


def test_a_layer_that_is_put_back_is_as_its_class() -> None:
    part = layer(torch.float64)
    linear_products.use(part)
    linear_products.undo(part)

    assert vars(part).keys() == vars(layer(torch.float64)).keys()
    assert torch.autograd.grad(part(torch.ones(2, 64, dtype=torch.float64)).sum(), part.weight)[0].shape == (25, 64)


def test_a_layer_with_a_forward_of_its_own_keeps_it() -> None:
    part = layer(torch.float64)
    part.forward = own = lambda entered: entered  # type: ignore[method-assign]
    linear_products.use(part)
    linear_products.undo(part)

    assert part.forward is own


def test_nobody_is_given_a_gradient_of_a_weight_that_is_not_made() -> None:
    part = layer(torch.float64)
    linear_products.use(part)

    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(part(torch.ones(2, 64, dtype=torch.float64)).sum(), part.weight)


@pytest.mark.parametrize("steps", [2, 6, 16])
def test_what_comes_back_to_a_row_has_the_same_bits_wherever_it_stands_and_whoever_is_beside_it(
    steps: int,
) -> None:
    part, drawn = layer(torch.float64), torch.Generator().manual_seed(steps)
    linear_products.use(part)
    entered = torch.zeros(PLACES, steps, 64, dtype=torch.float64)
    own = torch.randn(steps, 25, dtype=torch.float64, generator=drawn)
    found = []
    for place in (0, 1, 2, 3, 50, 77, 126, 127):
        weights = torch.randn(PLACES, steps, 25, dtype=torch.float64, generator=drawn)
        weights[place - 1], weights[place] = np.nan, own
        found.append(back_through(part, entered, weights)[1][place])

    assert found[0].isfinite().all()
    assert all(torch.equal(one, found[0]) for one in found)
