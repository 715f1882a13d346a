"""A hospital's own values with a shared policy as prior: exact in small cases, and worth what they should be."""

from __future__ import annotations

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.learning.environments.icu_sepsis import admissible_actions
from secure_frl.learning.environments.site_shift import PRACTICE_EFFECT, ShiftedIcuSepsis, dynamics_at
from secure_frl.learning.evaluation import exact_values
from secure_frl.learning.personalisation import own_values
from secure_frl.learning.rollout import roll_out_table
from secure_frl.learning.trajectories import Trajectories

ALL = np.ones((3, 2), dtype=np.bool_)


def _stays(actions: list[int], rewards: list[float], *, terminated: bool = True, final: int = 2) -> Trajectories:
    """One-step stays in state 0."""
    count = len(actions)
    return Trajectories(
        observations=np.zeros((count, 1), dtype=np.int64),
        actions=np.array(actions, dtype=np.int64)[:, None],
        allowed=None,
        rewards=np.array(rewards, dtype=np.float32)[:, None],
        log_behaviour=None,
        steps=np.ones((count, 1), dtype=np.bool_),
        terminated=np.full(count, terminated),
        final_observations=np.full(count, final, dtype=np.int64),
        persons=np.arange(count, dtype=np.uint64),
    )


def test_many_own_records_outweigh_any_preference() -> None:
    own = _stays([0] * 4000 + [1] * 4000, [1.0, 0.0] * 2000 + [1.0, 0.0, 0.0, 0.0] * 1000)
    preference = np.array([[0.0, 5.0], [0.0, 1.0], [0.0, 0.0]])

    found = own_values(own, preference, ALL, first_value=0.5)

    assert found.values[0] == pytest.approx([0.5, 0.25], abs=0.005)  # the means of the rewards
    assert found.slope == 0.0  # own records speak against it, so the preference counts for nothing
    assert found.greedy()[0].tolist() == [1.0, 0.0]


def test_where_a_hospital_has_seen_nothing_it_follows_the_shared_policy() -> None:
    # State 0 says that the preference is right, by .1 for each unit; state 1 was never met.
    own = _stays([0] * 4000 + [1] * 4000, [1.0, 0.0] * 2000 + [1.0, 1.0, 1.0, 0.0, 0.0] * 800)
    preference = np.array([[0.0, 1.0], [3.0, 0.0], [0.0, 0.0]])

    found = own_values(own, preference, ALL, first_value=0.5)

    assert found.slope == pytest.approx(0.1, rel=0.02)
    assert found.greedy()[1].tolist() == [1.0, 0.0]
    assert found.values[1] == pytest.approx([0.5 + 0.15, 0.5 - 0.15], abs=0.01)


def test_without_records_the_prior_is_all() -> None:
    nobody = _stays([0], [0.0]).select(np.array([], dtype=np.int64))

    found = own_values(nobody, np.array([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]), ALL, first_value=0.5)

    assert np.isfinite(found.values).all()
    assert found.values == pytest.approx(np.full((3, 2), 0.5))  # nothing says what a preference is worth


def test_a_cut_stay_is_worth_its_last_state_and_an_ended_one_nothing_more() -> None:
    no_choice = np.array([[True, False], [True, False], [True, False]])
    cut = _stays([0] * 20_000, [0.0] * 20_000, terminated=False, final=1)
    ended = _stays([0] * 20_000, [0.0] * 20_000, terminated=True, final=1)

    worth_cut = own_values(cut, np.zeros((3, 2)), no_choice, first_value=0.5, discount=0.8).values[0, 0]
    worth_ended = own_values(ended, np.zeros((3, 2)), no_choice, first_value=0.5, discount=0.8).values[0, 0]

    assert worth_cut == pytest.approx(0.4, abs=1e-3)  # .8 times the public value of a state never met
    assert worth_ended == pytest.approx(0.0, abs=1e-3)


def test_inadmissible_actions_are_never_chosen() -> None:
    own = _stays([0] * 10, [0.0] * 10)
    admissible = np.array([[True, False], [True, True], [True, True]])

    found = own_values(own, np.array([[0.0, 9.0], [0.0, 9.0], [0.0, 0.0]]), admissible, first_value=0.5)

    assert found.greedy()[0].tolist() == [1.0, 0.0]


def test_features_and_nonsense_are_refused() -> None:
    own = _stays([0], [0.0])
    with pytest.raises(InvalidParameter, match="preference"):
        own_values(own, np.zeros((2, 2)), ALL, first_value=0.5)
    with pytest.raises(InvalidParameter, match="prior weight"):
        own_values(own, np.zeros((3, 2)), ALL, first_value=0.5, prior_weight=0.0)


@pytest.mark.statistical
def test_a_hospital_with_a_good_prior_beats_both_it_and_its_own_records_alone() -> None:
    """6,000 stays treated at random, seed 4, one comparison: no chance is left but in these draws.

    The shared policy prefers what is best as published; this hospital differs in 30 % of the states.
    """
    site = dynamics_at(PRACTICE_EFFECT, 0.3, 5, 2)
    admissible = admissible_actions()
    uniform = admissible / admissible.sum(axis=1, keepdims=True)
    stays = roll_out_table(
        uniform, ShiftedIcuSepsis(6000, 48, site), np.random.default_rng(4), np.arange(6000, dtype=np.uint64)
    )
    elsewhere = roll_out_table(
        uniform,
        ShiftedIcuSepsis(60_000, 48, dynamics_at("none", 0.0, 0, 0)),
        np.random.default_rng(5),
        np.arange(60_000, dtype=np.uint64),
    )
    published = own_values(elsewhere, np.zeros((716, 25)), admissible, first_value=0.78)
    preference = np.where(admissible, published.values, 0.0)

    alone = own_values(stays, np.zeros((716, 25)), admissible, first_value=0.78)
    personal = own_values(stays, preference, admissible, first_value=0.78)

    exact = exact_values(site)
    gaps = [exact.score(one.greedy()).gap_recovered for one in (published, alone, personal)]
    assert gaps[2] > gaps[0] + 0.02, gaps
    assert gaps[2] > gaps[1] + 0.02, gaps
    assert 0.2 < personal.slope < 1.0  # in units of the return, less what 30 % of the states deny
