"""Linear layers whose way back is NumPy's matrix product for a while, as `gram_layers` computes everything else.

On some processors torch's library takes twice as long for a narrow matrix times a weight that is not transposed, which
only the way back has. Float64 alone: there NumPy's gives a row the same bits wherever it stands among equally many,
which it does not in float32. No gradient of a weight is made: torch says so to whoever asks for one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class _Linear(torch.autograd.Function):
    """What entered, [..., D], times a weight [O, D], and perhaps a bias [O] added; differentiable in what entered.

    All leading dimensions are rows of one matrix, as in torch: how many there are decides a row's last bits, never
    what is in the others.
    """

    @staticmethod
    def forward(ctx: Any, entered: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # Any: torch's signature
        ctx.save_for_backward(weight)
        rows, left = entered.reshape(-1, weight.shape[1]), entered.new_empty(*entered.shape[:-1], weight.shape[0])
        # Into `left` itself: a view made in here could not be changed in place, and a loss is told better than that.
        flat = left.view(-1, weight.shape[0])
        if bias is None:
            torch.mm(rows, weight.t(), out=flat)
        else:
            torch.addmm(bias, rows, weight.t(), out=flat)
        return left

    @staticmethod
    def backward(ctx: Any, returned: Tensor) -> tuple[Tensor, None, None]:  # as above
        weight = ctx.saved_tensors[0].detach().numpy()
        with np.errstate(all="ignore"):  # what is not finite is found at the lengths, and counts as zero for its unit
            back = returned.detach().reshape(-1, weight.shape[0]).numpy() @ weight
        return torch.from_numpy(back).reshape(*returned.shape[:-1], weight.shape[1]), None, None


def use(part: nn.Linear) -> None:
    """Go back through a float64 layer by NumPy until `undo`; another dtype, or a forward of its own, stays."""
    if part.weight.dtype == torch.float64 and "forward" not in vars(part):
        part.forward = partial(_forward, part)  # type: ignore[method-assign]  # this one only, not its class


def undo(part: nn.Module) -> None:
    """Compute a layer as before `use`."""
    own = vars(part).get("forward")
    if isinstance(own, partial) and own.func is _forward:
        del part.forward


def _forward(part: nn.Linear, entered: Tensor) -> Tensor:
    left: Tensor = _Linear.apply(entered, part.weight, part.bias)  # type: ignore[no-untyped-call]  # torch's
    return left
