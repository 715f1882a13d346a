"""The step from a published sum to the next policy: by hand, bit for bit, and from charter constants only."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.federation.optimisers import (
    OptimiserRule,
    blocks_in_force,
    critic_values,
    descent_sums,
    has_form_of,
    initial_state,
    released_figures,
    step,
)
from secure_frl.learning.environments.icu_sepsis import admissible_actions
from secure_frl.learning.layout import network_layout, table_layout
from secure_frl.privacy.clipping import clip_units
from secure_frl.secure_sum import SiteId, Sum

TWO_STATES = np.array([[True, True, False], [False, True, False]])  # logits 0 and 1 are free
LAYOUT = table_layout(TWO_STATES, "private")
SCALE = 1000.0


def _rule(**changes: object) -> OptimiserRule:
    rule = OptimiserRule(
        layout=LAYOUT,
        blocks=LAYOUT.blocks(0.4, 1.0, 0.25),
        live_states=2,
        declared_batch=10,
        step_size=3.0,
        momentum=0.5,
        critic_start=0.78,
        site_noise=0.0,
    )
    return replace(rule, **changes)  # type: ignore[arg-type]


def _sum(values: list[float], sites: int = 2) -> Sum:
    integers = np.array([round(value * SCALE) for value in values], dtype=np.int64)
    return Sum(integers, SCALE, tuple(SiteId(site) for site in range(sites)))


def test_the_first_state_is_uniform_with_a_constant_critic() -> None:
    state = initial_state(_rule())

    assert state.parameters.tolist() == [0.0, 0.0]
    assert state.critic.tolist() == [0.78, 0.78]
    assert (state.round, state.predecessor) == (0, bytes(32))
    assert critic_values(state, 5).tolist() == [0.78, 0.78, 0.0, 0.0, 0.0]


def test_block_factors_are_undone() -> None:
    """A unit's vector is sqrt(share) g / clip: with clip .4 and share .75, and clip 1 and share .25."""
    found = descent_sums(_sum([-np.sqrt(0.75) / 0.4, 0.0, -0.5, 0.0, 0.0, 0.0]), _rule())

    assert found == pytest.approx([1.0, 0.0, 1.0, 0.0, 0.0, 0.0], abs=1e-3)


def test_two_steps_by_hand() -> None:
    """Gradient sums of 4 and 8, twenty declared episodes: means .2 and .4, momentum .5, step 3."""
    factor = np.sqrt(0.75) / 0.4
    one = step(initial_state(_rule()), _sum([-4 * factor, 4 * factor, 0, 0, 0, 0]), _rule())

    two = step(one, _sum([-8 * factor, 0, 0, 0, 0, 0]), _rule())

    assert one.parameters == pytest.approx([0.6, -0.6], abs=1e-3)
    assert two.momentum == pytest.approx([0.5 * 0.2 + 0.4, -0.1], abs=1e-3)
    assert two.parameters == pytest.approx([0.6 + 3 * 0.5, -0.6 - 3 * 0.1], abs=1e-3)


def test_the_divisor_counts_survivors_and_declared_episodes() -> None:
    values = [-4.0, 0.0, 0.0, 0.0, 0.0, 0.0]

    two = step(initial_state(_rule()), _sum(values, sites=2), _rule())
    four = step(initial_state(_rule()), _sum(values, sites=4), _rule())

    assert two.parameters[0] == pytest.approx(2 * four.parameters[0])


def test_the_critic_moves_towards_its_mean_residual() -> None:
    """State 0: residual sum 30 over 200 visits of .1: .78 + .5 * 30 / (.5 * 200 + 20) = .905. State 1 saw nobody."""
    found = step(initial_state(_rule()), _sum([0, 0, -15.0, 0, -10.0, 0]), _rule())

    assert found.critic == pytest.approx([0.905, 0.78])
    assert found.visits == pytest.approx([200.0, 0.0])


def test_noise_makes_the_critic_move_less() -> None:
    """Two sites of deviation .5 and share .25: sqrt(2) of noise a sum, three visits' worth of trust for each."""
    found = step(initial_state(_rule()), _sum([0, 0, -15.0, 0, -10.0, 0]), _rule(site_noise=0.5))

    assert found.critic[0] == pytest.approx(0.78 + 15 / (100 + 20 + 3 * np.sqrt(2)))


def test_values_stay_inside_their_range() -> None:
    found = step(initial_state(_rule()), _sum([0, 0, -500.0, 500.0, -1.0, -1.0]), _rule())

    assert found.critic.tolist() == [0.99, 0.05]


