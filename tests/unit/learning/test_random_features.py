"""A fixed public map of features: what it is, that only what is linear in it is trained, and what is sent of that."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import admissible_actions
from secure_frl.learning.environments.icu_sepsis_features import IcuSepsisFeatures, state_features
from secure_frl.learning.forms import PolicyForm
from secure_frl.learning.layout import CRITIC_BLOCK, POLICY_BLOCK, RESIDUAL
from secure_frl.learning.linear_critic import LinearCritic
from secure_frl.learning.objectives.reinforce import CRITIC, Reinforce
from secure_frl.learning.policies import Policy, build_policy, observed, observed_with_final
from secure_frl.learning.random_features import first_map, mapped
from secure_frl.learning.rollout import roll_out
from secure_frl.learning.tabular import Choice
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.gram_gradients import GramGradients
from secure_frl.privacy.message_gradients import MessageGradients

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]

WIDTH = 12


def _form(critic: str = "private", **changes: object) -> PolicyForm:
    keywords = {"features": 47, "actions": 25, "seed": 4, "bandwidth": 2.5, "critic_start": 0.7} | changes
    return PolicyForm("random_features", (WIDTH,), None, 0, critic, **keywords)  # type: ignore[arg-type]


def _loaded(form: PolicyForm) -> tuple[Policy, dict[str, np.ndarray]]:
    first = form.first_vector()
    arrays = form.arrays(first + np.random.default_rng(1).normal(size=first.size))
    policy = build_policy(form)
    policy.load(arrays)
    return policy, arrays


def _batch(form: PolicyForm, count: int = 6) -> Trajectories:
    acting = form.acting(form.first_vector())
    return roll_out(acting, IcuSepsisFeatures(count, 4), np.random.default_rng(2), np.arange(count, dtype=np.uint64))


def test_the_map_is_what_the_hash_says_number_by_number() -> None:
    """Twelve little-endian uniforms of 16 bits each, their middle taken off, over the bandwidth."""
    content = hashlib.shake_256(b"secure_frl/random_features/v1\x007\x00map.weight").digest(2 * 12 * 6)
    words = [int.from_bytes(content[2 * i : 2 * i + 2], "little") for i in range(72)]
    numbers = [sum(words[12 * k : 12 * k + 12]) for k in range(6)]

    found = first_map(7, "map.weight", (2, 3), 2.5)

    expected = [(number / 65536 + 12 / 131072 - 6) / 2.5 for number in numbers]
    assert found.shape == (2, 3)
    assert found.ravel() == pytest.approx(expected, abs=1e-12)


def test_observations_know_of_each_other_as_the_gaussian_kernel_says() -> None:
    seen = state_features()[:40].astype(np.float64)
    half = 20_000

    features = mapped(first_map(0, "map.weight", (half, 47), 2.5), seen)

    apart = ((seen[:, None] - seen[None]) ** 2).sum(axis=-1)
    assert features @ features.T == pytest.approx(np.exp(-apart / (2 * 2.5**2)), abs=5 / np.sqrt(half))
    assert (features**2).sum(axis=1) == pytest.approx(np.ones(40), abs=1e-6)  # exactly so at any width


def test_a_new_policy_is_uniform_whatever_it_is_shown() -> None:
    form = _form()
    never_seen = np.random.default_rng(0).normal(size=(5, 47)).astype(np.float32)

    found = form.probabilities_at(form.first_vector(), never_seen, np.ones((5, 25), np.bool_))

    assert found == pytest.approx(np.full((5, 25), 1 / 25))


def test_the_head_and_the_critics_weights_are_all_that_is_trained_and_sent() -> None:
    form = _form()
    policy = build_policy(form)

    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}

    assert trained == {"head.weight", RESIDUAL}
    assert [(s.block, s.parameter, s.coordinates.size) for s in form.layout.segments] == [
        (POLICY_BLOCK, "head.weight", 25 * WIDTH),
        (CRITIC_BLOCK, RESIDUAL, WIDTH),
    ]


def test_a_value_network_beside_it_has_a_map_of_its_own_that_stays_too() -> None:
    form = _form("network")
    policy = build_policy(form)
    first = form.arrays(form.first_vector())
    policy.load(first)

    assert {s.parameter for s in form.layout.segments} == {"head.weight", "value.head.weight"}
    assert not np.array_equal(first["map.weight"], first["value.map.weight"])
    assert policy.value_of(torch.zeros(1, 2, 47)).tolist() == [[0.7, 0.7]]


@pytest.mark.parametrize("critic", ["private", "none"])
def test_a_forward_pass_is_linear_in_the_map_under_the_masks_that_came(critic: str) -> None:
    form = _form(critic)
    policy, arrays = _loaded(form)
    batch = _batch(form)

    log_probabilities, residual, visits = policy(*observed(batch))

    at = np.nonzero(batch.steps)
    seen, masks = batch.observations[at], batch.allowed[at]  # type: ignore[index]
    phi = mapped(arrays["map.weight"], seen.astype(np.float64))
    logits = np.where(masks, phi @ arrays["head.weight"].T, -np.inf)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.exp(log_probabilities[at].detach().numpy()) == pytest.approx(
        weights / weights.sum(axis=1, keepdims=True), abs=1e-5
    )
    assert visits is None
    assert (residual is None) == (critic == "none")


@pytest.mark.parametrize("engine", [MessageGradients, GramGradients])
def test_a_trajectorys_gradient_is_features_times_its_advantages_and_residuals(
    engine: type[MessageGradients] | type[GramGradients],
) -> None:
    form = _form()
    policy, arrays = _loaded(form)
    batch = _batch(form)
    objective = Reinforce(1.0, 0.5, "private")
    public = {CRITIC: LinearCritic(np.linspace(-0.2, 0.2, WIDTH), 0.7, 0.0, 1.0)}
    policy.train()
    wrapped = engine(policy, form.layout.segments)
    targets = objective.targets(policy, public, batch)
    wrapped.backward(objective.losses(policy, batch, targets).sum())

    found = wrapped.take(batch.count)

    wrapped.to_standard_module()
    for row in range(batch.count):
        length = int(batch.lengths[row])
        phi = mapped(arrays["map.weight"], batch.observations[row, :length].astype(np.float64))
        allowed = batch.allowed[row, :length]  # type: ignore[index]
        pull = -form.probabilities_of(arrays, batch.observations[row, :length], allowed, Choice())
        pull[np.arange(length), batch.actions[row, :length]] += 1.0
        pull *= targets["advantages"][row, :length, None]
        expected = -np.concatenate([(pull.T @ phi).ravel(), targets["residuals"][row, :length] @ phi])
        assert found[row] == pytest.approx(expected, abs=1e-5)


def test_a_linear_critic_bootstraps_a_cut_episode_and_stays_in_the_range_of_returns() -> None:
    form = _form()
    policy, arrays = _loaded(form)
    batch = dataclasses.replace(_batch(form), terminated=np.array([False, True] * 3))
    critic = LinearCritic(np.full(WIDTH, 3.0), 0.7, 0.0, 1.0)

    found = Reinforce(1.0, 0.0, "private").targets(policy, {CRITIC: critic}, batch)

    seen = observed_with_final(batch).numpy().astype(np.float64)
    phi = mapped(arrays["map.weight"], seen.reshape(-1, 47)).reshape(*seen.shape[:2], WIDTH)
    values = np.clip(0.7 + 3.0 * phi.sum(axis=2), 0.0, 1.0)
    assert (values.min(), values.max()) == (0.0, 1.0)
    last = batch.lengths - 1
    rows = np.arange(batch.count)
    after = np.where(batch.terminated, 0.0, values[rows, batch.lengths])
    expected = batch.rewards[rows, last] + after - values[rows, last]
    assert found["advantages"][rows, last] == pytest.approx(expected, abs=1e-5)
    assert found["residuals"][rows, last] == pytest.approx(expected, abs=1e-5)


def test_another_trajectory_changes_no_bit_of_a_gradient() -> None:
    form = _form()
    policy, _ = _loaded(form)
    batch = _batch(form)
    objective = Reinforce(1.0, 0.5, "private")
    public = {CRITIC: LinearCritic(np.linspace(-0.2, 0.2, WIDTH), 0.7, 0.0, 1.0)}

    def first(seen: Trajectories) -> np.ndarray:
        policy.train()
        wrapped = MessageGradients(policy, form.layout.segments)
        wrapped.backward(objective.losses(policy, seen, objective.targets(policy, public, seen)).sum())
        found: np.ndarray = wrapped.take(seen.count)[0].copy()
        wrapped.to_standard_module()
        return found

    others = np.arange(batch.count) > 0
    changed = dataclasses.replace(
        batch,
        rewards=np.where(others[:, None], np.float32(5), batch.rewards),
        observations=np.where(others[:, None, None], -batch.observations, batch.observations),
    )
    assert np.array_equal(first(batch), first(changed))
    assert np.any(first(batch))


@pytest.mark.parametrize(
    ("hidden", "admissible", "features"),
    [((12,), admissible_actions(), 0), ((11,), None, 47), ((8, 8), None, 47)],
)
def test_states_and_widths_that_make_no_map_are_refused(
    hidden: tuple[int, ...], admissible: np.ndarray | None, features: int
) -> None:
    with pytest.raises(InvalidParameter, match="even width"):
        PolicyForm(
            "random_features", hidden, admissible, 713 if features == 0 else 0, "none", features=features, actions=25
        )


def test_a_linear_critic_needs_the_map() -> None:
    plain = build_policy(PolicyForm("mlp", (4,), None, 0, "none", features=47, actions=25))

    with pytest.raises(InvalidParameter, match="random features under a linear critic"):
        plain.mapped_along(torch.zeros(1, 1, 47), np.zeros(4))  # type: ignore[operator]
