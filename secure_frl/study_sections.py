"""Sections of a study: their keys, types and defaults. That of training is in `study_training`.

A value that this version cannot carry out is no value of this schema. No default is an unsafe choice.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# No person's gradient is that small; squares of far smaller ones vanish, and with them the norm that is clipped.
Clip = Annotated[float, Field(ge=1e-9, allow_inf_nan=False)]
SiteCount = Annotated[int, Field(ge=3, le=10_000)]


class Section(BaseModel):
    """A table of the file: strict types, no unknown key, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)


class StudySection(Section):
    """Which file this is."""

    schema_: Literal[1] = Field(alias="schema", description="1")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="small letters, digits and '-', at most 63")
    seed: int = Field(default=0, ge=0, lt=2**32, description="a whole number below 2^32; never touches privacy noise")


class SimulatedDrop(Section):
    """Sites lost in each round, drawn from the seed."""

    before_masked: int = Field(
        default=0, ge=0, le=10_000, description="a number of sites lost before their masked input"
    )
    after_masked: int = Field(default=0, ge=0, le=10_000, description="a number of sites lost after their masked input")


class Deadlines(Section):
    """How long the coordinator waits."""

    train: Positive = Field(default=120.0, description="the seconds for the exchange in which a site trains")
    stage: Positive = Field(default=30.0, description="the seconds for every other exchange")


class SitesSection(Section):
    """Who takes part, and how many may be lost or corrupt."""

    count: SiteCount = Field(
        default=10, description="a number of simulated sites, 3 to 100, or 101 to 10000 with profile cross_device"
    )
    simulate_drop: SimulatedDrop = SimulatedDrop()
    min_survivors: int = Field(default=8, ge=3, le=10_000, description="the least number of sites in a sum, from 3")
    max_colluders: int = Field(default=1, ge=1, le=9_999, description="how many sites may pool what they know, from 1")
    deadline_s: Deadlines = Deadlines()


class SiteShift(Section):
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


class DataSection(Section):
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


class RandomFeatures(Section):
    """The fixed map of a policy that is linear in random features, and the step of a critic that is linear in them."""

    width: int = Field(default=1024, ge=2, le=4096, multiple_of=2, description="an even width, 2 to 4096")
    bandwidth: Positive = Field(
        default=2.5, description="a number above 0: how far apart observations, as they come, still know of each other"
    )
    critic_step: Positive = Field(default=100.0, description="a number above 0; applied to the mean residual")


class PolicySection(Section):
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


class PrivacySection(Section):
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


class ProtectionSection(Section):
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


class OutputSection(Section):
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