def test_a_linear_critic_takes_a_step_along_its_mean_residual() -> None:
    """Sum of residual times feature 8 and -4 over twenty declared episodes, step 50: weights 20 and -10, from 0."""
    layout = network_layout({"head.weight": (1, 2)}, {}, 0, "private", critic_weights=2)
    rule = _rule(layout=layout, blocks=layout.blocks(0.4, 1.0, 0.25), live_states=0, linear_critic_step=50.0)
    first = initial_state(rule)

    found = step(first, _sum([0, 0, -4.0, 2.0]), rule)

    assert first.critic.tolist() == [0.0, 0.0]
    assert found.critic == pytest.approx([20.0, -10.0])
    assert has_form_of(found, rule)
    assert not has_form_of(replace(found, critic=np.zeros(3), visits=np.zeros(3)), rule)


def test_a_linear_schedule_has_the_same_mean_step() -> None:
    rule = _rule(schedule="linear", rounds=15)

    sizes = [rule.step_size_of(number) for number in range(1, 16)]

    assert np.mean(sizes) == pytest.approx(3.0)
    assert np.diff(sizes) == pytest.approx(np.full(14, sizes[0]))
    assert rule.step_size_of(16) == sizes[-1]


def test_without_a_critic_its_values_stay_public_constants() -> None:
    layout = table_layout(TWO_STATES, "none")
    rule = _rule(layout=layout, blocks=layout.blocks(0.4, 1.0, 0.25))

    found = step(initial_state(rule), _sum([-1.0, 0.0]), rule)

    assert found.critic.tolist() == [0.78, 0.78]
    assert found.parameters[0] > 0


def test_each_state_names_its_predecessor() -> None:
    first = initial_state(_rule())

    second = step(first, _sum([0.0] * 6), _rule())

    assert second.round == 1
    assert second.predecessor == hashlib.sha256(first.to_bytes()).digest()


def test_a_sum_of_another_length_or_of_nobody_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="6 values"):
        step(initial_state(_rule()), _sum([0.0] * 5), _rule())
    with pytest.raises(InvalidParameter, match="at least one site"):
        step(initial_state(_rule()), _sum([0.0] * 6, sites=0), _rule())


@pytest.mark.parametrize(
    "changes",
    [
        {"step_size": 0.0},
        {"step_size": float("inf")},
        {"momentum": 1.0},
        {"momentum": float("nan")},
        {"site_noise": -1.0},
        {"declared_batch": 0},
        {"schedule": "cosine"},
        {"rounds": 0},
        {"blocks": LAYOUT.blocks(0.4, 1.0, 0.25)[:1]},
    ],
)
def test_rules_that_no_charter_may_hold_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter):
        _rule(**changes)


# --- figures that travel with the update ----------------------------------------------------------------------------

FIGURES = table_layout(TWO_STATES, "private", ("clip_quantile", "mean_return"))


def _with_figures(**changes: object) -> OptimiserRule:
    blocks = FIGURES.blocks(0.4, 1.0, 0.25, {"clip_quantile": (0.5, 0.04), "mean_return": (0.5, 0.16)})
    settings = {"clip_quantile": 0.9, "clip_learning_rate": 0.2, "return_middle": 0.5}
    return _rule(layout=FIGURES, blocks=blocks, **settings, **changes)


def test_the_clip_follows_the_noised_part_of_units_that_are_not_cut() -> None:
    """16 of 20 declared units whole, 4 cut: (16 - 4) / 2 = 6, so b = .8 and C becomes .4 exp(-.2 (.8 - .9))."""
    found = step(initial_state(_with_figures()), _sum([0] * 6 + [12 * 0.04**0.5, 0]), _with_figures())

    assert found.clip_norm == pytest.approx(0.4 * np.exp(0.02), rel=1e-12)
    assert released_figures(found, _sum([0] * 8), _with_figures())["clip_norm"] == found.clip_norm


def test_policy_sums_are_multiplied_by_the_clip_in_force_and_not_by_the_charters() -> None:
    values, rule = [-1.0, 0, 0, 0, 0, 0, 0, 0], _with_figures()
    first = initial_state(rule)

    fixed = step(first, _sum(values), rule)
    doubled = step(replace(first, clip_norm=0.8), _sum(values), rule)

    assert doubled.parameters == pytest.approx(2 * fixed.parameters)
    assert blocks_in_force(rule.blocks, replace(first, clip_norm=0.8))[0].clip_norm == 0.8
    assert blocks_in_force(rule.blocks, first)[1:] == rule.blocks[1:]


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_without_noise_the_clip_converges_to_the_quantile(quantile: float) -> None:
    """Lengths e^z, z normal: their .5 and .9 quantiles are 1 and e^1.2816 = 3.602; the clip begins at .4."""
    lengths = np.exp(np.random.default_rng(0).normal(size=4_000))
    gradients = np.zeros((4_000, 6))
    gradients[:, 0] = lengths
    rule = replace(_with_figures(declared_batch=4_000), clip_quantile=quantile)
    state = initial_state(rule)

    for _ in range(200):
        vector, _ = clip_units(gradients.copy(), blocks_in_force(rule.blocks, state), np.zeros(4_000))
        integers = np.round(vector * 2.0**20).astype(np.int64)
        state = step(state, Sum(integers, 2.0**20, (SiteId(0),)), rule)

    assert state.clip_norm is not None
    assert abs(np.mean(lengths <= state.clip_norm) - quantile) < 0.01


