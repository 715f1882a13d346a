"""Events to epsilon: the only place where an epsilon is computed, with dp-accounting's PLD accountant.

What composes: within one charter, fresh windows cost R copies of the worst window (each person enters at most R of
them); events on one data set cost each event; different charters on one data set add up. A release of several noised
sums costs each of them. All events have one unit and relation: what bounds a patient bounds no site, and one patient's
trajectory may turn that patient's clipped sum round, by two clips.

Noise, sampling rate and clips are constants of a charter, so plain composition holds. A value chosen from earlier
outputs (an adaptive sigma or rate) would need a filter (Lécuyer 2021, by RDP); none is offered, so such a study is
refused: its events would contradict the charter. RDP is a cross-check among tests only. Opacus' GDP accountant is
never used: it states 3.27 where 5.85 is spent (multiplier .6, rate .02, 100 releases, delta 1e-5).

No torch. dp-accounting takes seconds to import, so it is imported on first use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from secure_frl.errors import BudgetExhausted, InvalidParameter
from secure_frl.privacy.charging import AS_BOOKED, Release, WhatIf, charge, dominating, merge
from secure_frl.privacy.events import DISTRIBUTED, FRESH, LOCAL, UNSAFE_NONE, GaussianSumEvent, decode_event
from secure_frl.privacy.noise import DRAW_TOTAL_VARIATION
from secure_frl.privacy.pld import pld_epsilon
from secure_frl.secure_sum import Budget, SumConstants

ACCOUNTANT = "PLD"  # its name in every statement
_LARGEST_EPSILON = 100.0  # above it e^eps draws' errors use up any delta: no epsilon is stated


Schedule = tuple[tuple[GaussianSumEvent, int], ...]  # releases of one charter: like this event, and how many of them


def epsilon(events: Sequence[GaussianSumEvent], delta: float, what_if: WhatIf = AS_BOOKED) -> float:
    """Return epsilon at `delta` for one unit, under the events' own relation, of everything in `events`.

    events: of one data set and holder, in any order; attempts that died after release included. what_if: fewer honest
    shares, a person at more sites, or several people instead of one.
    0 for no event; infinity when one of them carries no noise, or when delta does not cover the sampler's and
    the rounding bound's own failures: then no epsilon may be stated.
    Raises InvalidParameter for events of two data sets, units or relations.
    Source: accountant, grid and losses of delta: docs/privacy.md, section 3.
    """
    _check_together(events, delta)
    if not events:
        return 0.0
    if any(event.mechanism == UNSAFE_NONE for event in events):
        return math.inf
    return _stated_epsilon(tuple(sorted(charge(events, what_if))), delta)


def epsilon_of_schedule(schedule: Schedule, what_if: WhatIf = AS_BOOKED) -> float:
    """Return epsilon of a charter's announced releases, at their delta; what_if: as in `epsilon`."""
    if any(event.mechanism == UNSAFE_NONE for event, _ in schedule):
        return math.inf
    releases = releases_of(schedule, what_if)
    return _stated_epsilon(tuple(sorted(releases)), schedule[0][0].delta) if releases else 0.0


def releases_of(schedule: Schedule, what_if: WhatIf = AS_BOOKED) -> tuple[Release, ...]:
    """Return the continuous Gaussians that one unit is charged for: of fresh windows no more than R of them count."""
    met = ((event, min(count, event.max_rounds_per_person) if _is_fresh(event) else count) for event, count in schedule)
    return tuple(dominating(event, what_if).times(count) for event, count in met if count)


def as_read_one_by_one(event: GaussianSumEvent) -> GaussianSumEvent:
    """Return the event as whoever reads single updates sees it: each hides behind its own site's noise only.

    Distributed noise then is one share, sigma / sqrt(h), and a person at M sites is read M times: local noise of this
    size. Under local noise itself there is no difference.
    """
    if event.mechanism != DISTRIBUTED:
        return event
    return replace(event, mechanism=LOCAL, noise_multiplier=event.integer_noise_scale / event.scale)


def covers_every_reader(constants: SumConstants) -> bool:
    """Return whether an epsilon may be stated: no party reads a message with less noise than the claim counts on.

    Not without noise, and not when single noise shares reach the coordinator without masks. Under `ckks` it
    holds of the coordinator, which has no key, and of sites, which are sent sums, as long as none helps the other: the
    statement says so, and `as_read_one_by_one` what is left if one does.
    """
    return constants.noise == LOCAL or (
        constants.noise == DISTRIBUTED and not constants.protection.startswith("unsafe")
    )


