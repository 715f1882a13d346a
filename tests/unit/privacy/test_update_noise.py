"""From a window's message to noised integers, and what is refused aloud; the message itself is in test_update.py."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2
from torch import nn
from update_windows import ACTIONS, STATES, Table, aligned, constants, layout, losses, message, update, window

from secure_frl.errors import InvalidParameter
from secure_frl.learning.layout import Layout, Segment
from secure_frl.privacy.update import private_update
from secure_frl.randomness import rehearsal_source

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]


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
        constants=constants(wide, integer_noise_scale=deviation),
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
