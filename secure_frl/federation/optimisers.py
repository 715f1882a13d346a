"""From a published sum to the next policy: pure, deterministic NumPy float64 in a fixed order.

Whoever may read the sum runs this, the coordinator and every site, and must get the same bytes. So nothing here
draws a random number, reads a clock, looks at data or uses torch; the rule holds charter constants only, and the
divisor is (survivors named by the protocol) x (declared units a site), never a realised count.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.federation.global_adam import AdamRule, adam_moments
from secure_frl.federation.training_state import FIRST_PREDECESSOR, TrainingState
from secure_frl.federation.value_step import ValueRule, value_step
from secure_frl.learning.layout import RESIDUAL, VISIT_WEIGHT, VISITS, Layout
from secure_frl.secure_sum import CLIP_QUANTILE, MEAN_RETURN, Block, Sum

# Tuned on ICU-Sepsis, training seeds 10 to 12, never on patients; each is worth at most a few hundredths of the gap.
CRITIC_MEMORY = 0.7  # share of the visit counts that a round keeps: the policy under them moves on
CRITIC_STEP = 0.5
CRITIC_PRIOR_VISITS = 20.0  # visits' worth of trust in the value that a state has now
CRITIC_NOISE_VISITS = 3.0  # the same for each deviation of noise in a state's residual sum
CRITIC_RANGE = (0.05, 0.99)  # survival is never certain either way in a live state
CLIP_SPAN = 2.0**20  # how far the clip in force may wander from the charter's, both ways: it stays a normal number


@dataclass(frozen=True, slots=True, eq=False)
class OptimiserRule:
    """Charter constants of the step; nothing in it is ever read from a message or counted from data."""

    layout: Layout
    blocks: tuple[Block, ...]
    live_states: int
    declared_batch: int  # expected units a site and round
    step_size: float  # on the mean clipped gradient; the mean over rounds
    momentum: float  # in [0, 1)
    critic_start: float  # public initial value of every live state; a linear critic's offset, which stays
    site_noise: float  # deviation of one site's noise in units of the clip: sigma / sqrt(h), sigma (local) or 0
    schedule: str = "constant"  # or "linear": growing with the round, small while the critic knows little
    rounds: int = 1  # of the study; used by "linear"
    first_parameters: NDArray[np.float64] | None = None  # None: zeros, a uniform table
    noised_sums: int = 1  # that a message adds up, each over the batch
    clip_quantile: float = 0.0  # of units that the clip shall not cut; used when the message counts them
    clip_learning_rate: float = 0.0  # in (0, 1]
    return_middle: float = 0.0  # of the public range of returns
    linear_critic_step: float = 0.0  # on the mean residual times feature, of a critic that is linear in features
    values: ValueRule | None = None  # of fitted value iteration, in place of all but layout and blocks
    adam: AdamRule | None = None  # in place of the plain step; `step_size` is then of about the length of a step

    def __post_init__(self) -> None:
        numbers = (self.step_size, self.momentum, self.critic_start, self.site_noise)
        fine = all(math.isfinite(number) for number in numbers)
        if not fine or self.step_size <= 0 or not 0 <= self.momentum < 1 or self.site_noise < 0:
            raise InvalidParameter(
                f"step_size must be positive, momentum in [0, 1) and site_noise at least 0, not {numbers}. "
                "Correct training.global."
            )
        if self.schedule not in ("constant", "linear") or self.rounds < 1:
            raise InvalidParameter(
                f"schedule must be constant or linear and rounds at least 1, not {self.schedule!r} and {self.rounds}. "
                "Correct training.global and training.rounds."
            )
        if self.declared_batch < 1 or self.noised_sums < 1 or self.blocks[-1].stop != self.layout.length:
            raise InvalidParameter(
                f"declared_batch must be positive and the blocks must cover {self.layout.length} values, "
                f"not {self.declared_batch} and {self.blocks[-1].stop}. Build the blocks from the same layout."
            )

    def step_size_of(self, round_number: int) -> float:
        """Return the step size of an applied round, counted from 1; rounds beyond the study's keep the last one."""
        if self.schedule == "constant":
            return self.step_size
        return self.step_size * 2.0 * min(round_number, self.rounds) / (self.rounds + 1)

    @property
    def has_critic(self) -> bool:
        """Return whether the message carries a critic."""
        return any(segment.parameter == RESIDUAL for segment in self.layout.segments)

    @property
    def has_linear_critic(self) -> bool:
        """Return whether the critic is weights of features: its residuals come without counts of visits."""
        return self.has_critic and all(segment.parameter != VISITS for segment in self.layout.segments)

    @property
    def first_critic(self) -> NDArray[np.float64]:
        """Return the critic before the first round, float64 [live states], or zeros [width] where it is linear."""
        if self.has_linear_critic:
            critic = self.layout.slice_of(RESIDUAL)
            return np.zeros(critic.stop - critic.start)
        return np.full(self.live_states, self.critic_start)

    def block(self, name: str) -> Block | None:
        """Return the block of a name, if the message has one."""
        return next((block for block in self.blocks if block.name == name), None)


