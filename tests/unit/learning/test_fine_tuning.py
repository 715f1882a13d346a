"""A network fitted further at one hospital: what moves, and how far it is held back."""

from __future__ import annotations

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions
from secure_frl.learning.fine_tuning import Losses, fine_tuned
from secure_frl.learning.forms import PolicyForm
from secure_frl.learning.objectives.behaviour_cloning import BehaviourCloning
from secure_frl.learning.policies import Policy, build_policy
from secure_frl.learning.rollout import roll_out_table
from secure_frl.learning.trajectories import Trajectories

CLONING = BehaviourCloning(48)
FIT = {"steps": 40, "step_size": 0.05, "pull": 0.0, "seed": 0}


def _losses(policy: Policy, batch: Trajectories):  # type: ignore[no-untyped-def]  # a tensor
    return CLONING.losses(policy, batch, CLONING.targets(policy, {}, batch))


@pytest.fixture
def policy() -> Policy:
    form = PolicyForm("mlp", (6, 5), admissible_actions(), 713, "none")
    made = build_policy(form)
    made.load(form.arrays(form.first_vector()))
    return made


@pytest.fixture(scope="module")
def own() -> Trajectories:
    admissible = admissible_actions().astype(np.float64)
    first = np.zeros(admissible.shape)
    first[np.arange(len(first)), admissible.argmax(axis=1)] = 1.0
    return roll_out_table(first, IcuSepsis(60, 48), np.random.default_rng(1), np.arange(60, dtype=np.uint64))


def _values(policy: Policy) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy().copy() for name, parameter in policy.named_parameters()}


def test_own_records_are_fitted_better_and_only_what_may_move_moves(policy: Policy, own: Trajectories) -> None:
    losses: Losses = _losses
    before, first = _values(policy), float(losses(policy, own).mean().detach())

    moved = fine_tuned(policy, losses, own, ["head.weight", "head.bias"], **FIT)  # type: ignore[arg-type]

    assert float(losses(policy, own).mean().detach()) < 0.8 * first
    assert set(moved) == {"head.weight", "head.bias"}
    for name, value in _values(policy).items():
        assert np.array_equal(value, before[name]) == (name not in moved), name


def test_a_strong_pull_holds_a_network_at_the_shared_parameters(policy: Policy, own: Trajectories) -> None:
    before = _values(policy)

    free = fine_tuned(policy, _losses, own, ["head.weight"], **FIT)  # type: ignore[arg-type]
    policy.load({"head.weight": before["head.weight"]})
    held = fine_tuned(policy, _losses, own, ["head.weight"], **FIT | {"pull": 1e3})  # type: ignore[arg-type]

    far = np.abs(free["head.weight"] - before["head.weight"]).max()
    near = np.abs(held["head.weight"] - before["head.weight"]).max()
    assert near < 0.2 * far


def test_nobody_or_an_unknown_parameter_is_refused(policy: Policy, own: Trajectories) -> None:
    with pytest.raises(InvalidParameter, match="own trajectories"):
        fine_tuned(policy, _losses, own.select(np.array([], dtype=np.int64)), ["head.bias"], **FIT)  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter, match="own trajectories"):
        fine_tuned(policy, _losses, own, ["elbow.bias"], **FIT)  # type: ignore[arg-type]
