"""What a study promises and costs, as figures and in words. Derived before data is touched; made by `planning`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from secure_frl.privacy.events import DISTRIBUTED, LOCAL, UNSAFE_NONE
from secure_frl.privacy.round_cost import RoundCost
from secure_frl.privacy.round_shares import BEST_ROUNDS, has_value_start
from secure_frl.privacy.statement import Statement
from secure_frl.privacy.unit import SITE, UNSAFE_TRANSITION
from secure_frl.secure_sum import SumConstants

_LARGE_DELTA = 1e-4  # few units allow a large delta, but nobody should be promised so little
_WORDS = {DISTRIBUTED: "each site adds a share", LOCAL: "each site adds all of it", UNSAFE_NONE: "none is added"}


@dataclass(frozen=True, slots=True)
class Plan:
    """Constants for the charter, and what they promise. An epsilon is None where no finite one may be stated."""

    constants: SumConstants
    statement: Statement  # the promise when every round is done, with all that it rests on
    target_epsilon: float
    rounds: int
    declared_batch: int  # expected units a site and round
    declared_units: int  # over all sites, and all rounds when they are fresh
    rounds_shown: tuple[int, ...]
    epsilon_by_round: tuple[float | None, ...]  # spent by one person after each of the rounds shown
    epsilon_by_shares: tuple[tuple[int, float | None], ...]  # honest shares, epsilon; () where shares do not matter
    epsilon_if_one_more_colludes: float | None
    # Under ckks, against the coordinator in league with one site; None: no such reader, or none may be stated.
    epsilon_if_key_holder_colludes: float | None
    epsilon_household_of_2: float | None
    epsilon_household_of_4: float | None
    noise_norm: float  # L2 of the noise in the mean of one noised sum, in clips of a unit
    unsafe: tuple[str, ...]  # choices of the study that take a protection away
    cost: RoundCost
    cost_by_protection: tuple[RoundCost, ...]

    @property
    def epsilon(self) -> float | None:
        """Return what one person has spent when every round is done."""
        return self.epsilon_by_round[-1]

    @property
    def epsilon_if_one_more_site(self) -> float | None:
        """Return epsilon of a person at M + 1 sites of a round."""
        return self.statement.epsilon_if_one_more_site

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what a reader must know before signing; empty when nothing stands out."""
        found = []
        if self.constants.noise == UNSAFE_NONE:
            found.append("noise = unsafe-none: nobody is protected, and no epsilon is stated")
        elif self.constants.protection.startswith("unsafe"):
            found.append(f"protection = {self.constants.protection}: the coordinator reads every single update")
        if self.constants.protection == "ckks":
            found.append(
                "protection = ckks: one site in league with the coordinator reads every single update; "
                "ckks+masking closes that"
            )
        if self.constants.profile == "cross_device":
            found.append("profile = cross_device: protects against a coordinator that follows the protocol, no other")
        if self.epsilon is not None and self.epsilon > self.target_epsilon:
            found.append(f"epsilon {self.epsilon:.4g} is above the target of {self.target_epsilon:g}: raise the noise")
        if self.statement.delta > _LARGE_DELTA:
            found.append(
                f"delta = {self.statement.delta:g}: with up to that probability a person gets less than epsilon says, "
                "or nothing; most guidance keeps it at 1e-5 or below"
            )
        length = f"the noise is {self.noise_norm:.3g} clips long for {self.constants.sites} sites"
        if self.statement.unit == SITE:
            found.append(f"unit = site: {length}, where the clip bounds a whole hospital's update")
        elif self.noise_norm > 1:
            found.append(f"{length}: the mean gradient drowns in it")
        if self.statement.unit == UNSAFE_TRANSITION:
            found.append("unit = unsafe-transition: a step is protected, no patient is")
        has_noise = self.constants.noise != UNSAFE_NONE
        if has_noise and has_value_start(self.constants.blocks) and self.rounds > BEST_ROUNDS:
            found.append(
                f"rounds = {self.rounds}: each backup after the first takes its budget from the others; with noise "
                f"{BEST_ROUNDS} rounds were best"
            )
        return tuple(found)

    def plain(self) -> dict[str, Any]:  # Any: JSON values
        """Return every figure under its one name, ready for JSON; no infinity in it."""
        constants = self.constants
        figures = asdict(self)
        del figures["constants"], figures["cost"]
        terms = self.statement.plain()
        return {
            **{name: value for name, value in terms.items() if name not in ("sentence", "data_set", "trust")},
            **figures,
            "statement": terms,
            **_cost(self.cost),
            "cost_by_protection": {one.protection: _cost(one) for one in self.cost_by_protection},
            "epsilon_by_shares": {str(shares): value for shares, value in self.epsilon_by_shares},
            "unsafe": list(self.unsafe),
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
            "profile": constants.profile,
            "neighbours": constants.neighbours,
            "protection": constants.protection,
            "blocks": [asdict(block) for block in constants.blocks],
            "warnings": list(self.warnings),
        }

    def explained(self) -> tuple[tuple[str, str, str], ...]:
        """Return rows of name, value and what it means, for people."""
        constants, terms = self.constants, self.statement
        colluders = constants.max_colluders
        after = zip(self.rounds_shown, self.epsilon_by_round, strict=True)
        changes = [one for one in after if one[0] in (1, self.rounds) or len(set(self.epsilon_by_round)) > 1]
        rows = [
            (
                "epsilon",
                _number(self.epsilon),
                f"at delta {terms.delta:g}, one {terms.unit}, {terms.relation.replace('_', ' ')}; in full below",
            ),
            ("by round", _pairs(changes), "round: epsilon of one person after it"),
            ("by honest shares", _pairs(self.epsilon_by_shares), "shares of noise nobody else knows: epsilon"),
            (
                "one more colludes",
                _number(self.epsilon_if_one_more_colludes),
                f"epsilon with {colluders + 1} colluders in place of {colluders}",
            ),
            (
                "key holder colludes",
                "" if constants.protection != "ckks" else _number(self.epsilon_if_key_holder_colludes),
                "epsilon against the coordinator in league with one site, which has the key and reads single updates",
            ),
            (
                "one more site",
                _number(self.epsilon_if_one_more_site),
                f"epsilon of a person at {terms.max_sites_per_person + 1} sites; an assumption nobody can check",
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
            ("upload", f"{self.cost.upload_bytes:,} bytes", "a site and round, estimated"),
            ("download", f"{self.cost.download_bytes:,} bytes", "a site and round, estimated"),
            ("time", f"{self.cost.round_seconds:.1f} s", "a round, all sites on one core, estimated"),
            *(
                (
                    f"with {one.protection}",
                    f"{one.upload_bytes:,} up, {one.download_bytes:,} down, {one.round_seconds:.1f} s",
                    f"the same in {one.ciphertexts} ciphertexts" if one.ciphertexts else "the same in plain words",
                )
                for one in self.cost_by_protection
                if one.protection != constants.protection
            ),
        ]
        return tuple(row for row in rows if row[1])


def _cost(cost: RoundCost) -> dict[str, Any]:  # Any: JSON values
    return {name: value for name, value in asdict(cost).items() if name != "protection"}


def _number(value: float | None) -> str:
    return "not stated" if value is None else f"{value:.4g}"


def _pairs(pairs: Iterable[tuple[int, float | None]]) -> str:
    return "  ".join(f"{number}: {_number(value)}" for number, value in pairs)
