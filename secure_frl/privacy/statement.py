"""One stated epsilon with all that it rests on: the same figures and the same sentence in plan, result and verify.

A bare epsilon says nothing: unit, relation, delta, R, M, sampling, accountant, noise placement, h and c, who is trusted
and whose data stand beside it, always. No torch.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from secure_frl.privacy.accountant import ACCOUNTANT
from secure_frl.privacy.events import DISTRIBUTED, FRESH, GaussianSumEvent
from secure_frl.privacy.unit import SITE
from secure_frl.secure_sum import SumConstants

_FRESH_WINDOWS = "fresh windows"
_ACCOUNTANT_NAME = f"dp-accounting {ACCOUNTANT}, rounded up"


@dataclass(frozen=True, slots=True)
class Statement:
    """What is promised to one unit. An epsilon is None where no finite one may be stated."""

    epsilon: float | None
    delta: float
    unit: str
    relation: str
    max_rounds_per_person: int  # R, of fresh windows; on one data set every release counts
    max_sites_per_person: int  # M, an assumption that nobody can check
    epsilon_if_one_more_site: float | None  # at M + 1
    sampling_rate: float
    noised_sums: int  # in one release
    composition: str  # fresh windows | one data set
    data_set: str  # "" = fresh people, or each site's own
    accountant: str
    noise: str
    honest_shares_assumed: int
    max_colluders: int
    trust: str

    def plain(self) -> dict[str, Any]:  # Any: JSON values
        """Return the figures under their names, and the sentence."""
        return {**asdict(self), "sentence": self.sentence()}

    def sentence(self) -> str:
        """Return the whole claim in words."""
        if self.epsilon is None:
            return f"no epsilon is stated: {self.trust}"
        drawn = "every unit takes part" if self.sampling_rate == 1 else f"units sampled at rate {self.sampling_rate:g}"
        sums = "" if self.noised_sums == 1 else f", {self.noised_sums} noised sums a release"
        counted = (
            f"a person in at most {self.max_rounds_per_person} round(s)"
            if self.composition == _FRESH_WINDOWS
            else "every release on the data set counts"
        )
        shares = (
            f"resting on {self.honest_shares_assumed} honest shares (colluders: {self.max_colluders})"
            if self.noise == DISTRIBUTED
            else "each site adds all of it"
        )
        more = "not stated" if self.epsilon_if_one_more_site is None else f"{self.epsilon_if_one_more_site:.4g}"
        at_sites = f"assumed, never checked: at most {self.max_sites_per_person} site(s) a person; at one more {more}; "
        return (
            f"epsilon {self.epsilon:.6g} at delta {self.delta:g} for one {self.unit} ({self.relation}) of "
            f"{self.data_set or 'the people of this study'}; {self.composition}, {counted}, {drawn}{sums}; "
            f"{'' if self.unit == SITE else at_sites}{self.noise} noise, {shares}; {self.trust}; {self.accountant}"
        )


def state(
    event: GaussianSumEvent,
    constants: SumConstants,
    epsilon: float | None,
    one_more_site: float | None,
    data_set: str = "",
) -> Statement:
    """Return the statement of an epsilon over releases like `event` under signed constants.

    epsilon, one_more_site: None or infinite where none may be stated. data_set: "" for fresh people of one run.
    """
    stated = _finite(epsilon)
    return Statement(
        epsilon=stated,
        delta=event.delta,
        unit=event.unit,
        relation=event.relation,
        max_rounds_per_person=event.max_rounds_per_person,
        max_sites_per_person=event.max_sites_per_person,
        epsilon_if_one_more_site=None if stated is None else _finite(one_more_site),
        sampling_rate=event.sampling_rate,
        noised_sums=event.noised_sums,
        composition=_FRESH_WINDOWS if event.composition_group == FRESH else "one data set",
        data_set=data_set,
        accountant=_ACCOUNTANT_NAME,
        noise=event.mechanism,
        honest_shares_assumed=event.honest_shares,
        max_colluders=event.max_colluders,
        trust=trust_in(constants),
    )


def trust_in(constants: SumConstants) -> str:
    """Return in words against whom the claim holds, and who must keep to what."""
    if constants.noise.startswith("unsafe"):
        return "no noise is added, nobody is protected"
    if constants.noise != DISTRIBUTED:
        return "against everybody but the unit's own site, the coordinator included"
    if constants.protection.startswith("unsafe"):
        return "single shares of noise reach the coordinator without masks"
    colluders, others = constants.max_colluders, constants.honest_shares
    if constants.protection == "ckks":
        return (
            "against the coordinator alone, which has no key, and against up to "
            f"{colluders} site(s) that pool what they know, while {others} others add their noise and the coordinator "
            "follows the protocol; NOT against the coordinator in league with one site, nor a site that it sends one "
            "update as the sum: every site has the key and reads single updates with it, each with its own share of "
            "the noise only"
        )
    is_silo = constants.profile == "cross_silo"
    kind = "even one that breaks the protocol" if is_silo else "one that follows the protocol, no other"
    return (
        f"against the coordinator ({kind}) and up to {colluders} site(s) that pool what they know, while "
        f"{others} others add their noise"
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