def initial_state(rule: OptimiserRule) -> TrainingState:
    """Return the state before the first round: public policy, constant critic. A function of the charter only."""
    policy = rule.blocks[0]
    zeros = np.zeros(policy.stop - policy.start)
    return TrainingState(
        parameters=zeros if rule.first_parameters is None else rule.first_parameters,
        momentum=zeros,
        critic=rule.first_critic,
        visits=np.zeros(rule.first_critic.size),
        round=0,
        predecessor=FIRST_PREDECESSOR,
        clip_norm=policy.clip_norm if rule.block(CLIP_QUANTILE) else None,
        second_moment=None if rule.adam is None else np.full(zeros.size, rule.adam.first_second_moment),
    )


def has_form_of(state: TrainingState, rule: OptimiserRule) -> bool:
    """Return whether steps of this rule can give a state of this form: sizes, critic, and clip or second moment only
    where there is one.

    A clip from elsewhere could be so small that squares of gradients vanish beside it, and nobody would be clipped.
    """
    first, clip = initial_state(rule), state.clip_norm
    if state.parameters.shape != first.parameters.shape or state.critic.shape != first.critic.shape:
        return False
    if not _has_second_moment_of(state, rule):
        return False
    lowest, highest = min(CRITIC_RANGE[0], rule.critic_start), max(CRITIC_RANGE[1], rule.critic_start)
    if not rule.has_linear_critic and not ((lowest <= state.critic) & (state.critic <= highest)).all():
        return False
    if first.clip_norm is None or clip is None:
        return clip is first.clip_norm
    return first.clip_norm / CLIP_SPAN <= clip <= first.clip_norm * CLIP_SPAN


def _has_second_moment_of(state: TrainingState, rule: OptimiserRule) -> bool:
    if rule.adam is None or state.second_moment is None:
        return (rule.adam is None) == (state.second_moment is None)
    return rule.adam.is_noise_corrected or bool((state.second_moment >= 0).all())  # roots of squares of means


def blocks_in_force(blocks: tuple[Block, ...], state: TrainingState) -> tuple[Block, ...]:
    """Return the charter's blocks with the clip that the state says, by which sites divide in the next round.

    The message is in units of the clips, so neither its sensitivity nor its noise follows the clip.
    """
    if state.clip_norm is None:
        return blocks
    return (replace(blocks[0], clip_norm=state.clip_norm), *blocks[1:])


def critic_values(state: TrainingState, states: int) -> NDArray[np.float64]:
    """Return the public critic over all states, float64 [states]: 0 behind the live ones, where episodes end."""
    values = np.zeros(states)
    values[: state.critic.size] = state.critic
    return values


def descent_sums(total: Sum, rule: OptimiserRule) -> NDArray[np.float64]:
    """Undo the public factors of each block: minus the sum of clipped gradients over all units, float64 [P]."""
    values = -(total.integers.astype(np.float64) / total.scale)
    for block in rule.blocks:
        values[block.start : block.stop] *= block.clip_norm / math.sqrt(block.noise_share)
    return values


