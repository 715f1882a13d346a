"""What people write: the keys of a study, their types and defaults, and the study's canonical bytes.

A value that this version cannot carry out is no value of this schema. No default is an unsafe choice. Files are read
by `study_file`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from secure_frl.degrees import fraction_of, neighbours_and_threshold

Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# No person's gradient is that small; squares of far smaller ones vanish, and with them the norm that is clipped.
Clip = Annotated[float, Field(ge=1e-9, allow_inf_nan=False)]
SiteCount = Annotated[int, Field(ge=3, le=10_000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)


class StudySection(_Section):
    """Which file this is."""

    schema_: Literal[1] = Field(alias="schema", description="1")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="small letters, digits and '-', at most 63")
    seed: int = Field(default=0, ge=0, lt=2**32, description="a whole number below 2^32; never touches privacy noise")


class SimulatedDrop(_Section):
    """Sites lost in each round, drawn from the seed."""

    before_masked: int = Field(
        default=0, ge=0, le=10_000, description="a number of sites lost before their masked input"
    )
    after_masked: int = Field(default=0, ge=0, le=10_000, description="a number of sites lost after their masked input")


class Deadlines(_Section):
    """How long the coordinator waits."""

    train: Positive = Field(default=120.0, description="the seconds for the exchange in which a site trains")
    stage: Positive = Field(default=30.0, description="the seconds for every other exchange")


class SitesSection(_Section):
    """Who takes part, and how many may be lost or corrupt."""

    count: SiteCount = Field(
        default=10, description="a number of simulated sites, 3 to 100, or 101 to 10000 with profile cross_device"
    )
    simulate_drop: SimulatedDrop = SimulatedDrop()
    min_survivors: int = Field(default=8, ge=3, le=10_000, description="the least number of sites in a sum, from 3")
    max_colluders: int = Field(default=1, ge=1, le=9_999, description="how many sites may pool what they know, from 1")
    deadline_s: Deadlines = Deadlines()


class SiteShift(_Section):
    """How simulated sites differ."""

    kind: Literal["none", "case_mix", "practice_effect"] = Field(
        default="none",
        description="'none', 'case_mix': who comes and how they fare, or 'practice_effect': what an action does",
    )
    strength: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="0 with none; practice_effect: a part of the states, up to 1; case_mix: in deviations, up to 2",
    )


class DataSection(_Section):
    """Where trajectories come from."""

    source: Literal["environment", "steps"] = Field(
        default="environment", description="'environment': simulated patients, or 'steps': logged trajectories"
    )
    environment: str = Field(
        default="icu-sepsis",
        pattern=r"^[A-Za-z0-9_.:/-]{1,200}$",
        description="'icu-sepsis', a Gymnasium id such as 'CartPole-v1', 'module:Id-v0' or 'module:factory'",
    )
    observation: Literal["state", "features"] = Field(
        default="state", description="'state': a state's number, or 'features': a vector, of icu-sepsis 47"
    )
    site_shift: SiteShift = SiteShift()
    path: str = Field(
        default="", max_length=1000, description="a folder with one steps table a site: site-01.parquet, site-02 ..."
    )
    dataset_id: str = Field(
        default="", pattern=r"^[a-z0-9-]{0,63}$", description="small letters, digits and '-'; empty for fresh people"
    )
    lifetime_epsilon: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="what a new ledger of dataset_id allows over all studies, 0 to 1000; 0 for privacy.target_epsilon",
    )
    max_steps: int = Field(
        default=48, ge=1, le=1000, description="a number of steps, 1 to 1000; longer trajectories are cut"
    )
    declared_units: int = Field(
        default=0, ge=0, le=1_000_000, description="how many units a site declares; 0 for fresh episodes"
    )


class RandomFeatures(_Section):
    """The fixed map of a policy that is linear in random features, and the step of a critic that is linear in them."""

    width: int = Field(default=1024, ge=2, le=4096, multiple_of=2, description="an even width, 2 to 4096")
    bandwidth: Positive = Field(
        default=2.5, description="a number above 0: how far apart observations, as they come, still know of each other"
    )
    critic_step: Positive = Field(default=100.0, description="a number above 0; applied to the mean residual")


class PolicySection(_Section):
    """What is trained."""

    kind: Literal["table", "mlp", "gru", "lstm", "random_features"] = Field(
        default="table",
        description="'table': one row a state; 'mlp', 'gru' or 'lstm': a network over states or features; "
        "'random_features': linear in a fixed map of features",
    )
    random_features: RandomFeatures = RandomFeatures()
    hidden: list[Annotated[int, Field(ge=1, le=256)]] = Field(
        default=[64, 64],
        min_length=1,
        max_length=8,
        description="a list of widths, 1 to 256: of states the embedding's first, with gru and lstm the recurrent "
        "layer's last",
    )
    allowed_actions: Literal["public"] = Field(
        default="public", description="'public': the published table, or the masks that an environment gives"
    )
    critic: Literal["private", "network", "none"] = Field(
        default="private",
        description="'private': values of states, or weights of random features, which share the noise; 'network': a "
        "value network, clipped together with the policy; or 'none'",
    )
    critic_start: float = Field(
        default=0.78, ge=0, le=1, description="the public first value of every state, 0 to 1; dqn, cql: of every action"
    )


class GlobalStep(_Section):
    """The step that whoever may read the sum applies to it."""

    optimiser: Literal["sgd", "adam"] = Field(
        default="sgd", description="'sgd', with momentum, or 'adam', of gradients (fedsgd) or moves (fedadam)"
    )
    step_size: Positive = Field(
        default=5000.0, description="a number above 0; of the mean clipped gradient, the mean move, or adam's direction"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="a number from 0, below 1; adam's beta 1")
    second_momentum: float = Field(default=0.99, ge=0, lt=1, description="a number from 0, below 1; adam's beta 2")
    root_floor: float = Field(
        default=1e-3,
        ge=1e-12,
        le=1e6,
        description="1e-12 to 1000000: adam's tau, added to the root of the second moment; with noise_corrected the "
        "root's least value",
    )
    noise_corrected: bool = Field(
        default=False, description="true or false: take the known variance of the noise from adam's second moment"
    )
    schedule: Literal["constant", "linear"] = Field(
        default="linear", description="'constant', or 'linear', which grows with the round"
    )


class LocalStep(_Section):
    """The step that a site takes on each of its own noised sums, or, with unit = site, on its own minibatches."""

    optimiser: Literal["sgd", "adam"] = Field(
        default="sgd", description="'sgd': what leaves is then the sum of noised steps; with unit = 'site' also 'adam'"
    )
    step_size: Positive = Field(default=0.1, description="a number above 0; applied to the mean (clipped) gradient")
    last_step: float = Field(
        default=1.0, gt=0, le=1, description="the part of step_size in the last round, linear until then; unit = 'site'"
    )
    minibatch: int = Field(
        default=0, ge=0, le=1_000_000, description="steps of an environment in a minibatch, 0 for all; unit = 'site'"
    )
    max_gradient_norm: float = Field(
        default=0.0, ge=0, description="the L2 bound of a minibatch's gradient, 0 for none; unit = 'site'"
    )
    proximal: float = Field(
        default=0.0, ge=0, le=1e6, description="mu of fedprox, from 0: the pull back to the broadcast policy"
    )


class PersonalFit(_Section):
    """How a site fits its own policy, behind the last shared round and without noise, for it stays there."""

    prior_weight: Positive = Field(
        default=0.3, description="a number above 0: what the shared policy counts in a table, 1 as own records say"
    )
    steps: int = Field(default=200, ge=1, le=100_000, description="steps of a network's fit, 1 to 100000")
    step_size: Positive = Field(default=0.001, description="a number above 0: of Adam, for networks")
    pull: float = Field(
        default=0.1, ge=0, le=1e6, description="0 to 1000000: how strongly a network is held to the shared parameters"
    )


class BellmanSums(_Section):
    """Fitted value iteration by sums: what the value start sends, and how noisy sums become values."""

    return_clip_norm: Clip = Field(default=0.6, description="the L2 bound of one unit's returns by state, from 1e-9")
    return_noise_share: Share = Field(default=0.05, description="the returns' part of the budget, between 0 and 1")
    count_clip_norm: Clip = Field(default=2.0, description="the L2 bound of one unit's counts by pair, from 1e-9")
    count_noise_share: Share = Field(default=0.08, description="the counts' part of the budget, between 0 and 1")
    optimism: float = Field(
        default=0.4, ge=0, lt=1, description="0, below 1: the part of the way to the best return at which values start"
    )
    pessimism: float = Field(
        default=0.0, ge=0, le=10, description="0 to 10: posterior deviations that are subtracted from an advantage"
    )
    advantage_deviation: Positive = Field(
        default=0.03, description="a number above 0: how far actions of a state are expected to differ"
    )
    value_deviation: Positive = Field(
        default=0.07, description="a number above 0: how far values of states are expected to differ"
    )
    count_spread: Positive = Field(
        default=0.5,
        description="a number above 0: how far counts are expected to be from equal ones, as a part of them",
    )


class TrainingSection(_Section):
    """How it is trained."""

    objective: Literal["reinforce", "ppo", "behaviour_cloning", "dqn", "cql", "bellman_sums"] = Field(
        default="reinforce",
        description="'reinforce' or 'ppo' on fresh episodes, 'behaviour_cloning', 'cql' or 'bellman_sums' on records, "
        "'dqn' on both",
    )
    td_error: Literal["huber", "squared"] = Field(
        default="huber", description="'huber', linear beyond 1, or 'squared': errors of values in dqn and cql"
    )
    steps_ahead: int = Field(
        default=1, ge=1, le=1000, description="1 to 1000: rewards that a target of dqn or cql adds before it bootstraps"
    )
    conservatism: float = Field(
        default=0.003, ge=0, le=1000, description="0 to 1000: cql's pull towards the actions that were taken"
    )
    clip_ratio: Share = Field(default=0.2, description="a number between 0 and 1, how far ppo trusts old episodes")
    aggregation: Literal["fedsgd", "fedavg", "fedprox", "fedavgm", "fedadam"] = Field(
        default="fedsgd",
        description="'fedsgd': one aggregated step a round; 'fedavg', 'fedprox', 'fedavgm' or 'fedadam': from the mean "
        "of what sites moved",
    )
    local_steps: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="1 to 10000: noised steps of a site, each on a sample; with unit = 'site' minibatches of dqn, cql "
        "and behaviour_cloning",
    )
    replay_steps: int = Field(
        default=100_000,
        ge=1,
        le=10_000_000,
        description="1 to 10000000: steps of fresh episodes that a site remembers for dqn; unit = 'site'",
    )
    epochs: int = Field(default=1, ge=1, le=100, description="passes of ppo over a window, 1 to 100")
    rounds: int = Field(default=10, ge=1, le=10_000, description="a whole number of rounds, 1 to 10000")
    episodes_per_site: int = Field(
        default=2001, ge=1, le=1_000_000, description="a whole number of episodes a round, 1 to 1000000"
    )
    discount: float = Field(default=1.0, gt=0, le=1, description="a number above 0, at most 1")
    gae_lambda: float = Field(default=0.2, ge=0, le=1, description="a number from 0 to 1")
    value_weight: Positive = Field(
        default=0.5, description="a number above 0: the value network's part in a trajectory's loss"
    )
    entropy_weight: float = Field(
        default=0.0, ge=0, le=1000, description="0 to 1000: what ppo gains by the entropy of its actions; 0 for none"
    )
    exploration: float = Field(
        default=0.1, ge=0, le=1, description="0 to 1: the part of steps that dqn and cql take at random, in round 1"
    )
    exploration_end: float = Field(default=0.1, ge=0, le=1, description="the same at the end, 0 to 1")
    exploration_rounds: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="0 to 10000: rounds until exploration_end is reached, 0 for all",
    )
    global_: GlobalStep = Field(default=GlobalStep(), alias="global")
    local: LocalStep = LocalStep()
    personalise: Literal["none", "prior", "private_head"] = Field(
        default="none",
        description="'none', 'prior': a site fits its own records after the last round with the shared policy as "
        "prior, or 'private_head': the last layer never leaves a site",
    )
    personal: PersonalFit = PersonalFit()
    bellman: BellmanSums = BellmanSums()


class PrivacySection(_Section):
    """What is promised to whom, and how the noise is placed."""

    unit: Literal["trajectory", "patient", "site", "unsafe-transition"] = Field(
        default="patient",
        description="'patient', 'trajectory' or 'site'; 'unsafe-transition' to compare with others' figures only",
    )
    relation: Literal["add_or_remove_one", "replace_one"] = Field(
        default="add_or_remove_one", description="'add_or_remove_one', or 'replace_one' with sampling_rate = 1"
    )
    target_epsilon: float = Field(default=4.0, gt=0, le=100, description="a number above 0, at most 100")
    delta: float = Field(default=1e-6, gt=0, lt=0.1, description="a number below 1 / declared units")
    noise: Literal["distributed", "local", "unsafe-none"] = Field(
        default="distributed", description="'distributed' or 'local'; 'unsafe-none' for reference runs only"
    )
    clip_norm: Clip = Field(default=0.4, description="the L2 bound of one unit's policy block, from 1e-9")
    critic_clip_norm: Clip = Field(default=0.7, description="the L2 bound of one unit's critic block, from 1e-9")
    critic_noise_share: Share = Field(default=0.15, description="the critic's part of the budget, between 0 and 1")
    clip_quantile: float = Field(
        default=0.0, ge=0, lt=1, description="0: clip_norm stays; above 0, below 1: the part of units it shall not cut"
    )
    clip_quantile_noise_share: Share = Field(
        default=0.02, description="the part of the budget for the count of units that are not cut, between 0 and 1"
    )
    clip_learning_rate: float = Field(
        default=0.2, gt=0, le=1, description="how fast clip_norm follows the quantile, above 0, at most 1"
    )
    sampling_rate: float = Field(
        default=1.0, gt=0, le=1, description="1.0: every unit; below 1, above 0: Poisson sampling of logged data"
    )
    max_rounds_per_person: int = Field(default=1, ge=1, le=1000, description="how often a person is charged, 1 to 1000")
    max_sites_per_person: int = Field(
        default=1, ge=1, le=100, description="at how many sites a person may be, 1 to 100"
    )
    integer_noise_scale: int = Field(
        default=1024, ge=64, le=8192, description="the deviation of one share on the grid, 64 to 8192"
    )


class ProtectionSection(_Section):
    """How sums are protected."""

    method: Literal["masking", "ckks", "ckks+masking", "unsafe-plain"] = Field(
        default="masking",
        description="'masking'; 'ckks+masking' where the coordinator may not learn the sums either; 'ckks' where in "
        "addition no site ever helps it, for one that does reads every update; 'unsafe-plain' as the control of an "
        "attack only",
    )
    profile: Literal["cross_silo", "cross_device"] = Field(
        default="cross_silo",
        description="'cross_silo': the complete graph, against a malicious coordinator; 'cross_device': a sparse graph "
        "for more than 100 sites, against one that follows the protocol",
    )
    corrupt_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=0.5,
        description="a number above 0, below 0.5: the corrupt part of the sites; cross_device",
    )
    dropout_fraction: float = Field(
        default=0.3, ge=0, lt=1, description="a number from 0, below 1: the silent part of the sites; cross_device"
    )
    privacy_exponent: int = Field(
        default=40,
        ge=20,
        le=80,
        description="s, 20 to 80: the graph protects except with probability 2^-s; cross_device",
    )
    threshold: int = Field(
        default=0, ge=0, le=100, description="0 = floor((n + c) / 2) + 1; in cross_device what the graph needs"
    )
    modulus_bits: int = Field(
        default=0, ge=0, le=64, description="0 = the smallest that holds the sum; above 32 doubles the bytes"
    )
    stewards: list[str] = Field(
        default=[], max_length=0, description="empty: the first site that answers makes the key"
    )
    epoch_rounds: int = Field(default=64, ge=1, le=64, description="how many rounds share channel keys, 1 to 64")


class OutputSection(_Section):
    """What leaves at the end."""

    sharpen: Positive = Field(default=3.0, description="a factor of the logits at release, above 0")
    keep_policies: Literal["last", "all"] = Field(default="last", description="'last' or 'all'")
    tail_average: int = Field(
        default=1, ge=1, le=1000, description="1 to 1000: how many last policies the released one is the mean of"
    )
    evaluation_episodes: int = Field(
        default=4000,
        ge=2,
        le=100_000,
        description="a number of simulated episodes, 2 to 100000, where no exact value is known",
    )
    release: list[Literal["policy", "mean_return"]] = Field(
        default=["policy"],
        min_length=1,
        max_length=2,
        description="['policy'] or ['policy', 'mean_return']: the units' mean return travels noised in the same sum",
    )
    mean_return_noise_share: Share = Field(
        default=0.02, description="the part of the budget for the mean return, between 0 and 1"
    )
    return_range: list[float] = Field(
        default=[0.0, 1.0], min_length=2, max_length=2, description="[lowest, highest]: a unit's return is cut to it"
    )


class Study(_Section):
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
