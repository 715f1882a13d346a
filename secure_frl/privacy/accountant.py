"""Events to epsilon: the only place where an epsilon is computed, with dp-accounting's PLD accountant.

What composes: within one charter, fresh windows cost R copies of the worst window (each person enters at most R of
them); events on one data set cost each event; different charters on one data set add up. A release of several noised
sums costs each of them. All events have one unit and relation: what bounds a patient bounds no site, and one patient's
trajectory may turn that patient's clipped sum round, by two clips.

Noise, sampling rate and clips are constants of a charter, so plain composition holds. A value chosen from earlier
outputs (an adaptive sigma or rate) would need a filter (Lécuyer 2021, by RDP); none is offered, so such a study is
refused: its events would contradict the charter. RDP is a cross-check of `renyi_epsilon` only. Opacus' GDP accountant
is never used: it states 3.27 where 5.85 is spent (multiplier .6, rate .02, 100 releases, delta 1e-5).

No torch. dp-accounting takes seconds to import, so it is imported on first use.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from secure_frl.errors import BudgetExhausted, InvalidParameter
from secure_frl.privacy.events import DISTRIBUTED, FRESH, LOCAL, UNSAFE_NONE, GaussianSumEvent, decode_event
from secure_frl.privacy.noise import DRAW_TOTAL_VARIATION
from secure_frl.privacy.unit import shift_of
from secure_frl.secure_sum import SumConstants

ACCOUNTANT = "PLD"  # its name in every statement
PLD_GRID = 1e-3  # dp-accounting, pessimistic rounding
_FINE_GRID = 1e-4  # where one release loses so little that rounding up on the other grid would show
_SMALL_LOSS = 0.01  # deviation of the privacy loss of one sampled release; measured: .5 % of epsilon at .004
_DISCRETE_VARIANCE = 4.0  # a discrete Gaussian of variance v post-processes a continuous one of variance v - 4
_SMALLEST_SIGMA = 0.02  # below it epsilon is above 1,000
_LARGEST_EPSILON = 100.0  # above it e^eps draws' errors use up any delta: no epsilon is stated


@dataclass(frozen=True, slots=True)
class Budget:
    """What a holder allows: epsilon at delta. epsilon = infinity allows reference runs without noise."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and 0 < self.delta < 1):
            raise InvalidParameter(
                f"expected epsilon > 0 and 0 < delta < 1, got epsilon={self.epsilon}, delta={self.delta}. "
                "Set privacy.target_epsilon and privacy.delta."
            )


@dataclass(frozen=True, slots=True, order=True)
class _Release:
    """A continuous Gaussian that dominates one event: its multiplier and sampling rate, `copies` times."""

    sigma: float
    sampling_rate: float
    copies: int
    failure: float  # delta lost to the rounding bound, all copies
    draws: int  # noise draws of the honest sites, all copies


def epsilon(events: Sequence[GaussianSumEvent], delta: float) -> float:
    """Return epsilon at `delta` for one unit, under the events' own relation, of everything in `events`.

    events: of one data set and holder, in any order; attempts that died after release included.
    0 for no event; infinity when one of them carries no noise, or when delta does not cover the sampler's and
    the rounding bound's own failures: then no epsilon may be stated.
    Raises InvalidParameter for events of two data sets, units or relations.
    Source: accountant, grid and losses of delta: privacy.md, sections 4 to 6.
    """
    return _epsilon(events, delta)


def epsilon_if_fewer_shares(event: GaussianSumEvent, shares: int) -> float:
    """Return epsilon of R releases like `event` when only `shares` honest noise shares protect it, at its delta.

    Under local noise the number of shares does not matter.
    """
    if shares < 1:
        raise InvalidParameter(f"expected shares >= 1, got {shares}. A site's own share is always there.")
    return _epsilon(_repeated(event), event.delta, shares=shares)


def epsilon_if_more_sites(event: GaussianSumEvent, sites: int) -> float:
    """Return epsilon of R releases like `event` for a person at `sites` sites of one round, at the event's delta."""
    if sites < 1:
        raise InvalidParameter(f"expected sites >= 1, got {sites}. Pass max_sites_per_person or more.")
    return _epsilon(_repeated(event), event.delta, sites=sites)


def epsilon_of_household(event: GaussianSumEvent, people: int) -> float:
    """Return epsilon of R releases like `event` for `people` units that come and go together, at its delta."""
    if people < 1:
        raise InvalidParameter(f"expected people >= 1, got {people}. Pass the size of a household.")
    return _epsilon(_repeated(event), event.delta, people=people)


