"""Who masks with whom: in `cross_silo` everybody with everybody.

The bounds of R1' and R3a are stated over neighbourhoods, so they hold for every graph that this file may offer.
Source: secure_aggregation.md, sections 5 and 7.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from secure_frl.secure_sum import SiteId, SumConstants


def neighbours(site: SiteId, cohort: Sequence[SiteId]) -> tuple[SiteId, ...]:
    """Return N(site) in ascending order: the complete graph on the cohort."""
    return tuple(other for other in cohort if other != site)


def members_fault(members: Sequence[SiteId], cohort: Sequence[SiteId], constants: SumConstants) -> str | None:
    """Return why U2 may not go on, or None: enough sites, and each one's seed can be rebuilt.

    members, cohort: ascending. Both ends check it, so the coordinator cannot skip it.
    """
    if len(members) < constants.min_survivors:
        return f"expected at least {constants.min_survivors} members, got {len(members)}"
    present = set(members)
    for site in members:
        holders = 1 + _count(neighbours(site, cohort), present)  # N[i]: a site holds a share of its own seed
        if holders < constants.threshold:
            return f"expected {constants.threshold} holders of the seed of site {site}, got {holders}"
    return None


def survivors_fault(
    survivors: Sequence[SiteId], members: Sequence[SiteId], cohort: Sequence[SiteId], constants: SumConstants
) -> str | None:
    """Return why U3 may not be confirmed, or None. The complete graph on U3 is always connected."""
    present = set(survivors)
    if list(survivors) != sorted(present) or not present <= set(members):
        return "expected survivors in ascending order out of the members, got another list"
    if len(survivors) < constants.min_survivors:
        return f"expected at least {constants.min_survivors} survivors, got {len(survivors)}"
    if constants.noise == "distributed" and len(survivors) - constants.max_colluders < constants.honest_shares:
        return f"expected {constants.honest_shares} honest noise shares, got fewer"
    for site in members:
        holders = _count(neighbours(site, cohort), present)
        lost = site not in present
        if lost and 0 < holders < constants.threshold:
            return f"expected {constants.threshold} holders of the key of lost site {site}, got {holders}"
        if not lost and holders + 1 < constants.threshold:
            return f"expected {constants.threshold} holders of the seed of site {site}, got {holders + 1}"
    return None


def _count(sites: Sequence[SiteId], present: Collection[SiteId]) -> int:
    return sum(1 for site in sites if site in present)
