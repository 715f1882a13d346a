"""Policies act as their arrays say, and stay modules whose gradients can be separated by trajectory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import LIVE_STATES, IcuSepsis, admissible_actions
from secure_frl.learning.environments.icu_sepsis_features import IcuSepsisFeatures, state_features
from secure_frl.learning.forms import PolicyForm
from secure_frl.learning.networks import VALUE, logits_of
from secure_frl.learning.objectives.reinforce import CRITIC, Reinforce
from secure_frl.learning.policies import Policy, TablePolicy, build_policy, observed
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.message_gradients import MessageGradients

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]

SMALL = np.array([[True, True, False], [False, True, False], [True, True, True]])
KINDS = ["table", "mlp", "gru", "lstm"]
HIDDEN = (6, 5, 4)


def form_of(kind: str, critic: str = "private") -> PolicyForm:
    return PolicyForm(kind, HIDDEN, admissible_actions(), LIVE_STATES, critic, seed=3)


def away_from_the_start(form: PolicyForm, seed: int = 0) -> np.ndarray:
    first = form.first_vector()
    return first + 0.3 * np.random.default_rng(seed).normal(size=first.size)


def loaded(form: PolicyForm, parameters: np.ndarray) -> Policy:
    policy = build_policy(form)
    policy.load(form.arrays(parameters))
    return policy


def ragged(form: PolicyForm, parameters: np.ndarray, count: int = 12) -> Trajectories:
    persons = np.arange(count, dtype=np.uint64)
    return roll_out(form.acting(parameters), IcuSepsis(count, 9), np.random.default_rng(2), persons)


def test_a_new_table_is_uniform_over_admissible_actions_and_a_new_network_nearly() -> None:
    table = PolicyForm("table", (), SMALL, 3, "none")
    network = PolicyForm("mlp", (8,), SMALL, 3, "none")

    uniform = np.array([[0.5, 0.5, 0], [0, 1, 0], [1 / 3, 1 / 3, 1 / 3]])
    assert table.probabilities(table.first_vector()) == pytest.approx(uniform)
    assert 0 < np.abs(network.probabilities(network.first_vector()) - uniform).max() < 0.01


def test_free_logits_arrive_in_the_order_of_the_layout() -> None:
    form = PolicyForm("table", (), SMALL, 3, "none")

    policy = loaded(form, np.array([1.0, 2.0, 3.0, 4.0, 5.0]))

    assert policy.logits.weight.tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5]]  # type: ignore[union-attr]  # a table


@pytest.mark.parametrize("kind", KINDS)
def test_a_forward_pass_says_what_the_arrays_did_in_every_step_of_an_episode(kind: str) -> None:
    """Two programs: numpy acted, step after step with a memory; torch reads whole episodes."""
    form = form_of(kind)
    parameters = away_from_the_start(form)
    batch = ragged(form, parameters)
    assert len(set(batch.lengths.tolist())) > 3

    log_probabilities, _, _ = loaded(form, parameters)(torch.from_numpy(batch.observations))

    taken = log_probabilities.gather(-1, torch.from_numpy(batch.actions)[..., None])[..., 0].detach().numpy()
    assert np.abs(taken - batch.log_behaviour)[batch.steps].max() < 1e-6  # log_behaviour is float32
    assert batch.log_behaviour is not None
    assert np.abs(batch.log_behaviour[batch.steps]).max() > 1


@pytest.mark.parametrize("kind", ["table", "mlp"])
def test_a_policy_without_memory_is_the_table_of_its_forward_pass(kind: str) -> None:
    form = form_of(kind)
    parameters = away_from_the_start(form)

    log_probabilities, _, _ = loaded(form, parameters)(torch.arange(716)[None, :])

    assert np.abs(log_probabilities[0].exp().detach().numpy() - form.probabilities(parameters)).max() < 1e-14


@pytest.mark.parametrize(("kind", "cell"), [("gru", nn.GRU), ("lstm", nn.LSTM)])
def test_recurrent_layers_are_torchs_own_cells(kind: str, cell: type[nn.GRU] | type[nn.LSTM]) -> None:
    """The same numbers under the same names in nn.GRU and nn.LSTM, which are refused only for their gradients."""
    form = form_of(kind)
    policy = loaded(form, away_from_the_start(form))
    own = cell(HIDDEN[1], HIDDEN[2], batch_first=True, dtype=torch.float64)
    own.load_state_dict(policy.recurrent.state_dict())  # type: ignore[union-attr]  # a recurrent policy
    values = torch.randn(3, 7, HIDDEN[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    assert torch.allclose(policy.recurrent(values)[0], own(values)[0], atol=1e-14, rtol=0)  # type: ignore[misc]


def test_critic_tables_carry_gradients_and_no_values() -> None:
    policy = TablePolicy(SMALL, "private")

    _, residual, visits = policy(torch.tensor([[0, 2]]))

    assert residual is not None
    assert visits is not None
    assert not residual.any()
    assert not visits.any()
    assert {name for name, _ in policy.named_parameters()} == {"logits.weight", "residual.weight", "visits.weight"}
    assert {name for name, _ in TablePolicy(SMALL, "none").named_parameters()} == {"logits.weight"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("critic", ["private", "none"])
def test_the_layout_names_every_parameter_of_the_module_in_its_shape(kind: str, critic: str) -> None:
    form = form_of(kind, critic)

    shapes = {name: tuple(weight.shape) for name, weight in build_policy(form).named_parameters()}

    assert {segment.parameter for segment in form.layout.segments} == set(shapes)
    for name, array in form.arrays(form.first_vector()).items():
        assert array.shape == shapes[name]


@pytest.mark.parametrize("kind", KINDS)
def test_per_trajectory_gradients_equal_autograd_one_by_one_and_vmap_and_nothing_that_changes_is_left_out(
    kind: str,
) -> None:
    form = form_of(kind)
    parameters = away_from_the_start(form)
    policy, batch = loaded(form, parameters), ragged(form, parameters)
    objective = Reinforce(1.0, 0.2, "private")
    targets = objective.targets(policy, {CRITIC: np.r_[np.full(713, 0.78), np.zeros(3)]}, batch)
    named = dict(policy.named_parameters())

    alone = [
        dict(
            zip(named, torch.autograd.grad(objective.losses(policy, one, own).sum(), list(named.values())), strict=True)
        )
        for one, own in _one_by_one(batch, targets)
    ]
    wrapped = MessageGradients(policy.train(), form.layout.segments)
    objective.losses(wrapped, batch, targets).sum().backward()
    hooked = wrapped.take(batch.count)
    wrapped.to_standard_module()
    mapped = _by_vmap(policy, batch, targets)

    start = 0
    for segment in form.layout.segments:
        stop = start + segment.coordinates.size
        expected = torch.stack([gradients[segment.parameter].reshape(-1) for gradients in alone]).numpy()
        assert np.abs(hooked[:, start:stop] - expected[:, segment.coordinates]).max() < 1e-12
        assert np.abs(hooked[:, start:stop] - mapped[segment.parameter][:, segment.coordinates]).max() < 1e-12
        assert not np.delete(expected, segment.coordinates, axis=1).any()  # what is not sent cannot change
        assert expected[:, segment.coordinates].any()
        start = stop


def _one_by_one(
    batch: Trajectories, targets: dict[str, np.ndarray]
) -> list[tuple[Trajectories, dict[str, np.ndarray]]]:
    """Each episode by itself and at its own length: no padding on this side."""
    return [
        (batch.select(np.array([row])), {name: value[row : row + 1, :length] for name, value in targets.items()})
        for row, length in enumerate(batch.lengths.tolist())
    ]


def _by_vmap(policy: Policy, batch: Trajectories, targets: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """torch.func's own per-sample gradients, by name; flat."""
    named = {name: weight.detach() for name, weight in policy.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], *rows: torch.Tensor) -> torch.Tensor:
        states, actions, steps, advantages, residuals = (row[None] for row in rows)
        log_probabilities, residual, visits = functional_call(policy, weights, (states,))
        taken = log_probabilities.gather(-1, actions[..., None])[..., 0]
        return -((taken * advantages + residual * residuals + 0.1 * visits) * steps).sum()

    rows = (batch.observations, batch.actions, batch.steps, targets["advantages"], targets["residuals"])
    found = vmap(grad(loss), in_dims=(None, *[0] * 5))(named, *map(torch.from_numpy, rows))
    return {name: value.reshape(batch.count, -1).numpy() for name, value in found.items()}