def covers_every_reader(constants: SumConstants) -> bool:
    """Return whether an epsilon may be stated: no party reads a message with less noise than the claim counts on.

    Not without noise, and not when single noise shares reach the coordinator without masks.
    """
    return constants.noise == LOCAL or (
        constants.noise == DISTRIBUTED and not constants.protection.startswith("unsafe")
    )


def effective_sigma(event: GaussianSumEvent) -> float:
    """Return the multiplier of the one continuous Gaussian that dominates R releases like `event`, M sites included.

    For full batches only. Raises InvalidParameter below q = 1, and for an event without noise.
    """
    if event.sampling_rate < 1:
        raise InvalidParameter(f"expected sampling_rate=1, got {event.sampling_rate}. Ask for its epsilon instead.")
    return _merge(tuple(_charge(_repeated(event), None, None, 1)))[0][0]


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


def renyi_epsilon(events: Sequence[GaussianSumEvent], delta: float) -> float:
    """Return epsilon of the same releases by Rényi DP: an independent cross-check, looser than `epsilon`, never stated.

    Source: Mironov, Talwar and Zhang 2019 (sampled Gaussian); the conversion is dp-accounting's.
    Raises InvalidParameter as `epsilon` does, and for an event without noise.
    """
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    _check_together(events, delta)
    renyi = RdpAccountant()
    for sigma, rate, copies in _merge(tuple(sorted(_charge(events, None, None, 1)))):
        one = dp_accounting.GaussianDpEvent(sigma)
        renyi.compose(one if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, one), copies)
    return float(renyi.get_epsilon(delta)) if events else 0.0


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


def _repeated(event: GaussianSumEvent) -> list[GaussianSumEvent]:
    """Return R windows like the event's: what a person may be in."""
    copies = event.max_rounds_per_person if event.composition_group == FRESH else 1
    return [replace(event, window=f"{event.window}#{number}") for number in range(copies)]


def _epsilon(
    events: Sequence[GaussianSumEvent],
    delta: float,
    *,
    shares: int | None = None,
    sites: int | None = None,
    people: int = 1,
) -> float:
    _check_together(events, delta)
    if not events:
        return 0.0
    if any(event.mechanism == UNSAFE_NONE for event in events):
        return math.inf
    charged = _charge(events, shares, sites, people)
    return _stated_epsilon(tuple(sorted(charged)), delta)


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


def _charge(
    events: Sequence[GaussianSumEvent], shares: int | None, sites: int | None, people: int
) -> Iterable[_Release]:
    """Return the releases that one unit is charged for."""
    charters: dict[str, list[GaussianSumEvent]] = defaultdict(list)
    charged: Counter[_Release] = Counter()
    for event in events:
        if event.composition_group == FRESH:
            charters[event.charter_hash].append(event)
        else:
            charged[_dominating(event, shares, sites, people)] += 1
    for fresh in charters.values():
        windows = Counter(event.window for event in fresh)
        entered = min(len(windows), max(event.max_rounds_per_person for event in fresh))
        releases = [_dominating(event, shares, sites, people) for event in fresh]
        # The worst window: as many events as the fullest one, each with the smallest noise and the largest sample.
        worst = _Release(
            sigma=min(release.sigma for release in releases),
            sampling_rate=max(release.sampling_rate for release in releases),
            copies=max(release.copies for release in releases),
            failure=max(release.failure for release in releases),
            draws=max(release.draws for release in releases),
        )
        charged[worst] += entered * max(windows.values())
    return [
        _Release(r.sigma, r.sampling_rate, r.copies * count, r.failure * count, r.draws * count)
        for r, count in charged.items()
    ]


