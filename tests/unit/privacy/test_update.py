"""A window's clipped message: how far anybody moves it, and who is silenced. Noise stands in test_update_noise.py.

The optimiser's own states stand in test_optimizer.py.
"""

import dataclasses

import numpy as np
import pytest
import torch
from clipped_sums import clipped_sum
from numpy.typing import NDArray
from update_windows import Table, aligned, constants, layout, losses, message, update, window

from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy import update as private

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]


@pytest.fixture(params=["tables", "hooks"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rows of tables, as a policy of tables is summed, and by Opacus' hooks, as any other may be."""
    if request.param == "hooks":
        monkeypatch.setattr(private, "is_of_tables", lambda *_: False)


# --- influence ------------------------------------------------------------------------------------------------------


def test_one_of_ten_thousand_aligned_units_moves_the_whole_message_by_one() -> None:
    everyone, one_less = message(aligned(10_000)), message(aligned(9_999))

    moved = float(np.linalg.norm(everyone.vector - one_less.vector))

    assert everyone.sensitivity == 1 + 1e-6
    assert 0.999 < moved <= 1 + 1e-6
    # The control: added up in float32, as Opacus' own sum is, the same unit moves the sum by more than is allowed.
    one = message(aligned(1)).vector.astype(np.float32)
    total = np.zeros_like(one)
    worst = 0.0
    for _ in range(10_000):
        after = total + one
        worst = max(worst, float(np.linalg.norm((after - total).astype(np.float64))))
        total = after
    assert worst > 1 + 1e-6


@pytest.mark.usefixtures("engine")
def test_any_unit_of_a_mixed_window_moves_the_whole_message_by_at_most_one() -> None:
    mixed = window(40)
    everyone = message(mixed).vector

    for left_out in range(0, 40, 7):
        others = np.delete(np.arange(40), left_out)
        assert np.linalg.norm(everyone - message(mixed.select(others)).vector) <= 1 + 1e-6


@pytest.mark.usefixtures("engine")
def test_all_trajectories_of_a_person_are_one_unit_and_each_is_one_for_the_trajectory_unit() -> None:
    persons = np.array([1, 2, 1, 3, 1], dtype=np.uint64)
    five = dataclasses.replace(aligned(5), persons=persons)
    without_person_1 = five.select(np.array([1, 3]))

    patient = np.linalg.norm(message(five).vector - message(without_person_1).vector)
    trajectory = np.linalg.norm(message(five, "trajectory").vector - message(without_person_1, "trajectory").vector)

    assert patient == pytest.approx(1.0)
    assert trajectory == pytest.approx(3.0)


@pytest.mark.usefixtures("engine")
def test_a_person_with_more_trajectories_than_a_chunk_holds_is_still_one_unit() -> None:
    many = dataclasses.replace(aligned(300), persons=np.zeros(300, dtype=np.uint64))

    assert np.linalg.norm(message(many).vector) == pytest.approx(1.0)


@pytest.mark.usefixtures("engine")
def test_a_persons_bits_do_not_depend_on_where_a_batch_is_cut() -> None:
    """Nine trajectories of one person beside ninety of others, who are silenced: what is left is hers, to the bit."""
    hers, others = window(9, seed=1, persons=np.full(9, 500, dtype=np.uint64)), window(180, seed=2)
    others = dataclasses.replace(others, persons=np.arange(180, dtype=np.uint64) // np.uint64(2))

    def beside(company: int) -> NDArray[np.float64]:
        fields = {}
        for name in ("observations", "actions", "rewards", "steps", "terminated", "final_observations", "persons"):
            fields[name] = np.concatenate([getattr(others, name)[:company], getattr(hers, name)])
        fields["rewards"][:company] = np.nan
        return message(Trajectories(**fields, allowed=None, log_behaviour=None)).vector

    alone = beside(0)
    assert alone.any()
    for company in (2, 120, 122, 124, 126, 180):  # the 128th row is one of hers, or all of them stand behind it
        assert np.array_equal(beside(company), alone)


@pytest.mark.usefixtures("engine")
def test_the_message_is_the_sum_of_each_persons_clipped_message() -> None:
    persons = np.arange(30, dtype=np.uint64) % 11
    mixed = window(30, persons=persons)

    alone = [message(mixed.select(np.flatnonzero(persons == person))).vector for person in range(11)]

    assert message(mixed).vector == pytest.approx(np.sum(alone, axis=0), rel=1e-12, abs=1e-14)
    assert max(np.linalg.norm(part) for part in alone) <= 1 + 1e-9


def test_a_whole_site_moves_the_message_by_one_clip_however_many_people_it_has() -> None:
    as_site, as_people = message(aligned(300), "site"), message(aligned(300))

    assert np.linalg.norm(as_site.vector) == pytest.approx(1.0, abs=1e-9)
    assert np.linalg.norm(as_people.vector) == pytest.approx(300, rel=1e-9)  # the control
    # Inside the unit an unusable trajectory is left out alone, and does not take the whole hospital along.
    most = np.arange(300) > 0
    assert np.linalg.norm(message(aligned(300), "site", most).vector) == pytest.approx(1.0, abs=1e-9)
    assert not message(aligned(3), "site", np.zeros(3, dtype=np.bool_)).vector.any()


def test_under_unsafe_transition_each_step_is_clipped_by_itself() -> None:
    stay = window(4, longest=5)
    steps = int(stay.steps.sum())
    stay.observations[:], stay.actions[:], stay.rewards[:] = 3, 2, np.where(stay.steps, 1000, 0)

    by_step, by_stay = message(stay, "unsafe-transition"), message(stay, "trajectory")

    assert np.linalg.norm(by_step.vector) == pytest.approx(steps, rel=1e-9)
    assert np.linalg.norm(by_stay.vector) == pytest.approx(4, rel=1e-9)
    assert by_step.unit == "unsafe-transition"


def test_the_policy_is_left_as_it_was() -> None:
    policy = Table().eval()
    before = {name: value.clone() for name, value in policy.state_dict().items()}

    clipped_sum(
        policy,
        losses,
        window(10),
        segments=layout().segments,
        constants=constants(),
    )

    assert not policy.training
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())
    assert not any(hasattr(parameter, "grad_sample") for parameter in policy.parameters())


# --- silence --------------------------------------------------------------------------------------------------------


def poisoned(trajectories: Trajectories, row: int) -> Trajectories:
    rewards = trajectories.rewards.copy()
    rewards[row, 0] = np.nan
    return dataclasses.replace(trajectories, rewards=rewards)


@pytest.mark.usefixtures("engine")
def test_a_unit_with_a_gradient_that_is_not_finite_counts_as_absent() -> None:
    clean = window(20)

    found = message(poisoned(clean, 4))

    assert found.vector == pytest.approx(message(clean.select(np.delete(np.arange(20), 4))).vector, abs=1e-14)
    assert found.dropped == 1


def test_a_unit_with_one_unusable_trajectory_counts_as_absent_whole() -> None:
    persons = np.array([1, 2, 1, 3], dtype=np.uint64)
    four = window(4, persons=persons)

    found = message(four, usable=np.array([True, True, False, True]))

    assert found.vector == pytest.approx(message(four.select(np.array([1, 3]))).vector, abs=1e-14)


def test_a_poisoned_unusable_or_missing_unit_changes_neither_form_nor_words() -> None:
    clean = window(20)
    nobody = np.zeros(20, dtype=np.bool_)
    empty = clean.select(np.empty(0, dtype=np.int64))

    made = [update(clean), update(poisoned(clean, 4)), update(clean, usable=nobody), update(empty)]

    assert {(u.integers.shape, u.integers.dtype, u.scale, u.receipt, repr(u)) for u in made} == {
        ((100,), np.dtype(np.int64), 2000.0, 5, "PrivateUpdate(scale=2000.0, receipt=5)")
    }
    assert [u.dropped for u in made] == [0, 1, 20, 0]


def test_an_empty_window_gives_noise_alone() -> None:
    empty = window(0)

    assert update(empty).integers.any()
    assert update(empty, terms=constants(noise="unsafe-none")).integers.tolist() == [0] * 100