def test_first_parameters_are_a_public_function_of_kind_widths_and_seed() -> None:
    one, again = form_of("gru").first_vector(), form_of("gru").first_vector()
    other = PolicyForm("gru", HIDDEN, admissible_actions(), LIVE_STATES, "private", seed=4).first_vector()

    assert np.array_equal(one, again)
    assert np.abs(one - other).max() > 0.1
    assert np.abs(one).max() <= 1


def test_a_policy_with_a_memory_has_no_table() -> None:
    form = form_of("lstm")
    with pytest.raises(InvalidParameter, match="no table"):
        form.probabilities(form.first_vector())


def test_parameters_of_another_policy_and_an_unknown_critic_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="parameters are needed"):
        form_of("mlp").arrays(np.zeros(7))
    with pytest.raises(InvalidParameter, match="private, network or none"):
        TablePolicy(SMALL, "shared")
    with pytest.raises(InvalidParameter, match="two or more"):
        PolicyForm("gru", (8,), SMALL, 3, "none")


def features_form(kind: str, critic: str = "network", **also: object) -> PolicyForm:
    return PolicyForm(kind, HIDDEN, None, 0, critic, features=47, actions=25, seed=3, **also)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["mlp", "gru", "lstm"])
def test_over_features_a_forward_pass_says_what_the_arrays_did_under_the_masks_that_came(kind: str) -> None:
    form = features_form(kind)
    parameters = away_from_the_start(form)
    persons = np.arange(40, dtype=np.uint64)
    batch = roll_out(form.acting(parameters), IcuSepsisFeatures(40, 9), np.random.default_rng(2), persons)
    assert batch.allowed is not None
    assert len(set(batch.lengths.tolist())) > 3

    log_probabilities, residual, visits = loaded(form, parameters)(*observed(batch))

    taken = log_probabilities.gather(-1, torch.from_numpy(batch.actions)[..., None])[..., 0].detach().numpy()
    assert np.abs(taken - batch.log_behaviour)[batch.steps].max() < 1e-6  # log_behaviour is float32
    assert residual is None
    assert visits is None
    probabilities = log_probabilities.exp().detach().numpy()
    assert probabilities[batch.steps][~batch.allowed[batch.steps]].max() == 0
    assert np.isfinite(log_probabilities.detach().numpy()).all()  # padding, where nothing is allowed, included


