"""Groups with a robust rule over their sums: what a rule keeps of the return, and what groups cost in privacy.

No study of the product can have groups: the coordinator's part is the laboratory's, the masked sums are real.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from secure_frl.errors import StudyRefused
from secure_frl.privacy.accountant import epsilon_of_schedule
from secure_frl.privacy.charging import WhatIf
from secure_frl.privacy.planning import planned_schedule, sum_constants
from secure_frl.study import Study
from threat_models.adversaries.byzantine import BYZANTINE
from threat_models.defences import changed
from threat_models.evaluation import Effort
from threat_models.evaluations.byzantine_cells import cell_of
from threat_models.evaluations.byzantine_study import GROUP, GROUPED_SITES, GROUPS, MALICIOUS, Case, compared
from threat_models.results import Cell, Kind

GROUP_RULES = ("mean", "median", "geometric median", "centred clipping")
_COUNT = GROUPED_SITES // GROUP
_TOO_MANY = 3  # malicious sites: they may hold most of the groups
_SEEDS = 2
_ATTACK = "sign flip"  # what takes something from the mean of all; the others would say nothing about a rule
WHY_GROUPS = (
    f"Each group's sum is masked by itself, so the coordinator sees sums of {GROUP}: its attacks run at n = {GROUP}, "
    "and noise has to be sized for the honest of one group. Of five rows, two of them bad, the trimmed mean is the "
    "median. Groups must be more than twice the malicious sites: five are too few for three."
)


def measure_groups(study: Study, effort: Effort) -> Iterator[Cell]:
    """Measure each rule over groups that two malicious sites are in, and the median where there are three."""
    price = price_of_groups(study)
    for rule, malicious in (*((rule, MALICIOUS) for rule in GROUP_RULES), ("median", _TOO_MANY)):
        case = Case(_ATTACK, malicious=malicious, is_bounded=False, rule=rule)
        game = f"{_ATTACK}, {rule} of {_COUNT} sums of {GROUP}"
        cell = cell_of(
            BYZANTINE,
            GROUPS,
            Kind.REPORT,
            game,
            compared(study, case, effort, _SEEDS),
            effort,
            malicious=malicious,
            of=GROUPED_SITES,
            sentence=WHY_GROUPS,
        )
        yield replace(cell, figures={**cell.figures, **price})


def price_of_groups(study: Study) -> dict[str, float]:
    """Return epsilon of the user's study as it is and where a sum has only a group's honest shares of noise.

    Empty where the study cannot have distributed noise.
    """
    try:
        own = changed(study, {"protection.method": "masking", "privacy.noise": "distributed"})
        constants = sum_constants(own)
    except StudyRefused:
        return {}
    schedule = planned_schedule(own, constants)
    honest = GROUP - 1  # everybody of a group must be there, and one of it may collude
    return {
        "epsilon_one_sum": epsilon_of_schedule(schedule),
        "epsilon_groups": epsilon_of_schedule(schedule, WhatIf(shares=honest)),
        "honest_shares_one_sum": float(constants.honest_shares),
        "honest_shares_group": float(honest),
    }
