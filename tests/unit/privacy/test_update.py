"""One window to noised integers: influence, silence, noise. The optimiser's own states stand in test_optimizer.py."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chi2
from torch import nn

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import Layout, Segment
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.clipping import ClippedSum
from secure_frl.privacy.update import PrivateUpdate, clipped_sum, private_update
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import SumConstants

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]

STATES, ACTIONS = 20, 4


class Table(nn.Module):
    def __init__(self, states: int = STATES, actions: int = ACTIONS) -> None:
        super().__init__()
        self.logits = nn.Embedding(states, actions, dtype=torch.float64)
        self.residual = nn.Embedding(states, 1, dtype=torch.float64)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.residual.weight)

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.log_softmax(self.logits(states), dim=-1), self.residual(states)[..., 0]


def losses(policy: nn.Module, batch: Trajectories) -> torch.Tensor:
    """Policy gradient and a linear critic part; a reward is the size of a step's gradient."""
    log_probabilities, residual = policy(torch.from_numpy(batch.observations))
    taken = log_probabilities.gather(-1, torch.from_numpy(batch.actions)[..., None])[..., 0]
    size = torch.from_numpy(np.where(batch.steps, batch.rewards, 0).astype(np.float64))
    return -((taken + residual) * size * torch.from_numpy(batch.steps)).sum(dim=1)


def layout(states: int = STATES, actions: int = ACTIONS) -> Layout:
    return Layout(
        (
            Segment("policy", "logits.weight", np.arange(states * actions, dtype=np.int64)),
            Segment("critic", "residual.weight", np.arange(states, dtype=np.int64)),
        )
    )


def constants(found: Layout | None = None, noise: str = "distributed", deviation: int = 1024) -> SumConstants:
    found = found or layout()
    return SumConstants(
        sites=10,
        threshold=6,
        max_colluders=1,
        min_survivors=8,
        honest_shares=7,
        profile="cross_silo",
        neighbours=9,
        protection="masking",
        length=found.length,
        modulus_bits=32,
        scale=2000.0,
        bound=10**8,
        noise_bound=10**5,
        blocks=found.blocks(0.4, 1.0, 0.15),
        noise=noise,
        noise_multiplier=0.0 if noise == "unsafe-none" else 1.0,
        integer_noise_scale=0 if noise == "unsafe-none" else deviation,
    )


def window(count: int, seed: int = 0, persons: NDArray[np.uint64] | None = None, longest: int = 6) -> Trajectories:
    generator = np.random.default_rng(seed)
    steps = np.arange(longest)[None, :] < generator.integers(1, longest + 1, count)[:, None]
    return Trajectories(
        observations=np.where(steps, generator.integers(0, STATES, steps.shape), 0),
        actions=np.where(steps, generator.integers(0, ACTIONS, steps.shape), 0),
        allowed=None,
        rewards=np.where(steps, generator.normal(0, 3, steps.shape), 0).astype(np.float32),
        log_behaviour=None,
        steps=steps,
        terminated=np.ones(count, dtype=np.bool_),
        final_observations=np.zeros(count, dtype=np.int64),
        persons=np.arange(count, dtype=np.uint64) if persons is None else persons,
    )


def aligned(count: int) -> Trajectories:
    """Everybody does the same thing, with a gradient far beyond the clip: every influence points one way."""
    return Trajectories(
        observations=np.full((count, 1), 3),
        actions=np.full((count, 1), 2),
        allowed=None,
        rewards=np.full((count, 1), 1000.0, dtype=np.float32),
        log_behaviour=None,
        steps=np.ones((count, 1), dtype=np.bool_),
        terminated=np.ones(count, dtype=np.bool_),
        final_observations=np.zeros(count, dtype=np.int64),
        persons=np.arange(count, dtype=np.uint64),
    )


