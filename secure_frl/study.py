"""A study: what people wrote, with every default filled in, what follows from it, and its canonical bytes.

Its sections are in `study_sections` and `study_training`. Files are read by `study_file`.
"""

from __future__ import annotations

import json
from typing import Any

from secure_frl.degrees import fraction_of, neighbours_and_threshold
from secure_frl.study_sections import (
    DataSection,
    Deadlines,
    OutputSection,
    PolicySection,
    PrivacySection,
    ProtectionSection,
    RandomFeatures,
    Section,
    SimulatedDrop,
    SiteShift,
    SitesSection,
    StudySection,
)
from secure_frl.study_training import (
    BellmanSums,
    GlobalStep,
    LocalStep,
    PersonalFit,
    TrainingSection,
)

__all__ = [
    "BellmanSums",
    "DataSection",
    "Deadlines",
    "GlobalStep",
    "LocalStep",
    "OutputSection",
    "PersonalFit",
    "PolicySection",
    "PrivacySection",
    "ProtectionSection",
    "RandomFeatures",
    "SimulatedDrop",
    "SiteShift",
    "SitesSection",
    "Study",
    "StudySection",
    "TrainingSection",
    "default_threshold",
]


class Study(Section):
    """A whole study, as people wrote it, with every default filled in."""

    study: StudySection
    sites: SitesSection = SitesSection()
    data: DataSection = DataSection()
    policy: PolicySection = PolicySection()
    training: TrainingSection = TrainingSection()
    privacy: PrivacySection = PrivacySection()
    protection: ProtectionSection = ProtectionSection()
    output: OutputSection = OutputSection()

    def plain(self) -> dict[str, Any]:  # Any: nested tables of TOML values
        """Return the study as nested dicts, under the names of the file."""
        return self.model_dump(mode="json", by_alias=True)

    def canonical(self) -> bytes:
        """Return the bytes that a charter carries: sorted keys, no spaces, every default written out."""
        return json.dumps(self.plain(), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @property
    def threshold(self) -> int:
        """Return t: as written, or floor((n + c) / 2) + 1; in cross_device what the graph needs."""
        if self.is_sparse:
            return self.sparse_graph[1]
        return self.protection.threshold or default_threshold(self.sites.count, self.sites.max_colluders)

    @property
    def neighbours(self) -> int:
        """Return k: with how many sites each one shares keys."""
        return self.sparse_graph[0] if self.is_sparse else self.sites.count - 1

    @property
    def is_sparse(self) -> bool:
        """Return whether sites share keys with a few others only."""
        return self.protection.profile == "cross_device"

    @property
    def sparse_graph(self) -> tuple[int, int]:
        """Return (k, t) that carry the stated fractions; (0, 0) when no graph does, which no site signs."""
        graph, n = self.protection, self.sites.count
        corrupt, dropped = fraction_of(n, graph.corrupt_fraction), fraction_of(n, graph.dropout_fraction)
        return neighbours_and_threshold(n, corrupt, dropped, graph.privacy_exponent) or (0, 0)

    @property
    def is_logged(self) -> bool:
        """Return whether units come from records that exist already, which every round meets again."""
        return self.data.source != "environment"

    @property
    def is_fresh(self) -> bool:
        """Return whether a unit enters a bounded number of rounds; a site takes part in every one."""
        return not self.is_logged and self.privacy.unit != "site"

    @property
    def units_per_site(self) -> int:
        """Return the public number of units at one site: of a round when they are fresh, of its data set otherwise."""
        if self.privacy.unit == "site":
            return 1
        people = self.data.declared_units if self.is_logged else self.training.episodes_per_site
        return people * (self.data.max_steps if self.privacy.unit == "unsafe-transition" else 1)

    def exploration_at(self, round_number: int) -> float:
        """Return the part of steps taken at random in a round, counted from 1: linear until `exploration_rounds`."""
        training = self.training
        first, last, rounds = training.exploration, training.exploration_end, training.rounds
        rounds = training.exploration_rounds or rounds
        done = min(max(round_number - 1, 0), rounds - 1) / max(rounds - 1, 1)
        return first + (last - first) * done

    @property
    def declared_units(self) -> int:
        """Return the public number of units over all rounds and sites."""
        return self.units_per_site * self.sites.count * (self.training.rounds if self.is_fresh else 1)

    @property
    def declared_batch(self) -> int:
        """Return the public expected number of units a site and round."""
        return max(1, round(self.units_per_site * self.privacy.sampling_rate))

    @property
    def acts_greedily(self) -> bool:
        """Return whether logits are values of actions, of which the best is taken."""
        return self.training.objective in ("dqn", "cql", "bellman_sums")

    @property
    def sums_values(self) -> bool:
        """Return whether sites send sums of value iteration in place of gradients; their rounds then differ."""
        return self.training.objective == "bellman_sums"

    @property
    def value_start(self) -> dict[str, tuple[float, float]]:
        """Return the blocks that only the first round of value iteration fills: for each its clip and noise share."""
        if not self.sums_values:
            return {}
        it = self.training.bellman
        return {
            "pair_counts": (it.count_clip_norm, it.count_noise_share),
            "returns": (it.return_clip_norm, it.return_noise_share),
        }

    @property
    def noised_sums(self) -> int:
        """Return how many noised sums of the same units one release is made of."""
        return 1 if self.trains_locally else self.training.local_steps * self.training.epochs

    @property
    def trains_locally(self) -> bool:
        """Return whether a site trains as it likes between rounds, and its whole move is the unit."""
        return self.privacy.unit == "site" and self.training.aggregation != "fedsgd"

    def local_step_size_at(self, round_number: int) -> float:
        """Return the size of a site's own step in a round, counted from 1: linear over the study's rounds."""
        local, rounds = self.training.local, self.training.rounds
        done = min(max(round_number - 1, 0), rounds - 1) / max(rounds - 1, 1)
        return local.step_size * (1.0 - (1.0 - local.last_step) * done)

    @property
    def auxiliary(self) -> dict[str, tuple[float, float]]:
        """Return the figures that travel in blocks of their own: for each its largest magnitude and its noise share."""
        found: dict[str, tuple[float, float]] = {}
        if self.privacy.clip_quantile:
            found["clip_quantile"] = (0.5, self.privacy.clip_quantile_noise_share)
        if "mean_return" in self.output.release:
            lowest, highest = self.output.return_range
            found["mean_return"] = ((highest - lowest) / 2, self.output.mean_return_noise_share)
        return found

    def composition_group(self, dataset_id: str) -> str:
        """Return what a site's events compose in: "fresh" windows, or its data set, whose units all events meet."""
        return "fresh" if self.is_fresh else dataset_id

    @property
    def unsafe_choices(self) -> tuple[str, ...]:
        """Return each choice that takes a protection away; every output is marked with them."""
        chosen = {
            "privacy.noise": self.privacy.noise,
            "privacy.unit": self.privacy.unit,
            "protection.method": self.protection.method,
        }
        return tuple(f"{path} = {value}" for path, value in chosen.items() if value.startswith("unsafe"))


def default_threshold(sites: int, max_colluders: int) -> int:
    """Return the least t with 2t > n + c. Source: docs/protocol.md, section 3."""
    return (sites + max_colluders) // 2 + 1
