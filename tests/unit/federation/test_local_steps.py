"""Several noised steps inside a site: what moves the policy there is what is sent, and nothing else is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation, training
from secure_frl.federation.local_steps import Message, constants_of_one_sum, moved
from secure_frl.federation.optimisers import critic_values, initial_state, step
from secure_frl.federation.simulated_patients import SimulatedPatients
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training import Trainer
from secure_frl.learning.environments.icu_sepsis import admissible_actions
from secure_frl.learning.objectives.ppo import ProximalPolicy
from secure_frl.learning.objectives.reinforce import CRITIC, Reinforce
from secure_frl.learning.policies import TablePolicy
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.events import decode_event
from secure_frl.privacy.planning import make_plan
from secure_frl.privacy.update import PrivateUpdate, private_update
from secure_frl.randomness import rehearsal_source
from secure_frl.records.ledger import read_ledger_state
from secure_frl.secure_sum import Block, SiteId, Sum, SumConstants
from secure_frl.study import Study

pytestmark = pytest.mark.slow
Tiny = Callable[..., Study]

EPOCHS = 3
ETA = 40.0
PPO = {
    "training.objective": "ppo",
    "training.epochs": EPOCHS,
    "training.aggregation": "fedavg",
    "training.local": {"step_size": ETA},
    "training.global": {"step_size": 1.0, "momentum": 0.0, "schedule": "constant"},
    "privacy.noise": "local",
}


def _window(study: Study) -> Trajectories:
    return SimulatedPatients(study, SiteId(0), bytes(32)).probe()


def _update(study: Study, constants: SumConstants) -> PrivateUpdate:
    window = _window(study)
    state = initial_state(optimiser_rule(study, constants))
    everybody = np.ones(window.count, dtype=np.bool_)
    return Trainer(study, constants).update(state, window, everybody, rehearsal_source(3, "local steps"), 0)


def test_the_message_is_the_sum_of_clipped_steps_taken_by_hand(tiny: Tiny) -> None:
    """Without noise: per-unit autograd, clipping and plain SGD in a loop, three times."""
    study = tiny({**PPO, "privacy.noise": "unsafe-none"})
    constants = make_plan(study).constants
    rule = optimiser_rule(study, constants)
    window, state = _window(study), initial_state(rule)

    message = _update(study, constants)

    objective = ProximalPolicy(Reinforce(1.0, study.training.gae_lambda, "private"), study.training.clip_ratio)
    public = {CRITIC: critic_values(state, 716)}
    policy = TablePolicy(admissible_actions(), "private")
    segments = list(rule.layout.segments)
    expected = np.zeros(constants.length)
    for _ in range(EPOCHS):
        total = np.zeros(constants.length)
        for episode in range(window.count):
            one = window.select(np.array([episode]))
            losses = objective.losses(policy, one, objective.targets(policy, public, one))
            named = dict(policy.named_parameters())
            found = dict(zip(named, torch.autograd.grad(losses.sum(), list(named.values())), strict=True))
            vector = np.concatenate([found[s.parameter].numpy().ravel()[s.coordinates] for s in segments])
            for block in constants.blocks:
                part = vector[block.start : block.stop]
                total[block.start : block.stop] += (
                    math.sqrt(block.noise_share) * part / max(block.clip_norm, float(np.linalg.norm(part)))
                )
        expected += total
        block = constants.blocks[0]
        mean = -total[: block.stop] * block.clip_norm / math.sqrt(block.noise_share) / study.training.episodes_per_site
        policy.logits.weight.data.reshape(-1)[torch.from_numpy(segments[0].coordinates)] += ETA * torch.from_numpy(mean)
    assert np.abs(message.integers / message.scale - expected).max() <= 1.001 * EPOCHS / message.scale
    assert np.abs(policy.logits.weight.detach().numpy()).max() > 0.01  # the policy did move in between


def _watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Record, at each noised sum of a site, the policy that it is computed at and what comes out."""
    seen: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []

    def watched(policy: Any, *arguments: Any, **more: Any) -> PrivateUpdate:
        at = policy.logits.weight.detach().numpy().copy().ravel()
        update = private_update(policy, *arguments, **more)
        seen.append((at, update.integers.copy()))
        return update

    monkeypatch.setattr(training, "private_update", watched)
    return seen


