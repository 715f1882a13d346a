"""What protection was in force in a round, and who could have read what: one table, for files and for people."""

from __future__ import annotations

from collections.abc import Mapping

_POOLED = "unless more than max_colluders sites and the coordinator pool what they know"
_KEY_HOLDERS = "every site of the epoch; never the coordinator"
_TRAFFIC = "who took part, sizes, times, success"
_BLIND = (
    f"{_TRAFFIC}; neither updates nor sums nor policies; of a ciphertext of its own making, one bit a site and round"
)


def _row(protection: str, readable_by: str, coordinator_learns: str, key_held_by: str = "") -> Mapping[str, str]:
    return {
        "protection": protection,
        "readable_by": readable_by,
        "key_held_by": key_held_by,
        "coordinator_learns": coordinator_learns,
    }


_IN_FORCE: Mapping[str, Mapping[str, str]] = {
    "masking": _row(
        "masking",
        f"coordinator and sites: the sum over the survivors; nobody: a single site's update, {_POOLED}",
        f"the sum over the survivors, the policy, {_TRAFFIC}",
    ),
    "masking, cross_device": _row(
        "masking",
        "coordinator and sites: the sum over the survivors; a coordinator that follows the protocol, with "
        "max_colluders sites: no single site's update; a MALICIOUS coordinator: not excluded in this profile",
        f"the sum over the survivors, the policy, {_TRAFFIC}; single updates, if it is malicious",
    ),
    "ckks": _row(
        "ckks",
        "sites: the sum over the survivors; coordinator alone: nothing; ONE SITE IN LEAGUE WITH THE COORDINATOR, or "
        "one that it sends a single update as the sum: EVERY SINGLE UPDATE",
        _BLIND,
        _KEY_HOLDERS,
    ),
    "ckks+masking": _row(
        "ckks+masking",
        "sites: the sum over the survivors; coordinator alone: nothing; nobody: a single site's update, " + _POOLED,
        f"{_BLIND}; the masks that are left in the sum, which say nothing about any update",
        _KEY_HOLDERS,
    ),
    "unsafe-plain": _row(
        "unsafe-plain",
        "coordinator: EVERY SINGLE UPDATE. A control for attacks; it protects nobody",
        f"every single update, the sum over the survivors, the policy, {_TRAFFIC}",
    ),
}


def protection_in_force(method: str, profile: str = "cross_silo") -> dict[str, str]:
    """Return what was in force, under the names that the files of a run use.

    protection; readable_by: who reads what; key_held_by: "" where no key opens a sum; coordinator_learns.
    """
    return dict(_IN_FORCE.get(f"{method}, {profile}", _IN_FORCE[method]))
