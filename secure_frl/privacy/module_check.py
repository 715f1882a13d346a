"""What a policy and its losses must be for per-unit clipping to mean anything; checked before a site joins.

Everything refused here depends on code, never on data, and each message names the cure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import Segment
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.chunks import CHUNK_UNITS, cut, with_rows
from secure_frl.privacy.hooks import Losses, hooked, total_loss
from secure_frl.privacy.message_gradients import MessageGradients

_REPLACEMENTS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.GRU, "opacus.layers.DPGRU"),
    (nn.LSTM, "opacus.layers.DPLSTM"),
    (nn.RNN, "opacus.layers.DPRNN"),
    (_BatchNorm, "nn.LayerNorm or nn.GroupNorm"),
)


def check_module(module: nn.Module) -> None:
    """Refuse a policy whose gradients cannot be separated by unit, or that learns outside its parameters.

    Raises InvalidParameter for BatchNorm, nn.GRU, nn.LSTM, nn.RNN, running statistics, and floating-point buffers:
    a running mean of raw observations passes every other check, and nobody pays for it.
    """
    for name, part in module.named_modules():
        for refused, replacement in _REPLACEMENTS:
            if isinstance(part, refused):
                raise InvalidParameter(
                    f"{name or 'policy'}: expected a layer with separate gradients for each unit, got "
                    f"{type(part).__name__}. Replace it by {replacement}."
                )
        if getattr(part, "track_running_stats", False):
            raise InvalidParameter(
                f"{name}: expected a layer without running statistics, got {type(part).__name__}. "
                "Set track_running_stats=False, or use nn.GroupNorm."
            )
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            raise InvalidParameter(
                f"{name}: expected no floating-point buffer, got one of shape {tuple(buffer.shape)}. Keep fixed public "
                "ranges as a constant of the code, and let nothing but parameters learn."
            )
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise InvalidParameter("expected parameters that learn, got none. Set requires_grad on what is trained.")


def check_losses(
    policy: nn.Module,
    losses: Losses,
    probe: Trajectories,
    segments: Sequence[Segment],
) -> None:
    """Refuse losses that couple people: a trajectory's gradient must be the same bits whoever else is there.

    probe: at least two trajectories of simulated or made-up people, never patients: what is refused is shown.
    The first trajectory's gradient is taken among all of them, again after them, and among altered others.
    Raises InvalidParameter for a loss shape other than [B], batch-normalised advantages, means over the batch's
    steps, running normalisers, and everything that `check_module` refuses.
    """
    check_module(policy)
    if probe.count < 2:
        raise InvalidParameter(f"expected at least 2 trajectories to probe with, got {probe.count}. Roll out more.")
    everyone = np.arange(probe.count, dtype=np.int64)
    among_all = _first_gradient(policy, losses, probe, everyone, segments)
    trials = {
        "a second call": everyone,
        "other people beside it": np.r_[0, np.full(probe.count - 1, probe.count - 1, dtype=np.int64)],
        "fewer people beside it": np.array([0, 1], dtype=np.int64),
    }
    for what, rows in trials.items():
        if not np.array_equal(among_all, _first_gradient(policy, losses, probe, rows, segments)):
            raise InvalidParameter(
                f"expected a trajectory's gradient to depend on it alone, got another one after {what}. Use public "
                "constants in the loss: no batch statistics, no running normaliser, nothing fitted on raw data."
            )


def _first_gradient(
    policy: nn.Module,
    losses: Losses,
    probe: Trajectories,
    rows: NDArray[np.int64],
    segments: Sequence[Segment],
) -> NDArray[np.float64]:
    batch = cut(probe, rows, probe.steps.shape[1])  # one padded length, so that only the company changes
    with hooked(policy, segments, MessageGradients) as wrapped:
        if wrapped.needs_fixed_rows:
            batch = with_rows(batch, CHUNK_UNITS)
        wrapped.backward(total_loss(losses, policy, batch))
        first: NDArray[np.float64] = wrapped.take(batch.count)[0].copy()
        return first