def step(state: TrainingState, total: Sum, rule: OptimiserRule) -> TrainingState:
    """Apply one published sum: momentum or Adam on the mean of what sites sent, then the critic's own step.

    Sums of records' values have a step of their own, `value_step`.

    Raises InvalidParameter when the sum's length is not the layout's or nobody contributed.
    """
    if rule.values is not None:
        return value_step(state, total, rule.values)
    if total.integers.shape != (rule.layout.length,) or not total.contributors:
        raise InvalidParameter(
            f"a sum of {rule.layout.length} values by at least one site is needed, not {total.integers.shape} "
            f"by {len(total.contributors)}. Pass the sum of this study's round."
        )
    blocks = blocks_in_force(rule.blocks, state)
    sums = descent_sums(total, replace(rule, blocks=blocks))
    survivors = len(total.contributors)
    policy = blocks[0]
    mean = sums[policy.start : policy.stop] / (survivors * rule.declared_batch)
    second_moment = state.second_moment
    if rule.adam is None or second_moment is None:
        momentum = direction = rule.momentum * state.momentum + mean
    else:
        noise = _noise_in(policy, survivors, rule) / (survivors * rule.declared_batch)
        momentum, second_moment, direction = adam_moments(
            rule.adam, rule.momentum, state.momentum, second_moment, mean, noise, state.round + 1
        )
    critic, visits = state.critic, state.visits
    if rule.has_linear_critic:
        residual = sums[rule.layout.slice_of(RESIDUAL)]
        critic = critic + rule.linear_critic_step * residual / (survivors * rule.declared_batch)
    elif rule.has_critic:
        critic, visits = _critic_step(state, sums, survivors, rule)
    return TrainingState(
        parameters=state.parameters + rule.step_size_of(state.round + 1) * direction,
        momentum=momentum,
        critic=critic,
        visits=visits,
        round=state.round + 1,
        predecessor=hashlib.sha256(state.to_bytes()).digest(),
        clip_norm=_next_clip(state, total, rule),
        second_moment=second_moment,
    )


def released_figures(state: TrainingState, total: Sum, rule: OptimiserRule) -> dict[str, float]:
    """Return what a published sum says beside the policy: the noised mean return, and the clip that follows from it.

    state: after the step. The deviation is that of the noise alone, of all contributors; a unit that was missing
    counts as the middle of the public range.
    """
    found: dict[str, float] = {}
    if state.clip_norm is not None:
        found["clip_norm"] = state.clip_norm
    block = rule.block(MEAN_RETURN)
    if block is not None:
        bound = block.clip_norm / math.sqrt(block.noise_share)
        units = len(total.contributors) * rule.declared_batch * rule.noised_sums
        found["released_mean_return"] = rule.return_middle + _mean_figure(total, block, rule)
        found["released_mean_return_deviation"] = rule.site_noise * math.sqrt(len(total.contributors)) * bound / units
    return found


def _mean_figure(total: Sum, block: Block, rule: OptimiserRule) -> float:
    """Return the mean of an auxiliary figure over the declared units of all contributors."""
    value = float(total.integers[block.start]) / total.scale * block.clip_norm / math.sqrt(block.noise_share)
    return value / (len(total.contributors) * rule.declared_batch * rule.noised_sums)


def _next_clip(state: TrainingState, total: Sum, rule: OptimiserRule) -> float | None:
    """Return the clip of the next round: C exp(-eta (b - gamma)), b the noised part of units that C did not cut.

    Source: Andrew et al. 2021, Differentially Private Learning with Adaptive Clipping, section 2.1 and Algorithm 1.
    """
    block = rule.block(CLIP_QUANTILE)
    if block is None or state.clip_norm is None:
        return state.clip_norm
    whole = min(max(0.5 + _mean_figure(total, block, rule), 0.0), 1.0)
    following = state.clip_norm * _exponential(-rule.clip_learning_rate * (whole - rule.clip_quantile))
    charters = rule.blocks[0].clip_norm
    return min(max(following, charters / CLIP_SPAN), charters * CLIP_SPAN)


def _exponential(value: float) -> float:
    """Return exp(value) for |value| <= 1 by its series: a library's last bit differs from machine to machine."""
    result = term = 1.0
    for order in range(1, 20):
        term *= value / order
        result += term
    return result


def _critic_step(
    state: TrainingState, sums: NDArray[np.float64], survivors: int, rule: OptimiserRule
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return critic and visits: each value moves towards its mean residual, less with few visits or much noise."""
    deviation = _noise_in(rule.blocks[1], survivors, rule)
    residual = sums[rule.layout.slice_of(RESIDUAL)]
    counted = np.maximum(sums[rule.layout.slice_of(VISITS)], 0.0) / VISIT_WEIGHT
    visits = CRITIC_MEMORY * state.visits + counted
    trust = CRITIC_STEP * visits + CRITIC_PRIOR_VISITS + CRITIC_NOISE_VISITS * deviation
    critic = np.clip(state.critic + CRITIC_STEP * residual / trust, *CRITIC_RANGE)
    return critic, visits


def _noise_in(block: Block, survivors: int, rule: OptimiserRule) -> float:
    """Return the deviation of the noise of all survivors in each value of a block's sum, its factors undone."""
    return rule.site_noise * math.sqrt(survivors) * block.clip_norm / math.sqrt(block.noise_share)
