"""Adam as the global step: known answers by other routes, what noise does to it, and the same bytes for everybody."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.federation.global_adam import AdamRule, adam_moments
from secure_frl.federation.optimisers import OptimiserRule, has_form_of, initial_state, step
from secure_frl.federation.study_parts import optimiser_rule
from secure_frl.federation.training_state import TrainingState
from secure_frl.learning.layout import network_layout
from secure_frl.privacy.noise import discrete_gaussian
from secure_frl.privacy.planning import sum_constants
from secure_frl.randomness import rehearsal_source
from secure_frl.secure_sum import SiteId, Sum
from secure_frl.study import Study

LAYOUT = network_layout({"head.weight": (1, 3)}, {}, 0, "none", ("clip_quantile",))
MEANS = ((0.3, -0.02, 0.0), (0.1, 0.05, 0.0), (-0.4, 0.01, 1e-6))
PLAIN = AdamRule(second_momentum=0.8, root_floor=0.01, is_noise_corrected=False, move_factor=2.0)
CORRECTED = replace(PLAIN, is_noise_corrected=True)


def _rule(adam: AdamRule | None, **changes: Any) -> OptimiserRule:
    rule = OptimiserRule(
        layout=LAYOUT,
        blocks=LAYOUT.blocks(0.4, 1.0, 0.25, {"clip_quantile": (0.5, 0.04)}),
        live_states=0,
        declared_batch=10,
        step_size=0.5,
        momentum=0.6,
        critic_start=0.78,
        site_noise=0.0,
        clip_quantile=0.5,
        clip_learning_rate=0.2,
        adam=adam,
    )
    return replace(rule, **changes)


def _moved(adam: AdamRule, means: Sequence[Sequence[float]], deviation: float = 0.0) -> list[NDArray[np.float64]]:
    """Return the directions of rounds with these means of messages."""
    first, second, found = np.zeros(3), np.full(3, adam.first_second_moment), []
    for number, mean in enumerate(means, 1):
        first, second, direction = adam_moments(adam, 0.6, first, second, np.array(mean), deviation, number)
        found.append(direction)
    return found


def test_fedadam_takes_the_steps_of_its_paper_in_decimal_arithmetic() -> None:
    """Reddi et al. 2021, Algorithm 2, with 40 digits: v begins at tau squared, tau is added to the root."""
    getcontext().prec = 40
    beta1, beta2, tau = Decimal("0.6"), Decimal("0.8"), Decimal("0.01")

    found = _moved(PLAIN, MEANS)

    for coordinate in range(3):
        m, v = Decimal(0), tau * tau
        for number, mean in enumerate(MEANS):
            delta = 2 * Decimal(repr(mean[coordinate]))
            m = beta1 * m + (1 - beta1) * delta
            v = beta2 * v + (1 - beta2) * delta * delta
            assert found[number][coordinate] == pytest.approx(float(m / (v.sqrt() + tau)), rel=1e-13, abs=1e-300)


def test_the_corrected_form_takes_the_steps_of_its_paper_in_decimal_arithmetic() -> None:
    """Tang et al. 2024, Algorithm 1: the constant variance of the noise is taken from the whole corrected moment."""
    getcontext().prec = 40
    beta1, beta2, floor, noise = Decimal("0.6"), Decimal("0.8"), Decimal("0.01"), 2 * Decimal("0.05")

    found = _moved(CORRECTED, MEANS, deviation=0.05)

    at_floor = 0
    for coordinate in range(3):
        m = v = Decimal(0)
        for number, mean in enumerate(MEANS, 1):
            delta = 2 * Decimal(repr(mean[coordinate]))
            m, v = beta1 * m + (1 - beta1) * delta, beta2 * v + (1 - beta2) * delta * delta
            left = v / (1 - beta2**number) - noise * noise
            at_floor += left < floor * floor
            expected = m / (1 - beta1**number) / max(left, floor * floor).sqrt()
            assert found[number - 1][coordinate] == pytest.approx(float(expected), rel=1e-12, abs=1e-300)
    assert 0 < at_floor < 9


def test_the_variance_of_the_noise_leaves_the_second_moment() -> None:
    """Means of .3 under noise of .2: 2 x .3 squared less 2 x .2 squared is .2; at .1 nothing is left but the floor."""
    first, second, direction = adam_moments(
        CORRECTED, 0.6, np.zeros(2), np.zeros(2), np.array([0.3, 0.1]), deviation=0.2, applied=1
    )

    assert second == pytest.approx([0.2 * 0.2, 0.2 * -0.12])
    assert direction == pytest.approx([0.6 / math.sqrt(0.2), 0.2 / 0.01])
    assert first == pytest.approx([0.4 * 0.6, 0.4 * 0.2])


FLAT, STEEP, ROUNDS = 0.05, 1.0, 150  # curvatures of a quadratic, half of the coordinates each
QUADRATIC = network_layout({"head.weight": (1, 400)}, {}, 0, "none", ("clip_quantile",))


def _flat_over_steep(adam: AdamRule, deviation: float) -> float:
    """Return how far flat coordinates came from 1 towards 0 by sums of four sites, over how far steep ones came.

    deviation: of the noise in each coordinate of a round's mean, which the rule knows by its sites' noise.
    """
    blocks, sites, scale = QUADRATIC.blocks(0.4, 1.0, 0.25, {"clip_quantile": (0.5, 0.04)}), 4, 2.0**30
    units, bound = sites * 10, blocks[0].clip_norm / math.sqrt(blocks[0].noise_share)
    rule = _rule(adam, layout=QUADRATIC, blocks=blocks, step_size=0.003, first_parameters=np.ones(400))
    rule = replace(rule, site_noise=deviation * units / (math.sqrt(sites) * bound))
    state, random = initial_state(rule), np.random.default_rng(3)
    for _ in range(ROUNDS):
        gradients = np.repeat([FLAT, STEEP], 200) * state.parameters + deviation * random.standard_normal(400)
        message = np.append(gradients * units / bound * scale, 0.0)
        total = Sum(np.rint(message).astype(np.int64), scale, tuple(map(SiteId, range(sites))))
        state = step(state, total, rule)
    moved = 1.0 - state.parameters
    return float(moved[:200].mean() / moved[200:].mean())


def test_on_a_noisy_quadratic_only_the_corrected_form_still_moves_all_coordinates_alike() -> None:
    """Noise of twice a flat gradient: plain Adam's root is mostly noise there, sqrt(1 + 4) times the gradient, so flat
    coordinates lag behind steep ones by that; Tang et al. 2024, section 3. Without noise Adam moves all alike."""
    noise = 2 * FLAT
    corrected = AdamRule(second_momentum=0.99, root_floor=0.02, is_noise_corrected=True, move_factor=1.0)
    plain = replace(corrected, root_floor=1e-6, is_noise_corrected=False)
    lag = math.hypot(STEEP, noise) / STEEP / (math.hypot(FLAT, noise) / FLAT)

    assert _flat_over_steep(plain, 0.0) == pytest.approx(1.0, rel=0.01)
    assert _flat_over_steep(corrected, 0.0) == pytest.approx(1.0, rel=0.01)
    assert lag < 0.45
    assert _flat_over_steep(plain, noise) == pytest.approx(lag, rel=0.1)
    assert _flat_over_steep(corrected, noise) == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy.noise": "distributed"},
        {"privacy.noise": "local"},
        {
            "privacy.noise": "local",
            "training.objective": "ppo",
            "training.epochs": 3,
            "training.aggregation": "fedadam",
            "training.local": {"step_size": 40.0},
        },
    ],
    ids=["distributed", "local", "three noised sums"],
)
def test_sums_of_noise_alone_leave_a_second_moment_of_zero_on_average(
    changes: dict[str, Any], tiny: Callable[..., Study]
) -> None:
    """The real noise of all contributors through a study's own rule: squares of 2,000 coordinates average to the
    variance that the rule takes away, within 5 deviations (false alarm below 1e-6); half the noise would fail."""
    adam = {"optimiser": "adam", "step_size": 0.1, "noise_corrected": True, "second_momentum": 0.0, "momentum": 0.0}
    study = tiny({**changes, "training.global": adam})
    constants = sum_constants(study)
    rule, source = optimiser_rule(study, constants), rehearsal_source(7, "noise")
    deviation, length = constants.integer_noise_scale, constants.length
    shares = constants.honest_shares if constants.noise == "distributed" else constants.sites
    each = [discrete_gaussian(deviation, length, source) for _ in range(shares * study.noised_sums)]
    contributors = tuple(SiteId(site) for site in range(shares))

    found = step(initial_state(rule), Sum(sum(each, np.zeros(length, np.int64)), constants.scale, contributors), rule)

    square = found.momentum * found.momentum  # beta 1 is 0
    assert found.second_moment is not None
    assert square.size > 2000
    tolerance = 5 * square.mean() * math.sqrt(2 / square.size)
    assert abs(found.second_moment.mean()) < tolerance < 0.2 * square.mean()


def test_the_state_of_a_rule_with_adam_has_a_second_moment_and_of_another_none() -> None:
    plain, corrected, none = (initial_state(_rule(adam)) for adam in (PLAIN, CORRECTED, None))

    assert none.second_moment is None
    assert plain.second_moment is not None
    assert plain.second_moment.tolist() == pytest.approx([1e-4] * 3)
    assert corrected.second_moment is not None
    assert not corrected.second_moment.any()
    assert has_form_of(plain, _rule(PLAIN))
    assert not has_form_of(none, _rule(PLAIN))
    assert not has_form_of(plain, _rule(None))
    below = replace(plain, second_moment=np.array([0.1, -1e-9, 0.1]))
    assert not has_form_of(below, _rule(PLAIN))  # its root would be no number
    assert has_form_of(below, _rule(CORRECTED))


Rounds = st.lists(
    st.tuples(st.lists(st.integers(-(2**40), 2**40), min_size=4, max_size=4), st.integers(1, 9)),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("adam", [None, PLAIN, CORRECTED], ids=["fedavgm", "fedadam", "corrected"])
@settings(max_examples=60, deadline=None)
@given(rounds=Rounds)
def test_who_reads_every_state_from_bytes_and_who_keeps_it_reach_the_same_bytes(
    adam: AdamRule | None, rounds: list[tuple[list[int], int]]
) -> None:
    """A coordinator that restarts each round, a site that missed rounds, and one that never did."""
    rule = _rule(adam, site_noise=0.3)
    kept = initial_state(rule)
    content = kept.to_bytes()

    for values, sites in rounds:
        total = Sum(np.array(values, dtype=np.int64), 2.0**30, tuple(SiteId(site) for site in range(sites)))
        kept = step(kept, total, rule)
        taken = TrainingState.from_bytes(content)
        assert has_form_of(taken, rule)
        content = step(taken, total, rule).to_bytes()
        assert content == kept.to_bytes()


@pytest.mark.parametrize(
    "changes",
    [{"second_momentum": 1.0}, {"root_floor": 0.0}, {"move_factor": 0.0}, {"root_floor": float("nan")}],
)
def test_constants_that_no_charter_may_hold_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InvalidParameter, match="Correct training"):
        replace(PLAIN, **changes)  # type: ignore[arg-type]  # by name