def _dominating(event: GaussianSumEvent, shares: int | None, sites: int | None, people: int) -> _Release:
    """Return the continuous Gaussian that dominates each noised sum of one event, `noised_sums` times.

    sigma_eff = sqrt(h S^2 - 4) / rounded shift, h = 1 under local noise. A person at M sites moves one distributed sum
    M times in the same direction; under local noise the M messages are M events. A replaced unit moves it twice.
    Sampled at rate q at each of M sites, or in a household of k, some of the shift is there with probability
    1 - (1 - q)^m: taken as all of it, which dominates the binomial mixture of shifts (they are monotone;
    Choquette-Choo et al. 2024).
    """
    at_sites = sites if sites is not None else event.max_sites_per_person
    distributed = event.mechanism == DISTRIBUTED
    if not distributed and event.mechanism != LOCAL:
        raise InvalidParameter(
            f"expected noise of a known kind, got {event.mechanism!r}. Read it with a newer version."
        )
    present = (shares if shares is not None else event.honest_shares) if distributed else 1
    together = people * (at_sites if distributed else 1)  # units that move one sum in the same direction
    shift_factor = together * shift_of(event.relation)  # a replaced unit is never sampled: no rate is counted twice
    copies = event.noised_sums * (1 if distributed else at_sites)
    sigma = math.sqrt(present * event.integer_noise_scale**2 - _DISCRETE_VARIANCE) / event.rounding_bound
    return _Release(
        sigma=sigma / shift_factor,
        sampling_rate=event.sampling_rate
        if event.sampling_rate == 1 or together == 1
        else -math.expm1(together * math.log1p(-event.sampling_rate)),
        copies=copies,
        failure=event.rounding_beta * shift_factor * copies,
        draws=event.length * present * copies,
    )


def _stated_epsilon(releases: tuple[_Release, ...], delta: float) -> float:
    """Return epsilon with delta lowered by the rounding bound's failures and by (1 + e^eps) times the draws' error."""
    mechanisms = _merge(releases)
    lowered = delta - sum(release.failure for release in releases)
    if lowered <= 0:
        return math.inf
    first = _pld_epsilon(mechanisms, lowered)
    if first > _LARGEST_EPSILON:
        return math.inf
    # One more than the first epsilon stands for the final one in e^eps; whether it was enough is checked.
    lowered -= (1 + math.exp(first + 1)) * sum(release.draws for release in releases) * DRAW_TOTAL_VARIATION
    stated = _pld_epsilon(mechanisms, lowered) if lowered > 0 else math.inf
    return stated if stated <= first + 1 else math.inf


def _merge(releases: tuple[_Release, ...]) -> tuple[tuple[float, float, int], ...]:
    """Return (sigma, sampling rate, copies) with all unsampled Gaussians joined into one.

    Exact, adaptive composition included: Gaussians of multipliers sigma_i are one with 1/sigma^2 = sum 1/sigma_i^2
    (Dong, Roth and Su 2022, Corollary 3.3).
    """
    precision = sum(r.copies / r.sigma**2 for r in releases if r.sampling_rate == 1)
    merged = [(1 / math.sqrt(precision), 1.0, 1)] if precision else []
    sampled: Counter[tuple[float, float]] = Counter()
    for r in releases:
        if r.sampling_rate < 1:
            sampled[(r.sigma, r.sampling_rate)] += r.copies
    merged += [(sigma, rate, copies) for (sigma, rate), copies in sorted(sampled.items())]
    return tuple(merged)


def _pld_epsilon(mechanisms: tuple[tuple[float, float, int], ...], delta: float) -> float:
    """Return epsilon of the composed mechanisms by PLD, rounded pessimistically on the grid."""
    if any(sigma < _SMALLEST_SIGMA for sigma, _, _ in mechanisms):
        return math.inf
    return float(_composed(mechanisms).get_epsilon_for_delta(delta))


@lru_cache(maxsize=256)
def _composed(mechanisms: tuple[tuple[float, float, int], ...]) -> Any:  # Any: dp-accounting has no types
    """Return the privacy loss distribution of all mechanisms together; only ever read after this."""
    grid = _grid(mechanisms)
    together = None
    for mechanism in mechanisms:
        one = _self_composed(*mechanism, grid)
        together = one if together is None else together.compose(one)
    return together


# A guard asks again after each round, with one more copy of one mechanism: the others stay as they were.
@lru_cache(maxsize=64)
def _self_composed(sigma: float, rate: float, copies: int, grid: float) -> Any:  # Any: as above
    one = _single(sigma, rate, grid)
    return one if copies == 1 else one.self_compose(copies)


@lru_cache(maxsize=64)
def _single(sigma: float, rate: float, grid: float) -> Any:  # Any: as above
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        sigma, value_discretization_interval=grid, sampling_prob=rate
    )


def _grid(mechanisms: tuple[tuple[float, float, int], ...]) -> float:
    """Return the grid on which rounding up costs less than half a percent of epsilon."""
    # q sqrt(e^(1/sigma^2) - 1): root of the chi-square divergence of the sampled Gaussian from the Gaussian.
    losses = [rate * math.sqrt(math.expm1(min(1 / sigma**2, 700.0))) for sigma, rate, _ in mechanisms if rate < 1]
    return _FINE_GRID if losses and min(losses) < _SMALL_LOSS else PLD_GRID