@pytest.mark.parametrize("kind", ["mlp", "gru", "lstm"])
@pytest.mark.parametrize("sees_features", [True, False])
def test_logits_and_values_of_whole_episodes_are_those_of_the_arrays_step_by_step(
    kind: str, sees_features: bool
) -> None:
    form = features_form(kind) if sees_features else form_of(kind, "network")
    arrays = form.arrays(away_from_the_start(form))
    policy = build_policy(form)
    policy.load(arrays)
    generator = np.random.default_rng(4)
    seen = generator.normal(size=(3, 5, 47)).astype(np.float32) if sees_features else generator.integers(0, 713, (3, 5))
    values_of = {name.removeprefix(VALUE): array for name, array in arrays.items() if name.startswith(VALUE)}
    assert form.network is not None
    assert form.value_network is not None

    logits = policy.logits_of(torch.from_numpy(seen)).detach().numpy()
    values = policy.value_of(torch.from_numpy(seen)).detach().numpy()

    memory = value_memory = np.zeros((3, form.network.memory_width))
    for t in range(5):
        found, memory = logits_of(form.network, arrays, seen[:, t], memory)
        value, value_memory = logits_of(form.value_network, values_of, seen[:, t], value_memory)
        assert np.abs(found - logits[:, t]).max() < 1e-12
        assert np.abs(value[:, 0] - values[:, t]).max() < 1e-12
    assert np.abs(logits).max() > 0.1
    assert np.abs(values).max() > 0.1


@pytest.mark.parametrize("kind", ["mlp", "gru", "lstm"])
@pytest.mark.parametrize("critic", ["network", "none"])
def test_over_features_every_parameter_is_sent_in_the_policys_block(kind: str, critic: str) -> None:
    form = features_form(kind, critic)
    shapes = {name: tuple(weight.shape) for name, weight in build_policy(form).named_parameters()}

    assert {segment.block for segment in form.layout.segments} == {"policy"}
    assert {s.parameter: s.coordinates.size for s in form.layout.segments} == {
        name: int(np.prod(shape)) for name, shape in shapes.items()
    }
    assert any(name.startswith(VALUE) for name in shapes) == (critic == "network")


