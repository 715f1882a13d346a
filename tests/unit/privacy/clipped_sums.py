"""The message of a window before rounding and noise, as the production path comes to it on its way to integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secure_frl.learning.layout import Segment
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.clipping import ClippedSum
from secure_frl.privacy.hooks import Losses
from secure_frl.privacy.update import _accumulate, _Window
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import SumConstants


def clipped_sum(
    policy: nn.Module,
    losses: Losses,
    trajectories: Trajectories,
    *,
    usable: NDArray[np.bool_] | None = None,
    unit: str = "patient",
    segments: Sequence[Segment],
    constants: SumConstants,
    return_middle: float = 0.0,
) -> ClippedSum:
    """Arguments as in `private_update`; usable None: all. In units of the clips."""
    everything = np.ones(trajectories.count, dtype=np.bool_)
    window = _Window.of(trajectories, everything if usable is None else usable, unit, return_middle)
    return _accumulate(policy, losses, window, segments, constants, rehearsal_source(0)).clipped_sum()
