"""Per-trajectory gradients of the message's coordinates, against Opacus' own sampler and one-at-a-time autograd."""

import copy

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from torch import nn

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import Segment
from secure_frl.privacy.message_gradients import MessageGradients

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]

STATES, ACTIONS, ROWS, STEPS = 7, 3, 6, 4


class Table(nn.Module):
    """Two embeddings and a linear layer: both samplers at work."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Embedding(STATES, ACTIONS, dtype=torch.float64)
        self.value = nn.Embedding(STATES, 1, dtype=torch.float64)
        self.head = nn.Linear(ACTIONS, 2, dtype=torch.float64)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.logits(states))).sum(-1) * (1 + self.value(states)[..., 0])


SEGMENTS = (
    Segment("a", "logits.weight", np.array([0, 4, 5, 20], dtype=np.int64)),
    Segment("a", "head.weight", np.array([1, 5], dtype=np.int64)),
    Segment("b", "value.weight", np.array([2, 3], dtype=np.int64)),
)


def table() -> Table:
    torch.manual_seed(1)
    return Table()


def states(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, STATES, (ROWS, STEPS), generator=torch.Generator().manual_seed(seed))


def losses(policy: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return (policy(batch) ** 2).sum(dim=1)


def test_gradients_equal_autograd_of_one_trajectory_at_a_time() -> None:
    plain, batch = table(), states()
    expected = []
    for row in range(ROWS):
        gradient = torch.autograd.grad(losses(plain, batch[row : row + 1]).sum(), list(plain.parameters()))
        named = dict(zip(dict(plain.named_parameters()), gradient, strict=True))
        expected.append(np.concatenate([named[s.parameter].reshape(-1).numpy()[s.coordinates] for s in SEGMENTS]))

    wrapped = MessageGradients(table(), SEGMENTS)
    losses(wrapped, batch).sum().backward()

    assert wrapped.take(ROWS) == pytest.approx(np.array(expected), rel=1e-12, abs=1e-15)


def test_gradients_are_the_bits_of_opacus_own_sampler() -> None:
    batch = states()
    dense = GradSampleModule(table(), loss_reduction="sum")
    losses(dense, batch).sum().backward()
    named = {name.removeprefix("_module."): weight for name, weight in dense.named_parameters()}
    expected = torch.cat(
        [named[s.parameter].grad_sample.reshape(ROWS, -1)[:, torch.from_numpy(s.coordinates)] for s in SEGMENTS], 1
    )

    wrapped = MessageGradients(table(), SEGMENTS)
    losses(wrapped, batch).sum().backward()

    assert np.array_equal(wrapped.take(ROWS), expected.numpy())


def test_a_trajectorys_gradient_is_the_same_bits_whoever_is_beside_it() -> None:
    first = states(0)[:1]
    found = []
    for company in (states(1), states(2)[:3], states(3)[:0]):
        wrapped = MessageGradients(table(), SEGMENTS[::2])
        losses(wrapped, torch.cat([first, company])).sum().backward()
        found.append(wrapped.take(1 + len(company))[0])

    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_the_policy_is_left_as_it_was() -> None:
    policy = table()
    before = copy.deepcopy(policy.state_dict())

    wrapped = MessageGradients(policy, SEGMENTS)
    losses(wrapped, states()).sum().backward()
    wrapped.take(ROWS)
    wrapped.to_standard_module()

    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())
    assert all(parameter.grad is None and not hasattr(parameter, "grad_sample") for parameter in policy.parameters())
    losses(policy, states()).sum().backward()
    assert not hasattr(policy.logits.weight, "grad_sample")


# --- what is refused; what that prevents: test_traps.py ---------------------------------------------------------------


def test_a_forward_pass_with_gradient_that_no_loss_uses_is_refused() -> None:
    wrapped = MessageGradients(table(), SEGMENTS)
    wrapped(states())  # targets made without torch.no_grad()
    losses(wrapped, states()).sum().backward()

    with pytest.raises(InvalidParameter, match=r"torch\.no_grad"):
        wrapped.take(ROWS)


def test_a_parameter_outside_the_loss_is_refused() -> None:
    wrapped = MessageGradients(table(), SEGMENTS)
    wrapped._module.logits(states()).sum().backward()

    with pytest.raises(InvalidParameter, match="got none"):
        wrapped.take(ROWS)


def test_a_segment_of_a_parameter_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="missing"):
        MessageGradients(table(), (Segment("a", "missing", np.array([0], dtype=np.int64)),))
