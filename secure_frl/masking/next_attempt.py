"""Whom a round asks, and whom again when it aborted before its survivors were named: the rule for attempt + 1.

Speaks as the coordinator, which cannot tell a cheating dealer from a lying complainer: a site that blames more than
`max_colluders` others lies or is broken, because at most that many cheat; otherwise its dealers stay out. Nobody
discloses a key to prove anything. Sites that fell silent are asked again only beside enough sites that answered.
Source: docs/protocol.md, section 13.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from secure_frl.masking.contexts import CROSS_DEVICE
from secure_frl.secure_sum import SiteId, SumConstants

MOST_ATTEMPTS = 3  # of one round: each one takes new people at every site that answers


def first_cohort(
    members: Sequence[SiteId], out: Collection[SiteId], number: int, constants: SumConstants
) -> tuple[SiteId, ...]:
    """Return whom round `number` asks: the whole epoch list; in cross_device one whole batch of n, in turn.

    Whole batches, so that two cohorts are equal or have nobody in common while nobody is blamed; each site that is left
    out moves the batches after it. out: blamed in this epoch; they are asked
    again when too few others remain.
    """
    kept = tuple(site for site in members if site not in out)
    if constants.profile != CROSS_DEVICE:
        return kept if len(kept) >= constants.min_survivors else tuple(members)
    if len(kept) < constants.sites:
        kept = tuple(members)
    turn = (number - 1) % (len(kept) // constants.sites)
    return kept[turn * constants.sites : (turn + 1) * constants.sites]


def left_out(complaints: Mapping[SiteId, Sequence[SiteId]], max_colluders: int) -> frozenset[SiteId]:
    """Return the sites that the next cohort does without: blamed dealers, and whoever blames too many."""
    accusers = {site for site, dealers in complaints.items() if len(dealers) > max_colluders}
    blamed = {dealer for site, dealers in complaints.items() if site not in accusers for dealer in dealers}
    return frozenset(accusers | blamed)


def next_cohort(
    cohort: Sequence[SiteId],
    answered: Collection[SiteId],
    complaints: Mapping[SiteId, Sequence[SiteId]],
    members: Sequence[SiteId],
    constants: SumConstants,
) -> tuple[SiteId, ...] | None:
    """Return the cohort of attempt + 1, ascending, or None when another attempt would fail as this one did.

    answered: who sent what its last stage asked for, a complaint included. members: of the epoch; a profile with
    cohorts of a fixed size takes others of them in place of those left out.
    """
    out = left_out(complaints, constants.max_colluders)
    if len(set(answered) - out) < constants.min_survivors:
        return None
    kept = [site for site in cohort if site not in out]
    if constants.profile == CROSS_DEVICE:
        spare = [site for site in members if site not in out and site not in set(cohort)]
        kept = sorted(kept + spare[: constants.sites - len(kept)])
        if len(kept) < constants.sites:
            return None
    return tuple(kept)
