"""What nobody may sign, over several keys of a study: read by the checks of a file and by the plan."""

from __future__ import annotations

from secure_frl.degrees import fraction_of
from secure_frl.study import Study

_LEAST_SHARE = 1e-3  # of the budget, for a round's blocks: less of it is noise only
REPLACE_ONE_SAMPLED = (
    "replace_one holds at sampling_rate = 1 only: there a replaced unit moves the sum by 2 clips, while under sampling "
    "its cost is not that of twice the shift and needs an accountant of its own, which is not offered"
)


def unit_mistakes(study: Study) -> tuple[str, ...]:
    """Return what nobody may sign about unit, relation and sampling; empty when they hold. Source: docs/privacy.md."""
    privacy, training = study.privacy, study.training
    is_sampled = privacy.sampling_rate != 1
    # With lambda > 0, or a critic's outcomes, the loss of a step holds the rewards of the steps after it; a policy with
    # memory holds the steps before.
    looks_ahead = training.objective != "reinforce" or training.gae_lambda != 0 or study.policy.critic != "none"
    has_memory = study.policy.kind in ("gru", "lstm")
    looks_beyond = has_memory or (looks_ahead and training.objective != "behaviour_cloning")
    per_person = (privacy.max_rounds_per_person, privacy.max_sites_per_person)
    rules = (
        (
            not is_sampled or privacy.unit != "site",
            f"sampling_rate = {privacy.sampling_rate}: 1 for unit = site; only people in logged data are sampled",
        ),
        (not is_sampled or privacy.relation != "replace_one", f"relation = {privacy.relation}: {REPLACE_ONE_SAMPLED}"),
        (
            privacy.unit != "unsafe-transition" or not looks_beyond,
            f"unit = {privacy.unit}: only with an objective whose loss of a step needs no other step, which is "
            "behaviour_cloning, or reinforce with gae_lambda = 0 and critic = none, of a policy without memory",
        ),
        (
            privacy.unit != "site" or per_person == (1, 1),
            f"max_rounds_per_person, max_sites_per_person = {per_person}: 1 for unit = site, whose rounds all count",
        ),
    )
    return tuple(message for holds, message in rules if not holds)


def method_mistakes(study: Study) -> tuple[str, ...]:
    """Return why nobody may sign this protection in this profile; empty when they go together."""
    method = study.protection.method
    if not (study.is_sparse and method.startswith("ckks")):
        return ()
    return (
        f"protection.method = {method}: masking in cross_device, where corrupt_fraction of hundreds of sites is taken "
        "for corrupt: every site of an epoch has its one key, so the coordinator would have it too",
    )


def sum_mistakes(study: Study) -> tuple[str, ...]:
    """Return what makes the constants of a study's sum unsafe to sign; empty when they hold."""
    sites = study.sites
    if study.is_sparse:
        return sparse_mistakes(study)
    return survival_mistakes(sites.count, study.threshold, sites.max_colluders, sites.min_survivors)


def sparse_mistakes(study: Study) -> tuple[str, ...]:
    """Return what makes a cross_device study unsafe to sign. Source: docs/protocol.md, sections 3 and 10."""
    sites, graph, n = study.sites, study.protection, study.sites.count
    if not 101 <= n <= 10_000:
        return (f"sites = {n}: 101 to 10000 for cross_device; up to 100 sites use cross_silo",)
    (degree, threshold), c, least = study.sparse_graph, sites.max_colluders, sites.min_survivors
    corrupt = fraction_of(n, graph.corrupt_fraction)
    answering = n - fraction_of(n, graph.dropout_fraction)
    rules = (
        (degree > 0, "corrupt_fraction, dropout_fraction and privacy_exponent that some graph carries, found none"),
        (graph.threshold == 0, f"threshold = {graph.threshold}: 0, for the graph's rules give {threshold}"),
        (c == corrupt, f"max_colluders = {c}: {corrupt}, as corrupt_fraction of {n} sites"),
        (
            max(3, threshold, answering) <= least <= n,
            f"min_survivors = {least}: {max(3, threshold, answering)} to {n}, for dropout_fraction may be silent",
        ),
        (least - c >= 2, f"min_survivors - max_colluders = {least - c}: at least 2 honest shares"),
    )
    return tuple(message for holds, message in rules if not holds)


def survival_mistakes(sites: int, threshold: int, max_colluders: int, min_survivors: int) -> tuple[str, ...]:
    """Return what makes a sum's constants unsafe to sign; empty when they hold.

    Source: docs/protocol.md, sections 3 and 13 ("why two sums never open").
    """
    n, t, c = sites, threshold, max_colluders
    rules = (
        (3 <= n <= 100, f"sites = {n}: 3 to 100 for cross_silo"),
        (c >= 1, f"max_colluders = {c}: at least 1, for a site always knows its own share of the noise"),
        (t > c, f"threshold = {t}: above max_colluders = {c}, or they rebuild any secret themselves"),
        (
            2 * t > n + c,
            f"threshold = {t}: above (sites + max_colluders) / 2 = {(n + c) / 2:g}, or two sums open",
        ),
        (t <= n, f"threshold = {t}: at most sites = {n}"),
        (min_survivors <= n, f"min_survivors = {min_survivors}: at most sites = {n}"),
        (
            min_survivors >= max(3, t),
            f"min_survivors = {min_survivors}: at least {max(3, t)}, the larger of 3 and threshold = {t}",
        ),
        (min_survivors - c >= 2, f"min_survivors - max_colluders = {min_survivors - c}: at least 2 honest shares"),
    )
    return tuple(message for holds, message in rules if not holds)


def value_sums_mistakes(study: Study) -> tuple[str, ...]:
    """Return what does not go with fitted value iteration; empty for other objectives, and when all does."""
    if not study.sums_values:
        return ()
    training, privacy, policy, figures = study.training, study.privacy, study.policy, ", ".join(study.auxiliary)
    of_start = training.bellman.return_noise_share + training.bellman.count_noise_share
    rules = (
        (policy.kind == "table", f"policy.kind = {policy.kind!r}: 'table', a value of each state and action"),
        (study.data.observation == "state", f"data.observation = {study.data.observation!r}: 'state'"),
        (training.rounds >= 2, f"training.rounds = {training.rounds}: 2 or more, the value start and backups"),
        (
            study.noised_sums == 1 and training.aggregation == "fedsgd",
            f"training.aggregation = {training.aggregation!r}: 'fedsgd', and one noised sum a round",
        ),
        (privacy.unit in ("patient", "trajectory"), f"privacy.unit = {privacy.unit!r}: 'patient' or 'trajectory'"),
        (
            privacy.sampling_rate == 1,
            f"privacy.sampling_rate = {privacy.sampling_rate:g}: 1, for so few releases gain nothing by sampling",
        ),
        (not figures, f"{figures}: no figure beside the values, whose shares are those of single rounds"),
        (
            study.output.return_range == [0.0, 1.0],
            f"output.return_range = {study.output.return_range}: [0.0, 1.0], to which rewards must be scaled",
        ),
        (
            _LEAST_SHARE <= of_start <= 1 - _LEAST_SHARE,
            f"noise shares of the value start = {of_start:g}: {_LEAST_SHARE:g} at least, and below 1 by as much, for "
            "backups have the rest",
        ),
    )
    return tuple(f"with bellman_sums, not {message}" for holds, message in rules if not holds)
