"""What a learning algorithm is: a function from a policy and trajectories to one loss a trajectory.

An objective knows no clip, noise, key or site. Loss b depends on trajectory b and on public state only (broadcast
parameters, charter constants, earlier booked releases); nothing in it was fitted on other trajectories. Whoever
clips gradients a unit relies on that, and a test perturbs other trajectories to see it hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from secure_frl.learning.trajectories import Trajectories


class Objective(Protocol):
    """Two steps, so that no gradient flows through what is only a target."""

    def targets(self, policy: Any, public: Mapping[str, Any], batch: Trajectories) -> Mapping[str, Any]:
        """Return what the losses aim at, without gradient. Any: torch modules and tensors, kept out of this file."""
        ...

    def losses(self, policy: Any, batch: Trajectories, targets: Mapping[str, Any]) -> Any:
        """Return a tensor [B]: one loss a trajectory, divided by constants only. Any: see `targets`."""
        ...
