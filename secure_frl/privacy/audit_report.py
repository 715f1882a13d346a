"""What an audit says: the claim of one noised sum, what canaries prove of it, and the verdict that follows.

The rule. The mean-shift bound decides at q = 1, the one-run bound below it. Bound above the claim: the claim does not
hold. Otherwise an audit is judged only where correct code passes: where the bound of correct code is at least .75 of
the claim in 99.9 % of audits with so many canaries. There a bound below .75 is inconclusive, for the canaries did not
arrive as they should; elsewhere the bound is printed and nothing more is said.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from secure_frl.errors import InvalidParameter
from secure_frl.privacy import accountant, audit
from secure_frl.privacy.events import DISTRIBUTED, UNSAFE_NONE, GaussianSumEvent

LEAST_RATIO = 0.75  # of bound over claim, where an audit is judged

BROKEN = "claim does not hold"
HOLDS = "no violation seen"
INCONCLUSIVE = "inconclusive"
NOT_JUDGED = "not judged"


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Figures of one audit. Every epsilon is of one noised sum, at `delta`, for one unit under `relation`."""

    claimed_epsilon: float
    delta: float
    unit: str
    relation: str
    mechanism: str
    sampling_rate: float
    shares_present: int  # honest noise shares in the audited sums: h, or one site's own under local noise
    canaries: int
    epsilon_bound: float | None  # mean-shift Gaussian bound, 99.9 % one-sided; None below q = 1
    epsilon_bound_threshold: float | None  # Gaussian bound from one threshold
    epsilon_bound_one_run: float  # Steinke, Nasr and Jagielski 2023
    one_run_guesses: int
    epsilon_point_estimate: float | None  # proves nothing
    mu_claimed: float
    mu_estimate: float | None
    mu_bound: float | None
    expected_ratio: float | None  # bound over claim of correct code
    least_ratio: float | None  # which correct code passes in 99.9 % of audits
    smallest_bug: float | None  # noise variance over the claimed one that is caught in 99.9 % of audits
    is_judged: bool
    verdict: str

    @property
    def deciding_bound(self) -> float:
        """Return the lower bound on epsilon that is compared with the claim."""
        return self.epsilon_bound_one_run if self.epsilon_bound is None else self.epsilon_bound

    @property
    def ratio(self) -> float:
        """Return bound over claim."""
        return self.deciding_bound / self.claimed_epsilon

    def plain(self) -> dict[str, Any]:  # Any: JSON values
        """Return every figure for one JSON object."""
        return {**asdict(self), "ratio": self.ratio, "confidence": audit.CONFIDENCE}


def audited_release(event: GaussianSumEvent) -> GaussianSumEvent:
    """Return the one noised sum of a planned event that canaries go through.

    What composes is left to the accountant: more rounds a person, more noised sums a release, and under local noise
    more sites, whose messages are events of their own. Raises InvalidParameter for an event without noise.
    """
    if event.mechanism == UNSAFE_NONE:
        raise InvalidParameter(
            "expected a study with noise, got privacy.noise='unsafe-none': there is no claim to audit. "
            "Set privacy.noise to 'distributed' or 'local'."
        )
    sites = event.max_sites_per_person if event.mechanism == DISTRIBUTED else 1
    return replace(event, max_rounds_per_person=1, max_sites_per_person=sites, noised_sums=1)


def judge(scores: audit.CanaryScores, release: GaussianSumEvent, canary_norm: float) -> AuditReport:
    """Return the report on scores of canaries that went through sums like `release`.

    scores: in shifts of one canary. release: from `audited_release`. canary_norm: of a canary after clipping, in
    clips, at most 1: below it where a block of the message is too short to carry canaries.
    """
    delta, rate = release.delta, release.sampling_rate
    claimed = accountant.epsilon([release], delta)
    full = replace(release, sampling_rate=1.0, sampler="all")
    honest_mu = canary_norm / accountant.effective_sigma(full)
    count = int(scores.values.size)
    guesses = audit.best_guesses(count, honest_mu, rate, delta)
    right = audit.count_guesses(scores, guesses, rate)
    one_run = audit.one_run_epsilon(count, guesses, right, delta)

    def epsilon_of(mu: float) -> float:
        return accountant.gaussian_epsilon(mu, delta)

    is_full = rate == 1
    shift = audit.mean_shift(scores) if is_full else None
    claimed_mu = 1 / accountant.smallest_gaussian_sigma(claimed, delta)
    power = audit.power(count, honest_mu, max(honest_mu, claimed_mu)) if is_full else None
    least_ratio = epsilon_of(power.least_mu) / claimed if power is not None else None
    bound = epsilon_of(shift.lower) if shift is not None else None
    is_judged = least_ratio is not None and least_ratio >= LEAST_RATIO
    return AuditReport(
        claimed_epsilon=claimed,
        delta=delta,
        unit=release.unit,
        relation=release.relation,
        mechanism=release.mechanism,
        sampling_rate=rate,
        shares_present=release.honest_shares if release.mechanism == DISTRIBUTED else 1,
        canaries=count,
        epsilon_bound=bound,
        epsilon_bound_threshold=epsilon_of(audit.threshold_lower_mu(scores)) if is_full else None,
        epsilon_bound_one_run=one_run,
        one_run_guesses=guesses,
        epsilon_point_estimate=epsilon_of(max(0.0, shift.estimate)) if shift is not None else None,
        mu_claimed=claimed_mu,
        mu_estimate=shift.estimate if shift is not None else None,
        mu_bound=shift.lower if shift is not None else None,
        expected_ratio=epsilon_of(power.expected_mu) / claimed if power is not None else None,
        least_ratio=least_ratio,
        smallest_bug=power.variance_factor if power is not None else None,
        is_judged=is_judged,
        verdict=verdict(claimed, one_run if bound is None else bound, is_judged=is_judged),
    )


def verdict(claimed: float, bound: float, *, is_judged: bool) -> str:
    """Return what follows from a bound, by the rule at the top of this file."""
    if bound > claimed:
        return BROKEN
    if not is_judged:
        return NOT_JUDGED
    return HOLDS if bound >= LEAST_RATIO * claimed else INCONCLUSIVE
