"""Rows: which trajectories or steps a loss is computed on, for each unit of protection."""

import dataclasses

import numpy as np
import pytest
import torch

from secure_frl.learning.objectives.reinforce import CRITIC, Reinforce
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.rows import as_units, single_steps

GENERATOR = np.random.default_rng(0)
STEPS = np.array([[True, True, True], [True, False, False], [True, True, False]])


def window() -> Trajectories:
    """Three episodes of 3, 1 and 2 steps; the second was cut."""
    return Trajectories(
        observations=np.array([[0, 1, 2], [3, 0, 0], [4, 5, 0]], dtype=np.int64),
        actions=np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0]], dtype=np.int64),
        allowed=None,
        rewards=np.array([[0, 0, 1], [0.5, 0, 0], [0, -1, 0]], dtype=np.float32),
        log_behaviour=None,
        steps=STEPS,
        terminated=np.array([True, False, True]),
        final_observations=np.array([7, 6, 7], dtype=np.int64),
        persons=np.array([10, 11, 10], dtype=np.uint64),
    )


def test_a_step_takes_its_next_state_along_and_ends_only_where_its_episode_ends() -> None:
    rows = single_steps(window())

    assert rows.observations[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert rows.final_observations.tolist() == [1, 2, 7, 6, 5, 7]
    assert rows.terminated.tolist() == [False, False, True, False, False, True]
    assert rows.rewards[:, 0].tolist() == [0, 0, 1, 0.5, 0, -1]
    assert rows.persons.tolist() == [10, 10, 10, 11, 10, 10]


def test_a_step_takes_along_what_is_allowed_after_it() -> None:
    episodes = window()
    masks = np.zeros((3, 3, 2), dtype=np.bool_)
    masks[..., 0] = STEPS  # at a step the first action, at an episode's end the second
    final = np.tile([False, True], (3, 1))

    rows = single_steps(dataclasses.replace(episodes, allowed=masks, final_allowed=final))

    assert rows.final_allowed is not None
    assert rows.final_allowed.argmax(axis=1).tolist() == [0, 0, 1, 1, 0, 1]
    assert single_steps(dataclasses.replace(episodes, allowed=masks)).final_allowed is None


def test_an_unusable_episode_takes_its_own_steps_along_and_no_other() -> None:
    _, usable, units = as_units(window(), np.array([True, False, True]), "unsafe-transition")

    assert usable.tolist() == [True, True, True, False, True, True]
    assert units.tolist() == [0, 1, 2, 3, 4, 5]


def test_inside_a_site_an_unusable_trajectory_is_left_out_by_itself() -> None:
    rows, usable, units = as_units(window(), np.array([True, False, True]), "site")

    assert rows.observations[:, 0].tolist() == [0, 4]
    assert usable.tolist() == [True, True]
    assert units.tolist() == [0, 0]


@pytest.mark.parametrize("unit", ["patient", "trajectory", "site", "unsafe-transition"])
def test_an_empty_window_gives_no_rows(unit: str) -> None:
    nobody = window().select(np.empty(0, dtype=np.int64))

    rows, usable, units = as_units(nobody, np.ones(0, dtype=np.bool_), unit)

    assert (rows.count, usable.size, units.size) == (0, 0, 0)


def test_a_steps_loss_is_its_own_only_when_the_objective_looks_no_further_ahead() -> None:
    """One reward of an episode changes: with lambda 0 one step's advantage, with lambda > 0 earlier ones too."""
    public = {CRITIC: np.linspace(0, 0.7, 8)}
    later = window()
    later.rewards[0, 2] += 1

    def moved(gae_lambda: float) -> list[bool]:
        objective = Reinforce(1.0, gae_lambda, "none")
        before, after = (objective.targets(None, public, one)["advantages"] for one in (window(), later))
        return (before != after)[0].tolist()  # type: ignore[no-any-return]  # an array of bool

    assert moved(0.0) == [False, False, True]
    assert moved(0.2) == [True, True, True]


def test_with_lambda_zero_the_losses_of_the_steps_add_up_to_the_episodes() -> None:
    public = {CRITIC: np.linspace(0, 0.7, 8)}
    objective = Reinforce(1.0, 0.0, "none")
    table = torch.from_numpy(GENERATOR.normal(size=(8, 2)))

    def losses(batch: Trajectories) -> torch.Tensor:
        def policy(states: torch.Tensor, _: None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            logits = torch.log_softmax(table[states], dim=-1)
            return logits, torch.zeros(states.shape), torch.zeros(states.shape)

        return objective.losses(policy, batch, objective.targets(None, public, batch))

    steps = losses(single_steps(window())).numpy()
    whole = losses(window()).numpy()

    np.testing.assert_allclose([steps[:3].sum(), steps[3], steps[4:].sum()], whole, rtol=1e-12)