def effective_sigma(event: GaussianSumEvent) -> float:
    """Return the multiplier of the one continuous Gaussian that dominates R fresh releases like this, M sites included.

    On logged data, of one release. For full batches only. Raises InvalidParameter below q = 1, and for an event without
    noise.
    """
    if event.sampling_rate < 1:
        raise InvalidParameter(f"expected sampling_rate=1, got {event.sampling_rate}. Ask for its epsilon instead.")
    return merge((dominating(event).times(event.max_rounds_per_person if _is_fresh(event) else 1),))[0][0]


def smallest_gaussian_sigma(target_epsilon: float, delta: float) -> float:
    """Return the smallest multiplier of one continuous Gaussian release. Source: Balle and Wang 2018, Algorithm 1."""
    from dp_accounting import get_sigma_gaussian

    return float(get_sigma_gaussian(target_epsilon, delta))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return epsilon of one continuous Gaussian release with shift over deviation mu >= 0, exactly.

    For figures that were measured; what is claimed goes through `epsilon`. Source: Balle and Wang 2018, Theorem 8.
    """
    from dp_accounting import get_epsilon_gaussian

    if not (mu >= 0 and math.isfinite(mu) and 0 < delta < 1):
        raise InvalidParameter(f"expected mu >= 0 and 0 < delta < 1, got {mu} and {delta}. Pass a lower bound on mu.")
    return float(get_epsilon_gaussian(1 / mu, delta)) if mu > 0 else 0.0


def guard(budget: Budget, recorded: Sequence[bytes], candidate: bytes) -> None:
    """Refuse the next release when it would spend more than the budget; a ledger calls this before it reserves.

    recorded: canonical bytes of every event of this data set and holder, cancelled reservations left out.
    Raises BudgetExhausted, naming what would be spent and what is left; LedgerCorrupt for bytes that are no event;
    InvalidParameter for a candidate of another data set. A candidate for another unit is refused like one that costs
    too much: no epsilon can be stated for both together.
    """
    before, following = [decode_event(data) for data in recorded], decode_event(candidate)
    kinds = sorted({_kind(event) for event in (*before, following)})
    if len(kinds) > 1:
        raise BudgetExhausted(
            f"expected releases for one {before[0].unit}, {before[0].relation}, as this data set's ledger began, got "
            f"one {following.unit}, {following.relation}: no epsilon covers both. Nothing was sampled or sent: set "
            "privacy.unit and privacy.relation as before."
        )
    after = epsilon([*before, following], budget.delta)
    if after > budget.epsilon:
        spent = epsilon(before, budget.delta)
        raise BudgetExhausted(
            f"expected epsilon_spent <= {budget.epsilon:g} at delta={budget.delta:g}, got {after:.4f} after the next "
            f"release ({spent:.4f} is spent, {max(0.0, budget.epsilon - spent):.4f} is left). Nothing was sampled or "
            "sent: end the study here, or ask the holder of this data set for a larger budget."
        )


def _kind(event: GaussianSumEvent) -> tuple[str, str]:
    return event.unit, event.relation


def _is_fresh(event: GaussianSumEvent) -> bool:
    return event.composition_group == FRESH


def _check_together(events: Sequence[GaussianSumEvent], delta: float) -> None:
    if not 0 < delta < 1:
        raise InvalidParameter(f"expected 0 < delta < 1, got delta={delta}. Set privacy.delta.")
    datasets = {event.dataset_id for event in events}
    if len(datasets) > 1:
        raise InvalidParameter(
            f"expected events of one data set, got {len(datasets)} of them. Account for each data set by itself."
        )
    kinds = {_kind(event) for event in events}
    if len(kinds) > 1:
        raise InvalidParameter(
            f"expected events for one unit and relation, got {sorted(kinds)}. Account for each kind by itself."
        )


@lru_cache(maxsize=256)  # fresh windows cost the same round after round, at each of a simulation's sites
def _stated_epsilon(releases: tuple[Release, ...], delta: float) -> float:
    """Return epsilon with delta lowered by the rounding bound's failures and by (1 + e^eps) times the draws' error."""
    mechanisms = merge(releases)
    lowered = delta - sum(release.failure for release in releases)
    if lowered <= 0:
        return math.inf
    first = pld_epsilon(mechanisms, lowered)
    if first > _LARGEST_EPSILON:
        return math.inf
    # One more than the first epsilon stands for the final one in e^eps; whether it was enough is checked.
    lowered -= (1 + math.exp(first + 1)) * sum(release.draws for release in releases) * DRAW_TOTAL_VARIATION
    stated = pld_epsilon(mechanisms, lowered) if lowered > 0 else math.inf
    return stated if stated <= first + 1 else math.inf