def test_a_value_network_over_states_sends_the_rows_of_all_live_states_and_a_policy_those_with_a_choice() -> None:
    form = form_of("mlp", "network")
    sent = {segment.parameter: segment.coordinates.size for segment in form.layout.segments}

    assert sent["embedding.weight"] == 476 * HIDDEN[0]  # states with a choice of the published model
    assert sent[f"{VALUE}embedding.weight"] == 713 * HIDDEN[0]


def test_a_new_value_network_says_the_public_first_value_nearly() -> None:
    form = features_form("mlp", critic_start=0.78)
    policy = loaded(form, form.first_vector())

    values = policy.value_of(torch.from_numpy(state_features()[:713].copy())[None]).detach().numpy()

    assert np.abs(values - 0.78).max() < 0.05
    assert values.std() > 0


@pytest.mark.parametrize("kind", ["table", "mlp"])
def test_values_of_actions_start_at_the_public_value_and_are_sent_of_every_live_state(kind: str) -> None:
    form = PolicyForm(kind, HIDDEN, admissible_actions(), LIVE_STATES, "none", acts_greedily=True, critic_start=0.78)
    policy = loaded(form, form.first_vector())
    sent = {segment.parameter: segment.coordinates.size for segment in form.layout.segments}

    assert np.abs(policy.logits_of(torch.arange(713)[None]).detach().numpy() - 0.78).max() < 0.05
    if kind == "table":
        assert sent["logits.weight"] == 2238  # admissible pairs, those without a choice included
    else:
        assert sent["embedding.weight"] == 713 * HIDDEN[0]


def test_a_policy_of_values_explores_when_it_collects_and_is_greedy_when_it_is_scored() -> None:
    form = PolicyForm("table", (), SMALL, 3, "none", acts_greedily=True)
    parameters = np.array([1.0, 2.0, 0.0, 5.0, 4.0, 3.0])

    assert form.probabilities(parameters).tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0]]
    exploring = form.acting(parameters, exploration=0.5)
    assert exploring.act(np.arange(1), np.array([0]), np.array([0.2]))[0].tolist() == [0]  # .25, .75, 0
    assert form.acting(parameters).act(np.arange(1), np.array([0]), np.array([0.2]))[0].tolist() == [1]
    chance = PolicyForm("table", (), SMALL, 3, "none")  # of which exploration is no part
    once, again = (chance.acting(np.zeros(5), exploration=part) for part in (0.0, 1.0))
    everywhere = (np.arange(3), np.arange(3), np.array([0.1, 0.5, 0.9]))
    for one, other in zip(once.act(*everywhere), again.act(*everywhere), strict=True):
        assert np.array_equal(one, other)


def test_a_table_of_states_obeys_masks_that_come() -> None:
    form = PolicyForm("table", (), np.ones((3, 3), dtype=np.bool_), 3, "none", masks_come=True)
    acting = form.acting(np.zeros(9))
    mask = np.array([[False, True, False], [True, False, True]])

    assert acting.needs_masks
    found = [acting.act(np.arange(2), np.array([0, 2]), np.full(2, u), mask)[0].tolist() for u in (0.1, 0.9)]

    assert found == [[1, 0], [1, 2]]


def test_a_trajectorys_own_masks_go_before_the_public_table() -> None:
    policy = TablePolicy(SMALL, "none")
    states, own = torch.tensor([[0, 2]]), torch.tensor([[[False, False, True], [True, False, False]]])

    assert policy(states, own)[0].exp()[0].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert policy(states)[0].exp()[0][0].tolist() == pytest.approx([0.5, 0.5, 0])


def test_forms_that_fit_no_observation_or_critic_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="mlp, gru or lstm for features"):
        PolicyForm("table", (), None, 0, "none", features=4, actions=2)
    with pytest.raises(InvalidParameter, match="critic = network"):
        features_form("mlp", "private")
    with pytest.raises(InvalidParameter, match=r"policy\.kind"):
        form_of("table", "network")
    with pytest.raises(InvalidParameter, match="value network"):
        build_policy(features_form("mlp", "none")).value_of(torch.zeros(1, 1, 47))
    with pytest.raises(InvalidParameter, match="number no states"):
        features_form("mlp").probabilities(features_form("mlp").first_vector())
