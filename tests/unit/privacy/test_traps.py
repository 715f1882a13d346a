"""Nine ways to break per-unit clipping: each is run without its guard, to see what happens, and refused with it.

Influence is measured in clips: how far the clipped sum moves when one trajectory is left out. At most 1 is promised.
Source of the rows: Opacus 1.5 and 1.6 as released, driven the way its tutorials do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleExpandedWeights
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import nn

from secure_frl.errors import InvalidParameter, StudyRefused
from secure_frl.learning.layout import Segment
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.clipping import clip_units
from secure_frl.privacy.message_gradients import MessageGradients
from secure_frl.privacy.module_check import check_losses, check_module
from secure_frl.secure_sum import Block
from secure_frl.study_file import parse_study

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]

STATES, ACTIONS, ROWS, STEPS = 6, 3, 16, 5
SEGMENTS = (
    Segment("policy", "logits.weight", np.arange(STATES * ACTIONS, dtype=np.int64)),
    Segment("policy", "head.weight", np.arange(ACTIONS * ACTIONS, dtype=np.int64)),
)
Losses = Callable[[nn.Module, Trajectories], torch.Tensor]


class Table(nn.Module):
    """Logits a state and a linear layer behind them: both samplers of Opacus at work."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.logits = nn.Embedding(STATES, ACTIONS, dtype=torch.float64)
        self.head = nn.Linear(ACTIONS, ACTIONS, bias=False, dtype=torch.float64)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.head(self.logits(states)), dim=-1)


def episodes(count: int = ROWS) -> Trajectories:
    """Ragged episodes; the last one is an outlier, long and with large rewards."""
    generator = np.random.default_rng(5)
    lengths = np.r_[generator.integers(1, STEPS, count - 1), STEPS]
    steps = np.arange(STEPS)[None, :] < lengths[:, None]
    rewards = generator.random(steps.shape) * np.r_[np.ones(count - 1), 1_000.0][:, None]
    return Trajectories(
        observations=np.where(steps, generator.integers(0, STATES, steps.shape), 0),
        actions=np.where(steps, generator.integers(0, ACTIONS, steps.shape), 0),
        allowed=None,
        rewards=np.where(steps, rewards, 0).astype(np.float32),
        log_behaviour=None,
        steps=steps,
        terminated=np.ones(count, dtype=np.bool_),
        final_observations=np.zeros(count, dtype=np.int64),
        persons=np.arange(count, dtype=np.uint64),
    )


def aligned(lengths: NDArray[np.int64]) -> Trajectories:
    """Everybody does the same thing at each step: all gradients point one way."""
    steps = np.arange(lengths.max())[None, :] < lengths[:, None]
    return Trajectories(
        observations=np.where(steps, 3, 0),
        actions=np.where(steps, 2, 0),
        allowed=None,
        rewards=steps.astype(np.float32),
        log_behaviour=None,
        steps=steps,
        terminated=np.ones(lengths.size, dtype=np.bool_),
        final_observations=np.zeros(lengths.size, dtype=np.int64),
        persons=np.arange(lengths.size, dtype=np.uint64),
    )


