"""Which units, relations and sampling a study may combine: read by the checks of a file and by the plan."""

from __future__ import annotations

from secure_frl.study import Study

REPLACE_ONE_SAMPLED = (
    "replace_one holds at sampling_rate = 1 only: there a replaced unit moves the sum by 2 clips, while under sampling "
    "its cost is not that of twice the shift and needs an accountant of its own, which is not offered"
)


def unit_mistakes(study: Study) -> tuple[str, ...]:
    """Return what nobody may sign about unit, relation and sampling; empty when they hold. Source: privacy.md, 1, 5."""
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
