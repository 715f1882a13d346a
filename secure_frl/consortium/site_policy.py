"""A hospital's own limits: a charter outside them is not signed, whatever the consortium agreed.

The defaults are the strictest sensible ones; nothing marked `unsafe` passes unless the file says `allow_unsafe`.
A simulated site's limits are written for the study it simulates, so the same check runs everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from secure_frl.consortium.charter import Charter
from secure_frl.errors import InvalidParameter, PolicyForbids


@dataclass(frozen=True, slots=True)
class SitePolicy:
    """What a site will sign."""

    max_epsilon: float  # greatest target_epsilon of one study
    max_delta: float
    protections: frozenset[str] = frozenset({"masking", "ckks+masking"})  # under ckks one site may open all others
    noises: frozenset[str] = frozenset({"distributed", "local"})
    profiles: frozenset[str] = frozenset({"cross_silo"})  # cross_device trusts the coordinator to follow the protocol
    units: frozenset[str] = frozenset({"patient", "site"})  # a trajectory is less than a person
    environments: frozenset[str] = frozenset({"icu-sepsis"})  # any other makes the site run the code that it names
    max_lifetime_epsilon: float = 0.0  # that a study may write into a new ledger of its data set; 0: max_epsilon
    smallest_cohort: int = 3  # least min_survivors
    allow_unsafe: bool = False  # protections, noises and units with `unsafe` in their name

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_epsilon) and self.max_epsilon > 0 and 0 < self.max_delta < 1):
            raise InvalidParameter(
                f"expected max_epsilon > 0 and max_delta in (0, 1), got {self.max_epsilon} and {self.max_delta}. "
                "Set both in the site's policy."
            )

    def check(self, charter: Charter) -> None:
        """Raise PolicyForbids naming every limit that the charter passes."""
        privacy = charter.study.get("privacy")
        table = privacy if isinstance(privacy, Mapping) else {}
        lifetime, limit_for_life = _lifetime_epsilon(charter), self.max_lifetime_epsilon or self.max_epsilon
        constants = charter.constants
        unsafe = [
            name
            for name in (constants.protection, constants.noise, str(table.get("unit")))
            if name.startswith("unsafe")
        ]
        broken = [
            text
            for text, allowed in (
                (f"unsafe choices ({', '.join(unsafe)})", self.allow_unsafe or not unsafe),
                (_named_protection(constants.protection), constants.protection in self.protections),
                (f"noise {constants.noise}", constants.noise in self.noises),
                (f"profile {constants.profile}", constants.profile in self.profiles),
                (f"unit {table.get('unit')}", table.get("unit") in self.units),
                (f"environment {_environment(charter)}", _environment(charter) in self.environments),
                (
                    f"lifetime_epsilon {lifetime} above {limit_for_life}",
                    lifetime == 0 or _at_most(lifetime, limit_for_life),
                ),
                (f"min_survivors {constants.min_survivors}", constants.min_survivors >= self.smallest_cohort),
                *(
                    (f"{key} {table.get(key)} above {limit}", _at_most(table.get(key), limit))
                    for key, limit in (("target_epsilon", self.max_epsilon), ("delta", self.max_delta))
                ),
            )
            if not allowed
        ]
        if broken:
            raise PolicyForbids(
                f"expected a charter inside this site's limits, got {'; '.join(broken)}. "
                "Change the study, or have the site's officer change its policy first."
            )


def policy_of_simulated_site(charter: Charter) -> SitePolicy:
    """Return the limits of a site that exists only to simulate this study: exactly what the study needs."""
    privacy = charter.study.get("privacy")
    table = privacy if isinstance(privacy, Mapping) else {}
    constants = charter.constants
    return SitePolicy(
        max_epsilon=float(table.get("target_epsilon", 0.0)),
        max_delta=float(table.get("delta", 0.0)),
        protections=frozenset({constants.protection}),
        noises=frozenset({constants.noise}),
        profiles=frozenset({constants.profile}),
        units=frozenset({str(table.get("unit"))}),
        environments=frozenset({_environment(charter)}),
        max_lifetime_epsilon=float(str(_lifetime_epsilon(charter))),
        smallest_cohort=constants.min_survivors,
        allow_unsafe=any(
            name.startswith("unsafe") for name in (constants.protection, constants.noise, str(table.get("unit")))
        ),
    )


def _named_protection(protection: str) -> str:
    """Name a protection in a refusal, with what a site must know before its policy allows it."""
    if protection != "ckks":
        return f"protection {protection}"
    return (
        "protection ckks (all sites have the key, so one in league with the coordinator reads every single update; "
        "ckks+masking closes that; a site that trusts all others to stay away from the coordinator lists ckks by name)"
    )


def _environment(charter: Charter) -> str:
    """Return the environment that the study names, or the default that it leaves unsaid."""
    data = charter.study.get("data")
    return str(data.get("environment", "icu-sepsis")) if isinstance(data, Mapping) else "icu-sepsis"


def _lifetime_epsilon(charter: Charter) -> object:
    """Return what a new ledger of the study's data set would allow for life; 0 where the study does not say."""
    data = charter.study.get("data")
    return data.get("lifetime_epsilon", 0.0) if isinstance(data, Mapping) else 0.0


def _at_most(value: object, limit: float) -> bool:
    """False for anything that isn't a finite number: what can't be compared isn't allowed."""
    return type(value) in (int, float) and math.isfinite(float(str(value))) and 0 < float(str(value)) <= limit
