"""The step of fitted value iteration: posterior means by hand, and what no noise may do to the policy's form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter
from secure_frl.federation.training_state import FIRST_PREDECESSOR, TrainingState
from secure_frl.federation.value_step import ERROR_VARIANCE, OUTCOME_VARIANCE, ValueRule, value_step
from secure_frl.secure_sum import Block, SiteId, Sum

BLOCKS = (Block("policy", 0, 3, 0.3, 0.87), Block("pair_counts", 3, 6, 2.0, 0.08), Block("returns", 6, 8, 0.6, 0.05))
RULE = ValueRule(
    blocks=BLOCKS,
    rounds=2,
    state_of=np.array([0, 0, 1]),
    action_of=np.array([0, 1, 2]),
    first_value=0.7,
    site_noise=0.0,
    optimism=0.0,
    pessimism=0.0,
    advantage_deviation=0.04,
    value_deviation=0.07,
    count_spread=0.5,
)
SCALE = 1e6
FIRST = TrainingState(np.full(3, 0.7), np.zeros(3), np.full(2, 0.7), np.zeros(2), 0, FIRST_PREDECESSOR)


def message(shares: tuple[float, ...], *parts: list[float], sites: int = 4) -> Sum:
    """What sites send of such sums: in units of the clips, times the roots of the shares."""
    scaled = [
        np.array(part) / block.clip_norm * share**0.5 for part, block, share in zip(parts, BLOCKS, shares, strict=True)
    ]
    return Sum(np.rint(np.concatenate(scaled) * SCALE).astype(np.int64), SCALE, tuple(map(SiteId, range(sites))))


def start(counts: list[float], returns: list[float], rule: ValueRule = RULE) -> TrainingState:
    return value_step(FIRST, message((1.0, 0.08, 0.05), [9.0, -9.0, 9.0], counts, returns), rule)


def backup(state: TrainingState, errors: list[float], rule: ValueRule = RULE) -> TrainingState:
    return value_step(state, message((0.87, 1.0, 1.0), errors, [9.0] * 3, [9.0] * 2), rule)


def test_the_value_start_takes_counts_and_shrunk_returns_and_nothing_from_the_other_block() -> None:
    state = start([300.0, 100.0, 50.0], [8.0, -2.0])

    assert state.momentum == pytest.approx([300, 100, 50], abs=1e-2)
    assert state.visits == pytest.approx([400, 50], abs=1e-2)
    # The posterior mean of a normal mean: prior variance .07^2, an outcome's variance over the visits.
    trust = [0.0049 / (0.0049 + OUTCOME_VARIANCE / visits) for visits in (400, 50)]
    assert state.critic == pytest.approx([0.7 + 8 / 400 * trust[0], 0.7 - 2 / 50 * trust[1]], abs=1e-5)
    assert state.parameters.tolist() == state.critic[[0, 0, 1]].tolist()
    assert (state.round, len(state.predecessor)) == (1, 32)


def test_optimism_goes_a_part_of_the_way_to_the_best_return() -> None:
    plain = start([300.0, 100.0, 50.0], [8.0, -2.0])

    found = start([300.0, 100.0, 50.0], [8.0, -2.0], replace(RULE, optimism=0.4))

    assert 1 - found.critic == pytest.approx(0.6 * (1 - plain.critic))


def test_a_backup_takes_the_best_posterior_mean_of_each_state() -> None:
    before = start([300.0, 100.0, 50.0], [8.0, -2.0])

    state = backup(before, [3.0, 4.0, -1.0])

    # Actions occur in one state each, so each one's mean is its own and nothing is shrunk away.
    worth = before.critic[[0, 0, 1]] + np.array([3 / 300, 4 / 100, -1 / 50])
    assert state.parameters == pytest.approx(worth, abs=1e-4)
    assert state.critic == pytest.approx([worth[1], worth[2]], abs=1e-4)
    assert state.momentum.tolist() == before.momentum.tolist()


def test_an_advantage_is_drawn_to_its_actions_mean_by_how_little_is_known_of_it() -> None:
    rule = replace(RULE, action_of=np.array([0, 1, 0]), site_noise=0.05)
    before = replace(start([300.0, 100.0, 50.0], [8.0, -2.0]), momentum=np.array([300.0, 100.0, 50.0]))

    found = backup(before, [6.0, 4.0, -5.0], rule).parameters - before.critic[[0, 0, 1]]

    counts, means = np.array([300.0, 100.0, 50.0]), np.array([0.02, 0.04, -0.1])
    noise = 0.05 * 4**0.5 * 0.3 / 0.87**0.5  # of four sites, in the block's own units
    trust = 0.0016 / (0.0016 + ERROR_VARIANCE / counts + (noise / counts) ** 2)
    usual = (trust[0] * means[0] + trust[2] * means[2]) / (trust[0] + trust[2])
    expected = [usual + (means[0] - usual) * trust[0], 0.04, usual + (means[2] - usual) * trust[2]]
    assert found == pytest.approx(expected, abs=1e-5)


def test_pessimism_takes_most_from_the_pair_that_was_seen_least() -> None:
    before = start([300.0, 3.0, 50.0], [0.0, 0.0])

    plain, cautious = (backup(before, [0.0] * 3, replace(RULE, pessimism=one)) for one in (0.0, 1.0))

    loss = plain.parameters - cautious.parameters
    assert loss[1] > loss[2] > loss[0] > 0
    assert loss.max() < 0.04  # less than one prior deviation


def test_noise_leaves_counts_positive_and_values_in_their_range() -> None:
    noisy = replace(RULE, site_noise=3.0)
    state = start([-500.0, 900.0, -50.0], [1e4, -1e4], noisy)
    state = backup(state, [1e4, -1e4, -1e4], noisy)

    assert (state.momentum > 0).all()
    assert ((state.critic >= 0.05) & (state.critic <= 0.99)).all()
    assert np.isfinite(state.parameters).all()


def test_counts_that_drown_in_noise_are_taken_for_equal_ones() -> None:
    known, drowned = (start([380.0, 20.0, 50.0], [0.0, 0.0], replace(RULE, site_noise=one)) for one in (0.0, 50.0))

    assert known.momentum[0] > 10 * known.momentum[1]
    assert drowned.momentum[0] == pytest.approx(drowned.momentum[1], rel=0.2)


@pytest.mark.parametrize("total", [Sum(np.zeros(7, np.int64), 1.0, (SiteId(0),)), Sum(np.zeros(8, np.int64), 1.0, ())])
def test_another_sum_is_refused(total: Sum) -> None:
    with pytest.raises(InvalidParameter):
        value_step(FIRST, total, RULE)
