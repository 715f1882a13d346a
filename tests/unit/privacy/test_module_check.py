"""What a policy and its losses must be, with the cure for what is refused. What refusals prevent: test_traps.py."""

import dataclasses

import numpy as np
import pytest
import torch
from opacus.layers import DPGRU, DPLSTM
from torch import nn

from secure_frl.errors import InvalidParameter
from secure_frl.learning.forms import PolicyForm
from secure_frl.learning.layout import Segment
from secure_frl.learning.objectives.reinforce import Reinforce
from secure_frl.learning.policies import build_policy
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.module_check import check_losses, check_module

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]

STATES, ACTIONS = 6, 3
SEGMENTS = (Segment("policy", "logits.weight", np.arange(STATES * ACTIONS, dtype=np.int64)),)


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Embedding(STATES, ACTIONS, dtype=torch.float64)
        self.register_buffer("allowed", torch.ones(STATES, ACTIONS, dtype=torch.bool))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.logits(states), dim=-1)


def probe() -> Trajectories:
    generator = np.random.default_rng(5)
    lengths = np.array([3, 5, 2, 4, 5])
    steps = np.arange(5)[None, :] < lengths[:, None]
    return Trajectories(
        observations=np.where(steps, generator.integers(0, STATES, steps.shape), 0),
        actions=np.where(steps, generator.integers(0, ACTIONS, steps.shape), 0),
        allowed=None,
        rewards=generator.random(steps.shape, dtype=np.float32),
        log_behaviour=None,
        steps=steps,
        terminated=np.ones(5, dtype=np.bool_),
        final_observations=np.zeros(5, dtype=np.int64),
        persons=np.arange(5, dtype=np.uint64),
    )


def chosen(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
    taken = policy(torch.from_numpy(batch.observations)).gather(-1, torch.from_numpy(batch.actions)[..., None])
    return taken[..., 0] * torch.from_numpy(batch.steps)


def fair(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
    return -(chosen(policy, batch) * torch.from_numpy(batch.rewards)).sum(dim=1) / 5


def test_a_table_with_a_bool_mask_and_losses_of_its_own_trajectory_pass() -> None:
    check_module(Table())
    check_losses(Table(), fair, probe(), SEGMENTS)


def test_the_shipped_objective_couples_nobody() -> None:
    admissible = np.zeros((STATES + 1, ACTIONS), dtype=np.bool_)
    admissible[:, :2] = True
    form = PolicyForm("table", (), admissible, STATES, "private")
    policy, layout = build_policy(form), form.layout
    objective = Reinforce(discount=1.0, gae_lambda=0.5, critic="private")
    public = {"critic": np.linspace(0.1, 0.7, STATES + 1)}

    def losses(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
        return objective.losses(policy, batch, objective.targets(policy, public, batch))

    allowed = dataclasses.replace(probe(), actions=probe().actions % 2)
    check_losses(policy, losses, allowed, layout.segments)


@pytest.mark.parametrize(
    ("module", "cure"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "nn.LayerNorm or nn.GroupNorm"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), "nn.LayerNorm or nn.GroupNorm"),
        (nn.GRU(3, 4), r"opacus\.layers\.DPGRU"),
        (nn.LSTM(3, 4), r"opacus\.layers\.DPLSTM"),
        (nn.RNN(3, 4), r"opacus\.layers\.DPRNN"),
        (nn.Sequential(nn.Linear(3, 4), nn.InstanceNorm1d(4, track_running_stats=True)), "track_running_stats=False"),
    ],
)
def test_layers_that_mix_people_are_refused_with_their_replacement(module: nn.Module, cure: str) -> None:
    with pytest.raises(InvalidParameter, match=cure):
        check_module(module)


@pytest.mark.parametrize("cell", [DPGRU, DPLSTM])
def test_opacus_own_recurrent_layers_pass(cell: type[nn.Module]) -> None:
    check_module(cell(3, 4))


def test_a_module_without_parameters_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="parameters that learn"):
        check_module(nn.Tanh())


@pytest.mark.parametrize(
    "shaped",
    [
        lambda policy, batch: fair(policy, batch).sum(),
        lambda policy, batch: fair(policy, batch)[:, None],
        lambda policy, batch: -chosen(policy, batch),
        lambda policy, batch: fair(policy, batch)[1:],
    ],
)
def test_a_loss_that_is_not_one_a_trajectory_is_refused(shaped: object) -> None:
    with pytest.raises(InvalidParameter, match="one loss a trajectory"):
        check_losses(Table(), shaped, probe(), SEGMENTS)  # type: ignore[arg-type]  # as above


def test_one_trajectory_is_too_few_to_probe_with() -> None:
    with pytest.raises(InvalidParameter, match="at least 2"):
        check_losses(Table(), fair, probe().select(np.array([0])), SEGMENTS)