def message(trajectories: Trajectories, unit: str = "patient", usable: NDArray[np.bool_] | None = None) -> ClippedSum:
    return clipped_sum(
        Table(),
        losses,
        trajectories,
        unit=unit,
        usable=np.ones(trajectories.count, dtype=np.bool_) if usable is None else usable,
        segments=layout().segments,
        constants=constants(),
        random=rehearsal_source(0),
    )


def update(
    trajectories: Trajectories,
    usable: NDArray[np.bool_] | None = None,
    using: Callable[[nn.Module, Trajectories], torch.Tensor] = losses,
    terms: SumConstants | None = None,
    seed: int = 0,
) -> PrivateUpdate:
    return private_update(
        Table(),
        using,
        trajectories,
        unit="patient",
        usable=np.ones(trajectories.count, dtype=np.bool_) if usable is None else usable,
        segments=layout().segments,
        constants=terms or constants(),
        random=rehearsal_source(seed),
        receipt=5,
    )


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


def test_any_unit_of_a_mixed_window_moves_the_whole_message_by_at_most_one() -> None:
    mixed = window(40)
    everyone = message(mixed).vector

    for left_out in range(0, 40, 7):
        others = np.delete(np.arange(40), left_out)
        assert np.linalg.norm(everyone - message(mixed.select(others)).vector) <= 1 + 1e-6


def test_all_trajectories_of_a_person_are_one_unit_and_each_is_one_for_the_trajectory_unit() -> None:
    persons = np.array([1, 2, 1, 3, 1], dtype=np.uint64)
    five = dataclasses.replace(aligned(5), persons=persons)
    without_person_1 = five.select(np.array([1, 3]))

    patient = np.linalg.norm(message(five).vector - message(without_person_1).vector)
    trajectory = np.linalg.norm(message(five, "trajectory").vector - message(without_person_1, "trajectory").vector)

    assert patient == pytest.approx(1.0)
    assert trajectory == pytest.approx(3.0)


def test_a_person_with_more_trajectories_than_a_chunk_holds_is_still_one_unit() -> None:
    many = dataclasses.replace(aligned(300), persons=np.zeros(300, dtype=np.uint64))

    assert np.linalg.norm(message(many).vector) == pytest.approx(1.0)


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


def test_the_message_is_the_sum_of_each_persons_clipped_message() -> None:
    persons = np.arange(30, dtype=np.uint64) % 11
    mixed = window(30, persons=persons)

    alone = [message(mixed.select(np.flatnonzero(persons == person))).vector for person in range(11)]

    assert message(mixed).vector == pytest.approx(np.sum(alone, axis=0), rel=1e-12, abs=1e-14)
    assert max(np.linalg.norm(part) for part in alone) <= 1 + 1e-9


# --- silence --------------------------------------------------------------------------------------------------------


def poisoned(trajectories: Trajectories, row: int) -> Trajectories:
    rewards = trajectories.rewards.copy()
    rewards[row, 0] = np.nan
    return dataclasses.replace(trajectories, rewards=rewards)


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


# --- noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("people", [0, 3])
def test_a_window_in_which_nobody_has_a_step_gives_noise_alone(people: int) -> None:
    """Padded to the longest episode, such a window has no columns at all: no reason to answer otherwise."""
    whole = window(people)
    nothing = dataclasses.replace(
        whole,
        observations=whole.observations[:, :0],
        actions=whole.actions[:, :0],
        allowed=None,
        rewards=whole.rewards[:, :0],
        log_behaviour=None,
        steps=whole.steps[:, :0],
    )

    for usable in (np.zeros(people, dtype=np.bool_), np.ones(people, dtype=np.bool_)):
        assert not message(nothing, usable=usable).vector.any()
        assert update(nothing, usable=usable).integers.shape == update(window(4)).integers.shape


def test_integers_without_noise_are_the_scaled_message_rounded() -> None:
    mixed = window(30)

    found = update(mixed, terms=constants(noise="unsafe-none")).integers

    assert np.abs(found - 2000.0 * message(mixed).vector).max() < 1


