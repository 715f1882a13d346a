"""What a run tells people: one report a round, and a summary at the end."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

RESULT_FORMAT = "secure_frl/result/v1"


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One round as the coordinator saw it. Return and gap come from a public simulator, at no cost in privacy."""

    round: int
    attempt: int
    epoch: int
    outcome: str  # summed | lost
    reason: str  # why it was lost, by the error's name; empty when summed
    survivors: int
    cohort: int
    mean_return: float
    gap_recovered: float | None  # None where nobody knows the clinicians' and the best policy
    epsilon_spent: float
    epsilon_left: float
    protection: str
    noise: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """The summary of a finished run; `run --json` prints it and `verify` recomputes its epsilon."""

    gap_recovered: float | None  # of the released last-round policy as it acts, unclamped; None as in `RoundReport`
    mean_return: float
    return_half_width: float  # of a 95 % interval, for a policy that is rolled out; 0: the return is exact
    epsilon_spent: float  # largest over the sites' ledgers, for this study; infinite when nothing can be stated
    epsilon_if_one_more_colludes: float
    epsilon_if_key_holder_colludes: float  # the coordinator with one site, under plain ckks; infinite elsewhere
    epsilon_if_one_more_site: float  # a person at one more site of a round
    delta: float
    unit: str
    relation: str
    accountant: str
    max_rounds_per_person: int
    max_sites_per_person: int
    honest_shares_assumed: int
    max_colluders: int
    rounds_completed: int
    rounds_lost: int
    episodes: int  # asked of the sites: over all attempts, cohort x a site's public number of a round
    survivors_min: int
    survivor_difference_min: int | None  # `evidence.rounds.smallest_difference`
    protection: str
    noise: str
    policy_hash: str
    rehearsal: bool
    unsafe: tuple[str, ...]
    trust: str
    statement: dict[str, Any]  # the epsilon with all its terms, as `verify` states it; Any: JSON values
    seed: int
    simulated: dict[str, Any] | None  # what only a simulation knows, see `by_site`; None for records. Any: JSON values
    seconds: float

    def plain(self) -> dict[str, Any]:  # Any: JSON values
        """Return the summary under the names of the command line; an epsilon that can't be stated is None."""
        table = asdict(self)
        table["return"] = table.pop("mean_return")
        table["format"] = RESULT_FORMAT
        table["unsafe"] = list(self.unsafe)
        for key, value in table.items():
            if isinstance(value, float) and not math.isfinite(value):
                table[key] = None
        return table
