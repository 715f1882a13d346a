"""What a study promises and costs, as figures and in words. Derived before data is touched; made by `planning`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from secure_frl.privacy.accountant import ACCOUNTANT
from secure_frl.privacy.events import DISTRIBUTED, LOCAL, UNSAFE_NONE
from secure_frl.secure_sum import SumConstants

_WORDS = {DISTRIBUTED: "each site adds a share", LOCAL: "each site adds all of it", UNSAFE_NONE: "none is added"}


@dataclass(frozen=True, slots=True)
class Plan:
    """Constants for the charter, and what they promise. An epsilon is None where no finite one may be stated."""

    constants: SumConstants
    unit: str
    relation: str
    target_epsilon: float
    delta: float
    rounds: int
    max_rounds_per_person: int
    max_sites_per_person: int
    declared_batch: int  # units a site and round
    declared_units: int  # over all rounds and sites
    epsilon_by_round: tuple[float | None, ...]  # spent by one person after each round
    epsilon_if_one_more_colludes: float | None
    epsilon_if_one_more_site: float | None  # a person at M + 1 sites of a round
    epsilon_household_of_2: float | None
    epsilon_household_of_4: float | None
    noise_norm: float  # L2 of the noise in the mean of one round, in clips a unit
    upload_bytes: int  # a site and round
    download_bytes: int
    round_seconds: float  # all sites on one core, an estimate

    @property
    def epsilon(self) -> float | None:
        """Return what one person has spent when every round is done."""
        return self.epsilon_by_round[-1]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what a reader must know before signing; empty when nothing stands out."""
        found = []
        if self.constants.noise == UNSAFE_NONE:
            found.append("noise = unsafe-none: nobody is protected, and no epsilon is stated")
        elif self.constants.protection.startswith("unsafe"):
            found.append(f"protection = {self.constants.protection}: the coordinator reads every single update")
        if self.constants.profile == "cross_device":
            found.append("profile = cross_device: protects against a coordinator that follows the protocol, no other")
        if self.noise_norm > 1:
            found.append(f"the noise is {self.noise_norm:.2f} clips long: the mean gradient drowns in it")
        return tuple(found)

    def plain(self) -> dict[str, Any]:  # Any: JSON values
        """Return every figure under its one name, ready for JSON; no infinity in it."""
        constants = self.constants
        figures = asdict(self)
        del figures["constants"]
        return {
            **figures,
            "epsilon": self.epsilon,
            "accountant": ACCOUNTANT,
            "noise": constants.noise,
            "noise_multiplier": constants.noise_multiplier,
            "integer_noise_scale": constants.integer_noise_scale,
            "scale": constants.scale,
            "bound": constants.bound,
            "noise_bound": constants.noise_bound,
            "modulus_bits": constants.modulus_bits,
            "length": constants.length,
            "sites": constants.sites,
            "threshold": constants.threshold,
            "min_survivors": constants.min_survivors,
            "max_colluders": constants.max_colluders,
            "profile": constants.profile,
            "neighbours": constants.neighbours,
            "honest_shares_assumed": constants.honest_shares,
            "protection": constants.protection,
            "blocks": [asdict(block) for block in constants.blocks],
            "warnings": list(self.warnings),
        }

    def explained(self) -> tuple[tuple[str, str, str], ...]:
        """Return rows of name, value and what it means, for people."""
        constants = self.constants
        terms = (
            f"at delta {self.delta:g}, one {self.unit}, {self.relation.replace('_', ' ')}, {ACCOUNTANT}; "
            f"a {self.unit} in at most {self.max_rounds_per_person} round(s) and {self.max_sites_per_person} site(s)"
        )
        honest, colluders = constants.honest_shares, constants.max_colluders
        shares = f"rests on {honest} honest shares" if constants.noise == DISTRIBUTED else "rests on nobody else"
        return (
            ("epsilon", _number(self.epsilon), f"{terms}; {shares}"),
            (
                "one more colludes",
                _number(self.epsilon_if_one_more_colludes),
                f"epsilon with {colluders + 1} colluders in place of {colluders}",
            ),
            (
                "one more site",
                _number(self.epsilon_if_one_more_site),
                f"epsilon of a person at {self.max_sites_per_person + 1} sites; an assumption nobody can check",
            ),
            (
                "household",
                f"{_number(self.epsilon_household_of_2)} / {_number(self.epsilon_household_of_4)}",
                "epsilon of 2 / 4 people who come and go together",
            ),
            ("noise", constants.noise, _WORDS[constants.noise]),
            ("noise multiplier", f"{constants.noise_multiplier:.4f}", "sigma, in units of the clip"),
            ("noise norm", f"{self.noise_norm:.4f}", "length of the noise in a round's mean gradient; the clip is 1"),
            (
                "sum",
                f"{constants.length} values of {constants.modulus_bits} bits",
                f"{constants.sites} sites, {constants.min_survivors} survivors or more, t = {constants.threshold}",
            ),
            ("upload", f"{self.upload_bytes:,} bytes", "a site and round, estimated"),
            ("download", f"{self.download_bytes:,} bytes", "a site and round, estimated"),
            ("time", f"{self.round_seconds:.1f} s", "a round, all sites on one core, estimated"),
        )


def _number(value: float | None) -> str:
    return "not stated" if value is None else f"{value:.4g}"