def test_inside_a_site_the_policy_moves_by_noised_integers_only(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny(PPO)
    constants = make_plan(study).constants
    rule = optimiser_rule(study, constants)
    seen = _watch(monkeypatch)

    message = _update(study, constants)

    assert len(seen) == EPOCHS == study.noised_sums
    coordinates = rule.layout.segments[0].coordinates
    parameters = initial_state(rule).parameters
    for at, noised in seen:
        np.testing.assert_array_equal(at[coordinates], parameters)
        parameters = moved(parameters, noised, constants.scale, rule, ETA)
    np.testing.assert_array_equal(message.integers, sum(noised for _, noised in seen))
    # the noise is there in each of them: deviation 4,096 on a grid where the clipped sum is a few thousand at most
    for _, noised in seen:
        assert 0.9 < noised[rule.layout.slice_of("visits.weight")].std() / 4096 < 1.1


def test_with_a_global_step_of_1_the_site_s_own_move_is_what_everybody_applies(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny(PPO)
    constants = make_plan(study).constants
    rule = optimiser_rule(study, constants)
    state = initial_state(rule)
    seen = _watch(monkeypatch)
    message = _update(study, constants)
    own = state.parameters
    for _, noised in seen:
        own = moved(own, noised, constants.scale, rule, ETA)

    following = step(state, Sum(message.integers, constants.scale, (SiteId(0),)), rule)

    np.testing.assert_allclose(following.parameters, own, rtol=1e-12, atol=1e-12)


def test_epochs_are_charged_as_so_many_noised_sums(tiny: Tiny, tmp_path: Path) -> None:
    """Three Gaussians of one multiplier are one of a root three smaller; its exact curve by Balle and Wang 2018."""
    simulation.run(tiny(PPO), tmp_path / "run")

    outcome = verify(tmp_path / "run")
    events = [
        decode_event(one) for one in read_ledger_state(tmp_path / "run/state/sites/site-01/ledger.sqlite").events()
    ]

    assert outcome.findings == ()
    assert [(event.noised_sums, event.composition_group) for event in events] == [(EPOCHS, "fresh")] * 2
    claimed = outcome.epsilon_claimed
    assert claimed is not None
    mu = math.sqrt(EPOCHS) * events[0].rounding_bound / math.sqrt(events[0].integer_noise_scale ** 2 - 4)
    phi = NormalDist().cdf
    exact = phi(mu / 2 - claimed / mu) - math.exp(claimed) * phi(-mu / 2 - claimed / mu)
    assert 0.97 * 1e-3 < exact <= 1e-3  # the delta at the claim: below the study's, and hardly


def test_the_ring_holds_as_many_sums_as_a_message_adds_up(tiny: Tiny) -> None:
    once, often = (make_plan(tiny({**PPO, "training.epochs": epochs})).constants for epochs in (1, EPOCHS))

    one = constants_of_one_sum(often, EPOCHS)

    # the noise multiplier grows with the number of sums, so scale and bound of each shrink: compare in units of a clip
    assert often.bound == EPOCHS * one.bound
    assert one.bound >= one.scale * 24
    assert one.bound / one.scale == pytest.approx(once.bound / once.scale, rel=1e-3)
    assert often.sites * often.bound + often.noise_bound < 2 ** (often.modulus_bits - 1)
    assert often.noise_bound == pytest.approx(once.noise_bound * math.sqrt(EPOCHS), rel=1e-4)
    assert replace(often, bound=one.bound) == one
    with pytest.raises(InvalidParameter, match="bound"):
        constants_of_one_sum(replace(often, bound=EPOCHS * one.bound + 1), EPOCHS)


# --- FedProx ---------------------------------------------------------------------------------------------------------

MU = 0.01
PROX = {**PPO, "training.aggregation": "fedprox", "training.local": {"step_size": ETA, "proximal": MU}}


def test_every_step_of_fedprox_is_pulled_back_and_everybody_applies_where_the_site_ended(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Li et al. 2020: theta + eta mean(n) - eta mu (theta - theta_1), by hand, from the noised sums as they were."""
    study = tiny(PROX)
    constants = make_plan(study).constants
    rule = optimiser_rule(study, constants)
    seen = _watch(monkeypatch)
    message = _update(study, constants)
    block = rule.blocks[0]
    coordinates, place = rule.layout.segments[0].coordinates, slice(block.start, block.stop)
    unit = block.clip_norm / math.sqrt(block.noise_share) / constants.scale / study.training.episodes_per_site
    first = initial_state(rule)

    own = first.parameters
    for at, noised in seen:
        np.testing.assert_allclose(at[coordinates], own, rtol=1e-12, atol=1e-12)
        own = own + ETA * -unit * noised[place] - ETA * MU * (own - first.parameters)

    following = step(first, Sum(message.integers, constants.scale, (SiteId(0),)), rule)
    rounding = 0.5 * ETA * unit  # of the message to integers
    assert np.abs(following.parameters - own).max() <= 1.001 * rounding
    assert np.abs(own - first.parameters).max() > 1000 * rounding
    critic = rule.layout.slice_of("visits.weight")  # is not moved, so it is summed
    np.testing.assert_array_equal(message.integers[critic], sum(noised for _, noised in seen)[critic])


@given(
    kept=st.one_of(st.sampled_from([1.0, 1 - 2.0**-53, 1 - 1e-9, 0.5]), st.floats(1e-3, 1.0)),
    sums=st.lists(st.sampled_from([2**43 - 1, -(2**43) + 1, 2**42, 0, -1]), min_size=1, max_size=500),
)
def test_the_weighted_message_is_never_longer_than_as_many_sums_of_the_bound(kept: float, sums: list[int]) -> None:
    """So bound and ring of the plain sum hold; 500 sums of 2^43 are the bound's limit, 2^52."""
    message = Message(2, Block("policy", 0, 1, 1.0, 1.0), kept)
    for value in sums:
        message.add(np.array([value, value], dtype=np.int64))

    weighted, plain = message.integers

    assert abs(int(weighted)) <= len(sums) * max(map(abs, sums))
    assert plain == sum(sums)
    assert kept < 1 or weighted == plain


@pytest.mark.parametrize("kept", [0.0, -0.5, 1.5, float("nan")])
def test_a_pull_that_overshoots_is_refused(kept: float) -> None:
    with pytest.raises(InvalidParameter, match=r"Lower training\.local\.proximal"):
        Message(2, Block("policy", 0, 1, 1.0, 1.0), kept)