def test_values_beyond_the_charters_bound_are_clamped() -> None:
    narrow = dataclasses.replace(constants(noise="unsafe-none"), bound=100)

    found = update(aligned(50), terms=narrow).integers

    assert found.max() == 100
    assert found.min() == -100


def share_of_noise(deviation: int) -> NDArray[np.int64]:
    """One site's own noise: an empty window of a study with 240,000 coordinates."""
    wide = layout(48_000, 4)
    return private_update(
        Table(48_000, 4),
        losses,
        window(0),
        unit="patient",
        usable=np.ones(0, dtype=np.bool_),
        segments=wide.segments,
        constants=constants(wide, deviation=deviation),
        random=rehearsal_source(21),
        receipt=1,
    ).integers


def p_value(values: NDArray[np.int64], deviation: int) -> float:
    support = np.arange(-12 * deviation, 12 * deviation + 1)
    exact = np.exp(-(support.astype(np.float64) ** 2) / (2.0 * deviation**2))
    edges = np.unique(np.round(np.linspace(-3, 3, 80) * deviation).astype(np.int64))
    expected = np.bincount(np.searchsorted(edges, support), weights=exact / exact.sum()) * values.size
    observed = np.bincount(np.searchsorted(edges, values), minlength=expected.size)
    return float(chi2.sf(((observed - expected) ** 2 / expected).sum(), expected.size - 1))


@pytest.mark.statistical
def test_each_sites_own_share_has_the_charters_noise_and_half_of_it_fails() -> None:
    # 240,000 draws, 81 bins, false alarm 1e-6.
    assert p_value(share_of_noise(1024), 1024) > 1e-6
    assert p_value(share_of_noise(512), 1024) < 1e-6


def test_two_updates_of_one_window_carry_different_noise() -> None:
    mixed = window(10)

    first, second = update(mixed, seed=1).integers, update(mixed, seed=2).integers

    assert np.abs(first - second).max() > 1024


# --- what is refused aloud depends on code only ---------------------------------------------------------------------


def test_a_loss_of_another_shape_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="one loss a trajectory"):
        update(window(4), using=lambda policy, batch: losses(policy, batch).mean())


def test_a_module_that_mixes_people_is_refused_before_any_gradient() -> None:
    policy = nn.Sequential(nn.Embedding(STATES, ACTIONS), nn.BatchNorm1d(3))
    segments = (Segment("policy", "0.weight", np.arange(80, dtype=np.int64)),)

    with pytest.raises(InvalidParameter, match=r"nn\.LayerNorm"):
        private_update(
            policy,
            losses,
            window(4),
            unit="patient",
            usable=np.ones(4, dtype=np.bool_),
            segments=segments,
            constants=constants(Layout(segments)),
            random=rehearsal_source(0),
            receipt=1,
        )


@pytest.mark.parametrize("usable", [np.ones(3, dtype=np.bool_), np.ones(4), np.ones((4, 1), dtype=np.bool_)])
def test_a_mask_that_does_not_fit_the_window_is_refused(usable: NDArray[np.bool_]) -> None:
    with pytest.raises(InvalidParameter, match="usable"):
        update(window(4), usable=usable)


@pytest.mark.parametrize("change", [{"length": 99}, {"noise": "laplace"}])
def test_constants_that_do_not_fit_the_policy_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter):
        update(window(4), terms=dataclasses.replace(constants(), **change))  # type: ignore[arg-type]  # by name


def test_the_policy_is_left_as_it_was() -> None:
    policy = Table().eval()
    before = {name: value.clone() for name, value in policy.state_dict().items()}

    clipped_sum(
        policy,
        losses,
        window(10),
        unit="patient",
        usable=np.ones(10, dtype=np.bool_),
        segments=layout().segments,
        constants=constants(),
        random=rehearsal_source(0),
    )

    assert not policy.training
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())
    assert not any(hasattr(parameter, "grad_sample") for parameter in policy.parameters())


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
