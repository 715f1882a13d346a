"""Hooks on a policy: there while gradients are taken, gone whatever happened; and one loss a trajectory."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import Segment
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.hooks import hooked, total_loss
from secure_frl.privacy.message_gradients import MessageGradients
from secure_frl.privacy.table_gradients import TableGradients

SEGMENTS = (Segment("policy", "weight", np.arange(6, dtype=np.int64)),)


def two_stays() -> Trajectories:
    return Trajectories(
        observations=np.array([[0, 1], [2, 0]]),
        actions=np.zeros((2, 2), dtype=np.int64),
        allowed=None,
        rewards=np.zeros((2, 2), dtype=np.float32),
        log_behaviour=None,
        steps=np.ones((2, 2), dtype=np.bool_),
        terminated=np.ones(2, dtype=np.bool_),
        final_observations=np.zeros(2, dtype=np.int64),
        persons=np.arange(2, dtype=np.uint64),
    )


def losses(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
    return policy(torch.from_numpy(batch.observations)).sum(dim=(1, 2))


@pytest.mark.parametrize("engine", [MessageGradients, TableGradients])
@pytest.mark.parametrize("is_training", [True, False])
def test_a_policy_is_left_as_it_was_after_an_error_in_its_pass(engine: type, is_training: bool) -> None:
    policy = nn.Embedding(3, 2).train(is_training)
    policy.weight.grad = torch.ones_like(policy.weight)

    with contextlib.suppress(ZeroDivisionError), hooked(policy, SEGMENTS, engine) as wrapped:
        assert policy.training
        assert policy._forward_hooks
        wrapped.backward(total_loss(losses, policy, two_stays()))
        raise ZeroDivisionError

    assert policy.training is is_training
    assert policy.weight.grad is None
    assert not policy._forward_hooks
    assert not policy._backward_hooks
    assert getattr(policy.weight, "grad_sample", None) is None


def test_losses_are_added_up_only_if_there_is_one_a_trajectory() -> None:
    policy, stays = nn.Embedding(3, 2), two_stays()

    assert total_loss(losses, policy, stays).item() == pytest.approx(losses(policy, stays).sum().item())
    with pytest.raises(InvalidParameter, match=r"shape \(2,\), got \(\)"):
        total_loss(lambda policy, batch: losses(policy, batch).mean(), policy, stays)
