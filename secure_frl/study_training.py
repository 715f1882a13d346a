"""The training section of a study: objective, aggregation, and the steps of everybody and of sites."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from secure_frl.study_sections import Clip, Positive, Section, Share


class GlobalStep(Section):
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


class LocalStep(Section):
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


class PersonalFit(Section):
    """How a site fits its own policy, behind the last shared round and without noise, for it stays there."""

    prior_weight: Positive = Field(
        default=0.3, description="a number above 0: what the shared policy counts in a table, 1 as own records say"
    )
    steps: int = Field(default=200, ge=1, le=100_000, description="steps of a network's fit, 1 to 100000")
    step_size: Positive = Field(default=0.001, description="a number above 0: of Adam, for networks")
    pull: float = Field(
        default=0.1, ge=0, le=1e6, description="0 to 1000000: how strongly a network is held to the shared parameters"
    )


class BellmanSums(Section):
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


class TrainingSection(Section):
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
