"""From events to what one unit is charged for: continuous Gaussians that dominate the noised integer sums. No torch."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secure_frl.errors import InvalidParameter
from secure_frl.privacy.events import DISTRIBUTED, FRESH, LOCAL, GaussianSumEvent
from secure_frl.privacy.unit import shift_of

Mechanism = tuple[float, float, int]  # sigma, sampling rate, copies
_DISCRETE_VARIANCE = 4.0  # a discrete Gaussian of variance v post-processes a continuous one of variance v - 4


@dataclass(frozen=True, slots=True, order=True)
class Release:
    """A continuous Gaussian that dominates one event: its multiplier and sampling rate, `copies` times."""

    sigma: float
    sampling_rate: float
    copies: int
    failure: float  # delta lost to the rounding bound, all copies
    draws: int  # noise draws of the honest sites, all copies

    def times(self, count: int) -> Release:
        """Return `count` of these."""
        return Release(self.sigma, self.sampling_rate, self.copies * count, self.failure * count, self.draws * count)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What an epsilon is asked for in place of what the events assume; None: as they say."""

    shares: int | None = None  # honest noise shares; without meaning under local noise
    sites: int | None = None  # of one round at which a person is
    people: int = 1  # units that come and go together

    def __post_init__(self) -> None:
        for name in ("shares", "sites", "people"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidParameter(
                    f"expected {name} >= 1, got {value}. A unit is there, with its own site's share."
                )


AS_BOOKED = WhatIf()


def charge(events: Sequence[GaussianSumEvent], what_if: WhatIf = AS_BOOKED) -> Iterable[Release]:
    """Return the releases that one unit is charged for."""
    charters: dict[str, list[GaussianSumEvent]] = defaultdict(list)
    charged: Counter[Release] = Counter()
    for event in events:
        if event.composition_group == FRESH:
            charters[event.charter_hash].append(event)
        else:
            charged[dominating(event, what_if)] += 1
    for fresh in charters.values():
        windows = Counter(event.window for event in fresh)
        entered = min(len(windows), max(event.max_rounds_per_person for event in fresh))
        releases = [dominating(event, what_if) for event in fresh]
        # The worst window: as many events as the fullest one, each with the smallest noise and the largest sample.
        worst = Release(
            sigma=min(release.sigma for release in releases),
            sampling_rate=max(release.sampling_rate for release in releases),
            copies=max(release.copies for release in releases),
            failure=max(release.failure for release in releases),
            draws=max(release.draws for release in releases),
        )
        charged[worst] += entered * max(windows.values())
    return [release.times(count) for release, count in charged.items()]


def dominating(event: GaussianSumEvent, what_if: WhatIf = AS_BOOKED) -> Release:
    """Return the continuous Gaussian that dominates each noised sum of one event, `noised_sums` times.

    sigma_eff = sqrt(h S^2 - 4) / rounded shift, h = 1 under local noise. A person at M sites moves one distributed sum
    M times in the same direction; under local noise the M messages are M events. A replaced unit moves it twice.
    Sampled at rate q at each of M sites, or in a household of k, some of the shift is there with probability
    1 - (1 - q)^m: taken as all of it, which dominates the binomial mixture of shifts (they are monotone;
    Choquette-Choo et al. 2024). Raises InvalidParameter for an event without noise.
    """
    at_sites = what_if.sites or event.max_sites_per_person
    distributed = event.mechanism == DISTRIBUTED
    if not distributed and event.mechanism != LOCAL:
        raise InvalidParameter(
            f"expected noise of a known kind, got {event.mechanism!r}. Read it with a newer version."
        )
    present = (what_if.shares or event.honest_shares) if distributed else 1
    together = what_if.people * (at_sites if distributed else 1)  # units that move one sum in the same direction
    shift_factor = together * shift_of(event.relation)  # a replaced unit is never sampled: no rate is counted twice
    copies = event.noised_sums * (1 if distributed else at_sites)
    sigma = math.sqrt(present * event.integer_noise_scale**2 - _DISCRETE_VARIANCE) / event.rounding_bound
    return Release(
        sigma=sigma / shift_factor,
        sampling_rate=event.sampling_rate
        if event.sampling_rate == 1 or together == 1
        else -math.expm1(together * math.log1p(-event.sampling_rate)),
        copies=copies,
        failure=event.rounding_beta * shift_factor * copies,
        draws=event.length * present * copies,
    )


def merge(releases: tuple[Release, ...]) -> tuple[Mechanism, ...]:
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
