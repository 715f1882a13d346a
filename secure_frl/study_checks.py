"""Mistakes in a study that need more than one key to be seen: where, what was expected, what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from secure_frl.study import Study
from secure_frl.study_rules import method_mistakes, sum_mistakes, unit_mistakes, value_sums_mistakes


def _delta_fits(study: Study) -> Iterator[str]:
    units = max(1, study.declared_units)  # 0 is a mistake of its own
    if study.privacy.delta >= 1 / units:
        yield f"below 1 / {units} declared units = {1 / units:.3g}; found {study.privacy.delta:g}"


def _drops_fit(study: Study) -> Iterator[str]:
    drop = study.sites.simulate_drop
    if drop.before_masked + drop.after_masked > study.sites.count:
        yield f"at most {study.sites.count} sites lost in all; found {drop.before_masked} + {drop.after_masked}"


def _data_fits(study: Study) -> Iterator[str]:
    data, is_logged = study.data, study.is_logged
    if is_logged != bool(data.path):
        yield f"a folder with source = 'steps', and none with 'environment'; found path = {data.path[:60]!r}"
    if is_logged != bool(data.declared_units):
        yield f"declared_units above 0 with source = 'steps', and 0 with 'environment'; found {data.declared_units}"
    if data.lifetime_epsilon and not data.dataset_id:
        yield f"data.dataset_id with a lifetime_epsilon, for it is that data set's; found {data.lifetime_epsilon:g}"
    if is_logged and study.privacy.max_rounds_per_person != 1:
        yield (
            "privacy.max_rounds_per_person = 1 with source = 'steps', where every release is charged to everybody; "
            f"found {study.privacy.max_rounds_per_person}"
        )


_ON_RECORDS = ("behaviour_cloning", "dqn", "cql", "bellman_sums")
_ON_EPISODES = ("reinforce", "ppo", "dqn")
_WITHOUT_CRITIC = ("behaviour_cloning", "dqn", "cql", "bellman_sums")


def _objective_fits(study: Study) -> Iterator[str]:
    objective = study.training.objective
    if objective not in (_ON_RECORDS if study.is_logged else _ON_EPISODES):
        yield (
            f"{' or '.join(_ON_RECORDS)} with data.source = 'steps', {' or '.join(_ON_EPISODES)} with 'environment', "
            f"whose episodes the policy itself collected; found {objective!r} with {study.data.source!r}"
        )
    if objective in _WITHOUT_CRITIC and study.policy.critic != "none":
        yield (
            f"policy.critic = 'none' with {objective!r}, which uses no value of a state; found {study.policy.critic!r}"
        )


def _local_steps_fit(study: Study) -> Iterator[str]:
    training, noise = study.training, study.privacy.noise
    if training.entropy_weight and training.objective != "ppo":
        yield f"entropy_weight = 0 with {training.objective!r}, which has none; found {training.entropy_weight:g}"
    if training.epochs > 1 and training.objective != "ppo":
        yield f"epochs = 1 with {training.objective!r}: another one needs the ratio of ppo; found {training.epochs}"
    if training.local_steps > 1 and not study.is_logged and training.objective != "dqn":
        yield (
            "local_steps = 1 on fresh episodes: another step needs the ratio of ppo, which counts it in epochs, or "
            f"dqn, which needs none; found {training.local_steps}"
        )
    if study.noised_sums > 1 and training.aggregation == "fedsgd":
        yield f"aggregation = 'fedavg' with local_steps x epochs = {study.noised_sums}; found {training.aggregation!r}"
    if study.noised_sums > 1 and noise == "distributed":
        yield (
            f"privacy.noise = 'local' with local_steps x epochs = {study.noised_sums}: a policy that moves inside a "
            "site needs noise of its own at each step, else a person's influence has no bound; found 'distributed'"
        )


def _aggregation_fits(study: Study) -> Iterator[str]:
    training = study.training
    local, step = training.local, training.global_
    if (local.proximal > 0) != (training.aggregation == "fedprox"):
        yield f"local.proximal above 0 with 'fedprox', and 0 otherwise; found {local.proximal:g}"
    if training.aggregation == "fedprox" and local.step_size * local.proximal >= 1:
        yield f"local.step_size x proximal below 1, or steps overshoot; found {local.step_size * local.proximal:g}"
    if training.aggregation == "fedavgm" and step.momentum == 0:
        yield "global.momentum above 0 with 'fedavgm'; found 0, which is 'fedavg'"
    yield from _global_adam_fits(study)
    if study.trains_locally:
        if step.schedule != "constant" or step.step_size > _GREATEST_GLOBAL_STEP:
            yield (
                f"global.schedule = 'constant' and step_size up to {_GREATEST_GLOBAL_STEP:g} where the moves of sites "
                f"are averaged, 1 for their mean; found {step.schedule!r} and {step.step_size:g}"
            )
        if study.policy.critic == "private":
            yield "policy.critic = 'network' or 'none' where sites train by themselves; found 'private'"
        return
    of_sites = (local.optimiser, local.last_step, local.minibatch, local.max_gradient_norm)
    if of_sites != ("sgd", 1.0, 0, 0.0):
        yield (
            "local.optimiser = 'sgd' with last_step = 1, minibatch = 0 and max_gradient_norm = 0, except with unit = "
            f"'site', where a site's whole move is what is protected; found {of_sites}"
        )


def _global_adam_fits(study: Study) -> Iterator[str]:
    training, step = study.training, study.training.global_
    is_adam = step.optimiser == "adam"
    if training.aggregation != "fedsgd" and is_adam != (training.aggregation == "fedadam"):
        yield (
            "global.optimiser = 'adam' with 'fedadam', and 'sgd' with 'fedavg', 'fedprox' and 'fedavgm'; found "
            f"{step.optimiser!r} with {training.aggregation!r}"
        )
    if is_adam and study.sums_values:
        yield "global.optimiser = 'sgd' with bellman_sums, whose step is its own; found 'adam'"
    if is_adam and step.step_size > _GREATEST_GLOBAL_STEP:
        yield (
            f"global.step_size up to {_GREATEST_GLOBAL_STEP:g} with 'adam', which moves every parameter by about that; "
            f"found {step.step_size:g}"
        )
    if step.noise_corrected and not is_adam:
        yield "global.noise_corrected = false with 'sgd', which has no second moment; found true"


def _sampling_fits(study: Study) -> Iterator[str]:
    privacy = study.privacy
    if privacy.sampling_rate < 1 and not study.is_logged:
        yield f"1 for fresh episodes, each of which is used in its one window; found {privacy.sampling_rate}"
    if privacy.sampling_rate < 1 and privacy.unit == "unsafe-transition":
        yield f"1 with unsafe-transition, for trajectories are drawn and not steps; found {privacy.sampling_rate}"


def _shift_fits(study: Study) -> Iterator[str]:
    shift = study.data.site_shift
    if (shift.kind == "none") != (shift.strength == 0):
        yield f"strength 0 with none and above 0 otherwise; found {shift.strength:g} with {shift.kind}"
    if shift.kind == "practice_effect" and shift.strength > 1:
        yield f"at most 1 with practice_effect, for it is a part of the states; found {shift.strength:g}"
    if shift.kind != "none" and (study.is_logged or study.data.environment != "icu-sepsis"):
        yield (
            f"'none' but for simulated patients of icu-sepsis; found {shift.kind!r} with {study.data.source!r} and "
            f"{study.data.environment!r}"
        )
    if shift.kind != "none" and study.sites.count > 100:
        yield f"'none' above 100 sites, each of which would be solved by itself; found {study.sites.count}"


def _personal_fits(study: Study) -> Iterator[str]:
    policy, training = study.policy, study.training
    if training.personalise == "private_head" and policy.kind == "table":
        yield "a network with 'private_head', for a table has no last layer; found policy.kind = 'table'"
    if training.personalise == "private_head" and policy.kind == "random_features":
        yield "a network with 'private_head', for of random features the head is all that is trained; found them"


_DATA_KEYS = ("data.source", "data.path", "data.declared_units")


def _widths_fit(study: Study) -> Iterator[str]:
    if study.policy.kind in ("gru", "lstm") and len(study.policy.hidden) < 2:
        yield f"two widths or more for {study.policy.kind}, embedding and recurrent layer; found {study.policy.hidden}"


def _observations_fit(study: Study) -> Iterator[str]:
    policy, data = study.policy, study.data
    if data.observation == "features" and policy.kind == "table":
        yield "kind = 'mlp', 'gru', 'lstm' or 'random_features' over features, which number no states; found 'table'"
    if data.observation == "state" and policy.kind == "random_features":
        yield "observation = 'features' with random_features, for numbers of states are no vectors; found 'state'"
    if data.observation == "features" and policy.critic == "private" and policy.kind != "random_features":
        yield (
            "critic = 'network' or 'none' over features, for a private critic is a table of states, or linear in "
            "random_features; found 'private'"
        )
    if policy.critic == "network" and policy.kind == "table":
        yield "kind = 'mlp', 'gru' or 'lstm' beside critic = 'network', which is a network too; found 'table'"


def _step_units_fit(study: Study) -> Iterator[str]:
    if study.privacy.unit == "unsafe-transition" and study.policy.kind in ("gru", "lstm"):
        yield f"'table' or 'mlp' where a unit is one step, for a memory ties steps together; found {study.policy.kind}"


def _releases_fit(study: Study) -> Iterator[str]:
    names = study.output.release
    if names != ["policy", "mean_return"][: len(names)]:
        yield f"['policy'] or ['policy', 'mean_return']; found {names}"


def _tail_fits(study: Study) -> Iterator[str]:
    tail, rounds = study.output.tail_average, study.training.rounds
    if tail > 1 and study.output.keep_policies != "all":
        yield f"output.keep_policies = 'all', so that the mean of {tail} can be made again; found 'last'"
    if tail > rounds:
        yield f"at most training.rounds = {rounds}, which leave so many policies; found {tail}"


_GREATEST_GLOBAL_STEP = 10.0  # of a mean of moves; a step for gradients would throw the policy far away
_LEAST_RETURN_RANGE = 2e-9  # half of it is a clip; squares of much smaller ones vanish


def _returns_fit(study: Study) -> Iterator[str]:
    lowest, highest = study.output.return_range
    if not highest - lowest >= _LEAST_RETURN_RANGE:
        yield f"a highest return above the lowest by {_LEAST_RETURN_RANGE:g} or more; found {lowest:g} and {highest:g}"


def _shares_fit(study: Study) -> Iterator[str]:
    shares = [share for _, share in study.auxiliary.values()]
    shares += [study.privacy.critic_noise_share] if study.policy.critic == "private" else []
    if sum(shares) >= 1:
        yield f"noise shares below 1 in all, for the policy has the rest; found {sum(shares):g}"


CROSS_CHECKS: tuple[tuple[str, tuple[str, ...], Callable[[Study], Iterable[str]], str], ...] = (
    (
        "sites.min_survivors",
        (
            "sites.count",
            "sites.min_survivors",
            "sites.max_colluders",
            "protection.threshold",
            "protection.profile",
            "protection.corrupt_fraction",
            "protection.dropout_fraction",
            "protection.privacy_exponent",
        ),
        sum_mistakes,
        "leave protection.threshold at 0, then raise min_survivors or lower max_colluders",
    ),
    (
        "privacy.delta",
        ("privacy.delta", "training.rounds", "sites.count", "training.episodes_per_site", *_DATA_KEYS),
        _delta_fits,
        "write a smaller delta, a power of ten below that figure",
    ),
    (
        "privacy.unit",
        ("privacy", "data.source", "training.objective", "training.gae_lambda", "policy.critic"),
        unit_mistakes,
        "change the key that is named",
    ),
    (
        "protection.method",
        ("protection.method", "protection.profile"),
        method_mistakes,
        "set protection.method to masking, or use cross_silo with up to 100 sites",
    ),
    ("sites.simulate_drop", ("sites.simulate_drop", "sites.count"), _drops_fit, "lose fewer sites"),
    ("policy.hidden", ("policy.hidden", "policy.kind"), _widths_fit, "write for instance [64, 64]"),
    ("policy.kind", ("policy.kind", "privacy.unit"), _step_units_fit, "choose another unit or policy"),
    (
        "policy",
        ("policy.kind", "policy.critic", "data.observation"),
        _observations_fit,
        "change the key that is named",
    ),
    ("output.release", ("output.release",), _releases_fit, "keep the policy, and name nothing twice"),
    (
        "output.tail_average",
        ("output.tail_average", "output.keep_policies", "training.rounds"),
        _tail_fits,
        "keep all policies, or release the last",
    ),
    ("output.return_range", ("output.return_range",), _returns_fit, "write for instance [0.0, 1.0]"),
    (
        "privacy.critic_noise_share",
        (
            "privacy.critic_noise_share",
            "privacy.clip_quantile",
            "privacy.clip_quantile_noise_share",
            "output.mean_return_noise_share",
            "output.release",
            "output.return_range",
            "policy.critic",
        ),
        _shares_fit,
        "lower one of the noise shares",
    ),
    (
        "privacy.sampling_rate",
        ("privacy.sampling_rate", "privacy.unit", "data.source"),
        _sampling_fits,
        "leave it at 1, or draw trajectories or patients of logged data",
    ),
    ("data", (*_DATA_KEYS, "privacy.max_rounds_per_person"), _data_fits, "see examples/logged_icu/study.toml"),
    (
        "data.site_shift",
        ("data.site_shift", "data.source", "data.environment", "sites.count"),
        _shift_fits,
        "write { kind = 'none', strength = 0.0 }, or for instance { kind = 'practice_effect', strength = 0.1 }",
    ),
    (
        "training.personalise",
        ("training.personalise", "policy.kind"),
        _personal_fits,
        "choose policy.kind = 'mlp', 'gru' or 'lstm', or 'prior', which shares every parameter",
    ),
    (
        "training.objective",
        ("training.objective", "data.source", "policy.critic"),
        _objective_fits,
        "choose the objective that fits the data",
    ),
    (
        "training.bellman",
        ("training", "data", "policy.kind", "privacy", "output"),
        value_sums_mistakes,
        "change the key that is named",
    ),
    (
        "training.aggregation",
        ("training", "privacy.unit", "policy.critic"),
        _aggregation_fits,
        "change the key that is named",
    ),
    (
        "training.local_steps",
        ("training", "data.source", "privacy.noise", "privacy.unit"),
        _local_steps_fit,
        "take one step a round, or let each site add its own noise",
    ),
)
