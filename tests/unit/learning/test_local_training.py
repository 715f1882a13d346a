"""A hospital's own training: its steps by hand, its passes, and what keeps it near the broadcast policy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from secure_frl.learning.local_training import Batch, LocalSettings, flattened, moved_by, passes
from secure_frl.learning.trajectories import Trajectories

PLAIN = LocalSettings("sgd", 0.1, 0, 0.0, 0.0)


class Point(nn.Module):
    """Two numbers; the loss is half their squared distance to an aim."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(2, dtype=torch.float64))


def episodes() -> Trajectories:
    steps = np.arange(3) < np.array([3, 1, 2])[:, None]
    return Trajectories(
        observations=np.arange(9).reshape(3, 3),
        actions=np.zeros((3, 3), dtype=np.int64),
        allowed=None,
        rewards=np.zeros((3, 3), dtype=np.float32),
        log_behaviour=None,
        steps=steps,
        terminated=np.ones(3, dtype=np.bool_),
        final_observations=np.zeros(3, dtype=np.int64),
        persons=np.arange(3, dtype=np.uint64),
    )


def moved(aims: list[list[float]], settings: LocalSettings) -> list[float]:
    point = Point()

    def losses(batch: Batch) -> torch.Tensor:
        return 0.5 * (point.at - torch.tensor(batch[1]["aim"], dtype=torch.float64)).square().sum()[None]

    batches: Iterator[Batch] = ((episodes(), {"aim": aim}) for aim in aims)
    return moved_by(point, losses, batches, ["at"], settings)["at"].tolist()


def test_two_plain_steps_by_hand() -> None:
    assert moved([[1.0, 2.0], [1.0, 2.0]], PLAIN) == pytest.approx([0.19, 0.38])


def test_a_long_gradient_is_cut_and_a_broken_batch_passed_over() -> None:
    cut = LocalSettings("sgd", 0.1, 0, 0.5, 0.0)

    assert moved([[3.0, 4.0]], cut) == pytest.approx([0.03, 0.04])
    assert moved([[float("nan"), 1.0], [1.0, 2.0]], PLAIN) == pytest.approx([0.1, 0.2])


def test_the_proximal_term_pulls_back_to_where_it_began() -> None:
    pulled = LocalSettings("sgd", 0.1, 0, 0.0, 1.0)

    assert moved([[1.0, 0.0]] * 2, pulled) == pytest.approx([0.1 + 0.1 * (0.9 - 0.1), 0.0])
    assert moved([[1.0, 0.0]] * 300, pulled)[0] == pytest.approx(0.5)  # of distance 1 and pull 1


def test_adam_takes_a_first_step_of_its_own_size() -> None:
    assert moved([[50.0, -0.1]], LocalSettings("adam", 0.1, 0, 0.0, 0.0)) == pytest.approx([0.1, -0.1])


def test_a_pass_meets_every_step_once_in_an_order_of_its_own_and_normalises_advantages() -> None:
    seen = episodes()
    advantages = seen.observations.astype(np.float64)
    found = list(
        passes(seen, {"advantages": advantages}, np.random.default_rng(1), count=2, minibatch=4, whole_episodes=False)
    )

    met = [rows.observations[:, 0].tolist() for rows, _ in found]
    assert [len(one) for one in met] == [4, 2, 4, 2]
    assert sorted(met[0] + met[1]) == sorted(met[2] + met[3]) == [0, 1, 2, 3, 6, 7]
    assert met[:2] != met[2:]
    for rows, targets in found:
        own = rows.observations[:, 0]
        np.testing.assert_allclose(targets["advantages"][:, 0], (own - own.mean()) / own.std(), atol=1e-6)


def test_targets_stay_with_their_steps_and_a_policy_with_memory_gets_whole_episodes() -> None:
    seen, targets = episodes(), {"aims": 10.0 * np.arange(9).reshape(3, 3)}

    rows, flat = flattened(seen, targets)
    whole, _ = next(passes(seen, targets, np.random.default_rng(1), count=1, minibatch=2, whole_episodes=True))

    np.testing.assert_array_equal(flat["aims"], 10.0 * rows.observations)
    assert whole.count == 2
    assert whole.steps.shape[1] > 1
