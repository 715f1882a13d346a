"""What protection was in force in a round, and who could have read what: one table, for files and for people."""

from __future__ import annotations

_IN_FORCE: dict[str, dict[str, str]] = {
    "masking": {
        "protection": "masking",
        "readable_by": "coordinator and sites: the sum over the survivors; nobody: a single site's update, "
        "unless more than max_colluders sites and the coordinator pool what they know",
    },
    "masking, cross_device": {
        "protection": "masking",
        "readable_by": "coordinator and sites: the sum over the survivors; a coordinator that follows the protocol, "
        "with max_colluders sites: no single site's update; a MALICIOUS coordinator: not excluded in this profile",
    },
    "unsafe-plain": {
        "protection": "unsafe-plain",
        "readable_by": "coordinator: EVERY SINGLE UPDATE. A control for attacks; it protects nobody",
    },
}


def protection_in_force(method: str, profile: str = "cross_silo") -> dict[str, str]:
    """Return the description of a protection, under the names that `rounds.jsonl` uses."""
    return dict(_IN_FORCE.get(f"{method}, {profile}", _IN_FORCE[method]))
