"""From a published sum to the next policy: pure, deterministic NumPy float64 in a fixed order.

Whoever may read the sum runs this, the coordinator and every site, and must get the same bytes. So nothing here
draws a random number, reads a clock, looks at data or uses torch; the rule holds charter constants only, and the
divisor is (survivors named by the protocol) x (declared episodes a site), never a realised count.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_frl.errors import InvalidParameter
from secure_frl.federation.training_state import FIRST_PREDECESSOR, TrainingState
from secure_frl.learning.layout import LOGITS, RESIDUAL, VISIT_WEIGHT, VISITS, Layout
from secure_frl.secure_sum import Block, Sum

# Tuned on ICU-Sepsis, training seeds 10 to 12, never on patients; each is worth at most a few hundredths of the gap.
CRITIC_MEMORY = 0.7  # share of the visit counts that a round keeps: the policy under them moves on
CRITIC_STEP = 0.5
CRITIC_PRIOR_VISITS = 20.0  # visits' worth of trust in the value that a state has now
CRITIC_NOISE_VISITS = 3.0  # the same for each deviation of noise in a state's residual sum
CRITIC_RANGE = (0.05, 0.99)  # survival is never certain either way in a live state


@dataclass(frozen=True, slots=True, eq=False)
class OptimiserRule:
    """Charter constants of the step; nothing in it is ever read from a message or counted from data."""

    layout: Layout
    blocks: tuple[Block, ...]
    live_states: int
    episodes_per_site: int  # declared, a round
    step_size: float  # on the mean clipped gradient; the mean over rounds
    momentum: float  # in [0, 1)
    critic_start: float  # public initial value of every live state
    site_noise: float  # deviation of one site's noise in units of the clip: sigma / sqrt(h), sigma (local) or 0
    schedule: str = "constant"  # or "linear": growing with the round, small while the critic knows little
    rounds: int = 1  # of the study; used by "linear"

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
        if self.episodes_per_site < 1 or self.blocks[-1].stop != self.layout.length:
            raise InvalidParameter(
                f"episodes_per_site must be positive and the blocks must cover {self.layout.length} values, "
                f"not {self.episodes_per_site} and {self.blocks[-1].stop}. Build the blocks from the same layout."
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


def initial_state(rule: OptimiserRule) -> TrainingState:
    """Return the state before the first round: uniform policy, constant critic. A function of the charter only."""
    part = rule.layout.slice_of(LOGITS)
    return TrainingState(
        logits=np.zeros(part.stop - part.start),
        momentum=np.zeros(part.stop - part.start),
        critic=np.full(rule.live_states, rule.critic_start),
        visits=np.zeros(rule.live_states),
        round=0,
        predecessor=FIRST_PREDECESSOR,
    )


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
    """Apply one published sum: SGD with momentum on the mean clipped gradient, then the critic's own step.

    Raises InvalidParameter when the sum's length is not the layout's or nobody contributed.
    """
    if total.integers.shape != (rule.layout.length,) or not total.contributors:
        raise InvalidParameter(
            f"a sum of {rule.layout.length} values by at least one site is needed, not {total.integers.shape} "
            f"by {len(total.contributors)}. Pass the sum of this study's round."
        )
    sums = descent_sums(total, rule)
    survivors = len(total.contributors)
    mean = sums[rule.layout.slice_of(LOGITS)] / (survivors * rule.episodes_per_site)
    momentum = rule.momentum * state.momentum + mean
    critic, visits = state.critic, state.visits
    if rule.has_critic:
        critic, visits = _critic_step(state, sums, survivors, rule)
    return TrainingState(
        logits=state.logits + rule.step_size_of(state.round + 1) * momentum,
        momentum=momentum,
        critic=critic,
        visits=visits,
        round=state.round + 1,
        predecessor=hashlib.sha256(state.to_bytes()).digest(),
    )


def _critic_step(
    state: TrainingState, sums: NDArray[np.float64], survivors: int, rule: OptimiserRule
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return critic and visits: each value moves towards its mean residual, less with few visits or much noise."""
    block = rule.blocks[-1]
    deviation = rule.site_noise * math.sqrt(survivors) * block.clip_norm / math.sqrt(block.noise_share)
    residual = sums[rule.layout.slice_of(RESIDUAL)]
    counted = np.maximum(sums[rule.layout.slice_of(VISITS)], 0.0) / VISIT_WEIGHT
    visits = CRITIC_MEMORY * state.visits + counted
    trust = CRITIC_STEP * visits + CRITIC_PRIOR_VISITS + CRITIC_NOISE_VISITS * deviation
    critic = np.clip(state.critic + CRITIC_STEP * residual / trust, *CRITIC_RANGE)
    return critic, visits
