"""Double Q-learning with the gradient written out: the same steps as autograd takes, from the same draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from secure_frl.errors import InvalidParameter
from secure_frl.learning.local_training import LocalSettings, draws, moved_by
from secure_frl.learning.networks import Network, first_parameters
from secure_frl.learning.objectives.dqn import TARGET, DoubleQ
from secure_frl.learning.policies import NetworkPolicy
from secure_frl.learning.replay import Replay
from secure_frl.learning.trajectories import Trajectories
from secure_frl.learning.value_steps import moved_by_dqn

pytestmark = pytest.mark.slow

NETWORK = Network("mlp", (8, 6), 3, 4, embeds=False)


def _seen(count: int = 9, length: int = 7) -> Trajectories:
    random = np.random.default_rng(2)
    allowed = random.random((count, length, 4)) < 0.7
    actions = random.integers(0, 4, (count, length))
    np.put_along_axis(allowed, actions[..., None], True, axis=2)
    return Trajectories(
        observations=random.normal(size=(count, length, 3)).astype(np.float32),
        actions=actions,
        allowed=allowed,
        rewards=(3 * random.normal(size=(count, length))).astype(np.float32),  # errors on both sides of huber's bend
        log_behaviour=None,
        steps=np.arange(length)[None, :] < random.integers(1, length + 1, count)[:, None],
        terminated=np.arange(count) % 2 == 0,
        final_observations=random.normal(size=(count, 3)).astype(np.float32),
        persons=np.arange(count, dtype=np.uint64),
        final_allowed=random.random((count, 4)) < 0.9,
    )


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("error", ["huber", "squared"])
@pytest.mark.parametrize("masks", ["all", "steps only", "none"])
def test_the_steps_are_those_of_autograd(optimiser: str, error: str, masks: str) -> None:
    seen = _seen()
    if masks != "all":
        seen = replace(seen, final_allowed=None, allowed=seen.allowed if masks == "steps only" else None)
    replay = Replay(1000, 0.9, 2)
    replay.add(seen)
    objective = DoubleQ(replay.discount, error, 1)
    settings = LocalSettings(optimiser, 0.01, minibatch=16, max_gradient_norm=1.0, proximal=0.3)
    arrays = first_parameters(NETWORK, 5)
    policy, target = (NetworkPolicy(NETWORK, None, "none") for _ in range(2))
    for network in (policy, target):
        network.load(arrays)

    def losses(batch: tuple[Trajectories, object]) -> torch.Tensor:
        return objective.losses(policy, batch[0], batch[1])  # type: ignore[arg-type]  # the targets of `draws`

    made = draws(
        replay, objective, policy, {TARGET: target}, np.random.default_rng(1), count=12, minibatch=settings.minibatch
    )
    expected = moved_by(policy, losses, made, list(arrays), settings)
    found = moved_by_dqn(
        NETWORK, arrays, replay, objective, np.random.default_rng(1), settings, count=12, dtype=np.float64
    )

    assert found.keys() == expected.keys()
    for name, array in arrays.items():
        assert np.abs(expected[name] - array).max() > 1e-6
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-10)


def test_an_empty_replay_moves_nothing_and_other_networks_are_refused() -> None:
    settings = LocalSettings("adam", 0.01, minibatch=16, max_gradient_norm=0.0, proximal=0.0)
    arrays, objective = first_parameters(NETWORK, 5), DoubleQ(0.9, "huber", 1)

    found = moved_by_dqn(
        NETWORK, arrays, Replay(10, 0.9, 1), objective, np.random.default_rng(1), settings, count=3, dtype=np.float64
    )

    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    for other in (replace(NETWORK, embeds=True), replace(NETWORK, kind="random_features", hidden=(8,))):
        with pytest.raises(InvalidParameter, match="features"):
            moved_by_dqn(other, arrays, Replay(10, 0.9, 1), objective, np.random.default_rng(1), settings, count=1)