@pytest.mark.parametrize(
    "changes",
    [{"clip_norm": 1e-200}, {"clip_norm": 1e200}, {"clip_norm": None}, {"sizes": 3}, {"value": 1e300}, {"value": -0.1}],
)
def test_only_what_steps_can_reach_has_the_form_of_a_rule(changes: dict[str, float | None]) -> None:
    rule = _with_figures()
    first = initial_state(rule)
    sizes, value = changes.pop("sizes", None), changes.pop("value", None)
    other = replace(first, **changes)  # type: ignore[arg-type]
    if sizes is not None:
        other = replace(first, critic=np.zeros(3), visits=np.zeros(3))
    if value is not None:
        other = replace(first, critic=np.full_like(first.critic, value))

    assert has_form_of(first, rule)
    assert has_form_of(step(first, _sum([0] * 8), rule), rule)
    assert not has_form_of(other, rule)


def test_the_clip_stays_a_normal_number_whatever_the_noise() -> None:
    rule = _with_figures()
    up = down = initial_state(rule)
    for _ in range(400):
        up, down = step(up, _sum([0] * 6 + [-1e6, 0]), rule), step(down, _sum([0] * 6 + [1e6, 0]), rule)

    one = step(initial_state(rule), _sum([0] * 6 + [-1e6, 0]), rule)
    assert one.clip_norm == pytest.approx(0.4 * np.exp(0.2 * 0.9), rel=1e-12)  # no less than nobody is whole
    assert up.clip_norm == 0.4 * 2.0**20
    assert down.clip_norm is not None
    assert 0.4 * 2.0**-20 <= down.clip_norm < 0.4


def test_the_released_mean_return_and_its_deviation_by_hand() -> None:
    """Sum 3 of returns from .5 over 20 units, bound .5, share .16: 3 / .5 * .4 = 2.4 arrives. Two sites, .1 a site."""
    rule = _with_figures(site_noise=0.1)

    found = released_figures(initial_state(rule), _sum([0] * 7 + [2.4]), rule)

    assert found["released_mean_return"] == pytest.approx(0.5 + 3 / 20)
    assert found["released_mean_return_deviation"] == pytest.approx(0.1 * 2**0.5 * 0.5 / 0.4 / 20)


def test_without_figures_nothing_is_released_and_the_clip_is_the_charters() -> None:
    rule = _rule()
    found = step(initial_state(rule), _sum([0.0] * 6), rule)

    assert found.clip_norm is None
    assert released_figures(found, _sum([0.0] * 6), rule) == {}
    assert blocks_in_force(rule.blocks, found) == rule.blocks


_ROUNDS_OF_ICU_SEPSIS = """
import hashlib, sys
from dataclasses import replace
import numpy as np
from secure_frl.federation.optimisers import OptimiserRule, initial_state, step
from secure_frl.federation.global_adam import AdamRule
from secure_frl.learning.environments.icu_sepsis import admissible_actions
from secure_frl.learning.layout import table_layout
from secure_frl.secure_sum import Sum
layout = table_layout(admissible_actions()[:713], "private")
plain = OptimiserRule(layout, layout.blocks(0.4, 0.7, 0.15), 713, 1334, 3500.0, 0.9, 0.78, 0.45, "linear", 3)
for rule in (plain, replace(plain, step_size=0.1, adam=AdamRule(0.99, 1e-5, True, 1.0))):
    state, generator = initial_state(rule), np.random.default_rng(1)
    for _ in range(3):
        state = step(state, Sum(generator.integers(-9000, 9000, 3427), 2269.0, tuple(range(9))), rule)
    print(hashlib.sha256(state.to_bytes()).hexdigest())
assert "torch" not in sys.modules
"""


def test_two_processes_reach_the_same_bytes_without_torch() -> None:
    """One with another hash seed and another number of linear-algebra threads."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", _ROUNDS_OF_ICU_SEPSIS],
            env={"PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, threads in (("1", "1"), ("2", "2"))
    }

    assert len(digests) == 1


def test_the_step_changes_neither_its_state_nor_its_sum() -> None:
    layout = table_layout(admissible_actions()[:713], "private")
    rule = OptimiserRule(layout, layout.blocks(0.4, 0.7, 0.15), 713, 1334, 3500.0, 0.9, 0.78, 0.45)
    state = initial_state(rule)
    before = state.to_bytes()
    total = Sum(np.arange(3427, dtype=np.int64), 2269.0, (SiteId(0),))

    step(state, total, rule)

    assert state.to_bytes() == before
    assert np.array_equal(total.integers, np.arange(3427))