def chosen(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
    taken = policy(torch.from_numpy(batch.observations)).gather(-1, torch.from_numpy(batch.actions)[..., None])
    return taken[..., 0] * torch.from_numpy(batch.steps)


def fair(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
    return -(chosen(policy, batch) * torch.from_numpy(batch.rewards)).sum(dim=1)


def clipped(
    losses: Losses, batch: Trajectories, clip_norm: float, policy: nn.Module | None = None
) -> NDArray[np.float64]:
    """The clipped sum with no check of the losses, in units of the clip."""
    wrapped = MessageGradients((policy or Table()).train(), SEGMENTS)
    losses(wrapped, batch).sum().backward()
    gradients = wrapped.take(batch.count)
    return clip_units(gradients, (Block("policy", 0, gradients.shape[1], clip_norm, 1.0),))[0]


def influence(losses: Losses, clip_norm: float) -> float:
    """How many clips the sum moves when the last episode is left out."""
    everyone = episodes()
    without = everyone.select(np.arange(ROWS - 1))
    return float(np.linalg.norm(clipped(losses, everyone, clip_norm) - clipped(losses, without, clip_norm)))


def test_a_fair_loss_moves_the_sum_by_one_clip_and_passes() -> None:
    """The ruler of this file: what the tests below call a violation is not one here."""
    assert influence(fair, clip_norm=1e-3) == pytest.approx(1.0)
    assert influence(fair, clip_norm=1e9) <= 1.0
    check_losses(Table(), fair, episodes(), SEGMENTS)


# --- 1: several backward passes before one step -----------------------------------------------------------------------


def contribution_of_one(passes: list[Losses]) -> float:
    """Length of what one episode adds under Opacus' own optimiser with clip 1 and no noise."""
    module = GradSampleModule(Table(), loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        expected_batch_size=1,
        loss_reduction="sum",
    )
    for losses in passes:
        (1e6 * losses(module, episodes().select(np.array([ROWS - 1])))).sum().backward()
    optimizer.pre_step()
    return float(torch.sqrt(sum((p.summed_grad**2).sum() for p in module.parameters())))  # type: ignore[arg-type]


def of_state(state: int) -> Losses:
    def losses(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
        here = torch.from_numpy(np.full_like(batch.observations, state))
        hidden = policy._module.logits(here) if isinstance(policy, GradSampleModule) else policy.logits(here)
        # The head takes part with gradient 0, so that every parameter is in each pass.
        return hidden[..., 0].sum(dim=1) + 0 * policy(here).sum(dim=(1, 2))

    return losses


def test_two_backward_passes_count_one_person_one_point_four_times_and_three_of_them_three() -> None:
    assert contribution_of_one([fair]) == pytest.approx(1.0, abs=1e-3)
    assert contribution_of_one([of_state(0), of_state(1)]) == pytest.approx(2**0.5, abs=1e-3)
    assert contribution_of_one([fair, fair, fair]) == pytest.approx(3.0, abs=1e-3)

    wrapped = MessageGradients(Table(), SEGMENTS)
    for losses in (of_state(0), of_state(1)):
        losses(wrapped, episodes()).sum().backward()
    with pytest.raises(InvalidParameter, match="one backward pass, got those of 2"):
        wrapped.take(ROWS)


# --- 2: steps flattened into the batch --------------------------------------------------------------------------------


def flattened(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
    taken = policy(torch.from_numpy(batch.observations.reshape(-1)))
    return 1e6 * taken.gather(-1, torch.from_numpy(batch.actions.reshape(-1))[:, None]).sum(dim=1)


def test_flattened_steps_make_each_transition_a_unit() -> None:
    outlier = episodes().select(np.array([ROWS - 1]))
    wrapped = MessageGradients(Table(), SEGMENTS)
    flattened(wrapped, outlier).sum().backward()
    gradients = wrapped.take(STEPS)  # as many "units" as one person has steps
    steps = clip_units(gradients, (Block("policy", 0, gradients.shape[1], 1.0, 1.0),))[0]
    assert np.linalg.norm(steps) > 1.5

    wrapped = MessageGradients(Table(), SEGMENTS)
    flattened(wrapped, episodes()).sum().backward()
    with pytest.raises(InvalidParameter, match=f"gradients of {ROWS} trajectories, got {ROWS * STEPS}"):
        wrapped.take(ROWS)


# --- 3: loss_reduction = "mean" with a summed loss --------------------------------------------------------------------


def test_a_mean_scales_everybodys_gradient_with_how_many_are_there() -> None:
    def summed(rows: int, clip_norm: float) -> tuple[float, float]:
        dense = GradSampleModule(Table(), loss_reduction="mean")
        fair(dense, aligned(np.ones(rows, dtype=np.int64))).sum().backward()
        gradients = torch.cat([p.grad_sample.reshape(rows, -1) for p in dense.parameters()], dim=1).numpy().copy()
        block = Block("policy", 0, gradients.shape[1], clip_norm, 1.0)
        total, own = clip_units(gradients.copy(), (block,))[0], clip_units(gradients[:1], (block,))[0]
        return float(np.linalg.norm(total)), float(np.linalg.norm(own))

    # Opacus multiplies by the rows of the batch: sixteen people add 16^2, fifteen 15^2 times one gradient, so leaving
    # one out moves the sum by 31 sixteenths of his own clipped part.
    sixteen, own = summed(16, 40.0)
    fifteen, _ = summed(15, 40.0)
    assert 0 < own < 1
    assert sixteen - fifteen == pytest.approx(own * 31 / 16)

    with pytest.raises(InvalidParameter, match="loss_reduction='sum'"):
        MessageGradients(Table(), SEGMENTS, loss_reduction="mean")


# --- 4, 5, 6: other people inside the loss ----------------------------------------------------------------------------


def mean_over_the_batchs_steps(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
    return fair(policy, batch) / float(batch.steps.sum())


def normalised_over_the_batch(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
    returns = torch.from_numpy(batch.rewards * batch.steps).sum(dim=1).double()
    return -chosen(policy, batch).sum(dim=1) * (returns - returns.mean()) / returns.std()


class RunningMean:
    """A normaliser that learns from raw rewards, outside the module: no validator can see it."""

    def __init__(self) -> None:
        self.mean = 0.0

    def __call__(self, policy: nn.Module, batch: Trajectories) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * float(batch.rewards.mean())
        return -(chosen(policy, batch) * (torch.from_numpy(batch.rewards) - self.mean)).sum(dim=1)


def test_a_mean_over_the_batchs_steps_lets_one_person_scale_everybody() -> None:
    # Fifteen people of one step, and one of thirty. With him each gradient is a 45th, without him a 15th: at the clip.
    lengths = np.r_[np.ones(15, dtype=np.int64), 30]
    clip_norm = float(np.linalg.norm(clipped(fair, aligned(lengths[:1]), 1e6))) * 1e6 / 15
    with_him, without = (clipped(mean_over_the_batchs_steps, aligned(n), clip_norm) for n in (lengths, lengths[:15]))
    assert np.linalg.norm(without - with_him) == pytest.approx(15 - (15 / 3 + 1))  # nine clips

    with pytest.raises(InvalidParameter, match="depend on it alone"):
        check_losses(Table(), mean_over_the_batchs_steps, episodes(), SEGMENTS)
    with pytest.raises(InvalidParameter, match="one loss a trajectory"):
        check_losses(Table(), lambda policy, batch: fair(policy, batch).mean(), episodes(), SEGMENTS)


def test_advantages_normalised_over_the_batch_let_one_outlier_move_everybody() -> None:
    assert influence(normalised_over_the_batch, clip_norm=0.05) > 4
    with pytest.raises(InvalidParameter, match="depend on it alone"):
        check_losses(Table(), normalised_over_the_batch, episodes(), SEGMENTS)


def test_a_running_normaliser_of_rewards_carries_one_person_into_the_others() -> None:
    def fresh(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
        return RunningMean()(policy, batch)

    assert influence(fresh, clip_norm=0.05) > 4
    with pytest.raises(InvalidParameter, match="depend on it alone"):
        check_losses(Table(), RunningMean(), episodes(), SEGMENTS)


def test_a_running_observation_normaliser_passes_opacus_validator() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("mean", torch.zeros(2))

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            self.mean = 0.9 * self.mean + 0.1 * values.mean(0).detach()
            return self.layer(values - self.mean)

    module = Normalised()
    alone = module(torch.ones(1, 2))
    module(torch.full((1, 2), 1e6))  # another person, between the two
    assert (module(torch.ones(1, 2)) - alone).abs().max() > 1_000
    assert ModuleValidator.validate(module, strict=False) == []

    with pytest.raises(InvalidParameter, match="no floating-point buffer"):
        check_module(module)


def test_a_batchnorm_lets_one_person_move_another() -> None:
    layer = nn.BatchNorm1d(2).train()
    others = torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    alone = layer(others)[0]
    beside_an_outlier = layer(torch.cat([others, torch.tensor([[1000.0, -1000.0]])]))[0]

    assert (alone - beside_an_outlier).abs().max() > 0.1
    with pytest.raises(InvalidParameter, match=r"nn\.LayerNorm or nn\.GroupNorm"):
        check_module(nn.Sequential(nn.Linear(2, 2), layer))


# --- 7: private heads, local critics, fitted behaviour policies -------------------------------------------------------


def with_a_local_critic(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
    """A critic a state, fitted on the raw returns of everybody who is there, without noise."""
    returns = np.cumsum((batch.rewards * batch.steps)[:, ::-1], axis=1)[:, ::-1]
    totals, visits = np.zeros(STATES), np.zeros(STATES)
    np.add.at(totals, batch.observations[batch.steps], returns[batch.steps])
    np.add.at(visits, batch.observations[batch.steps], 1.0)
    critic = totals / np.maximum(visits, 1.0)
    advantages = torch.from_numpy(np.where(batch.steps, returns - critic[batch.observations], 0.0))
    return -(chosen(policy, batch) * advantages).sum(dim=1)


def test_a_critic_fitted_without_noise_is_unbounded_influence_through_other_units() -> None:
    assert influence(with_a_local_critic, clip_norm=0.05) > 2
    with pytest.raises(InvalidParameter, match="depend on it alone"):
        check_losses(Table(), with_a_local_critic, episodes(), SEGMENTS)


@pytest.mark.parametrize(
    ("section", "values", "place"),
    [
        ("training", {"personalise": "private_heads"}, "training.personalise"),
        ("policy", {"critic": "local"}, "policy.critic"),
        ("policy", {"allowed_actions": "fitted"}, "policy.allowed_actions"),
    ],
)
def test_no_study_can_ask_for_a_private_head_a_local_critic_or_a_fitted_mask(
    section: str, values: dict[str, object], place: str
) -> None:
    with pytest.raises(StudyRefused, match=place):
        parse_study({"study": {"schema": 1, "name": "trap"}, section: values})


# --- 8: a deep copy of the wrapped module as target network -----------------------------------------------------------


def test_a_deep_copy_of_the_wrapped_module_fails_late() -> None:
    opacus = GradSampleModule(Table(), loss_reduction="sum")
    target = copy.deepcopy(opacus)  # nothing is said here ...
    with torch.no_grad():
        target(torch.zeros(1, 1, dtype=torch.int64))  # ... nor here
    with pytest.raises(AttributeError, match="_forward_counter"):
        target(torch.zeros(1, 1, dtype=torch.int64)).sum().backward()

    with pytest.raises(InvalidParameter, match="load the broadcast parameters"):
        copy.deepcopy(MessageGradients(Table(), SEGMENTS))

    plain = Table()  # the cure
    plain.load_state_dict(Table().state_dict())
    assert not hasattr(plain.logits.weight, "grad_sample")


# --- 9: nn.GRU, and free parameters under expanded weights ------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM])
def test_fused_recurrent_layers_fail_late(cell: type[nn.GRU] | type[nn.LSTM]) -> None:
    module = GradSampleModule(cell(3, 4, batch_first=True), loss_reduction="sum", strict=False)
    output, _ = module(torch.zeros(5, 6, 3))
    with pytest.raises((RuntimeError, TypeError)):  # in the backward pass, in words that name no cure
        output.sum().backward()

    with pytest.raises(InvalidParameter, match=rf"opacus\.layers\.DP{cell.__name__}"):
        check_module(cell(3, 4))


def test_free_parameters_fail_under_expanded_weights_and_are_right_under_hooks() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(3, 2, dtype=torch.float64)
            self.scale = nn.Parameter(torch.ones(2, dtype=torch.float64))

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.layer(values) * self.scale

    values = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with pytest.raises(RuntimeError, match="Expanded Weights"):
        GradSampleModuleExpandedWeights(Scaled(), loss_reduction="sum")(values).sum().backward()

    wrapped = MessageGradients(Scaled(), (Segment("policy", "scale", np.arange(2, dtype=np.int64)),))
    (wrapped(values) ** 2).sum().backward()
    own = Scaled()
    expected = [torch.autograd.grad((own(row[None]) ** 2).sum(), own.scale)[0].numpy() for row in values]
    assert wrapped.take(5) == pytest.approx(np.array(expected), rel=1e-12)
