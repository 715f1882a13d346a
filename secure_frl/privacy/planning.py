"""From a study to the constants of its sum and what they promise, before data is touched. No torch.

The noise is solved for the mechanism that will run: integers, rounding and the discrete Gaussian included. So the
guard of a ledger, which computes from events, agrees with the plan. What cannot be signed is refused here.
"""

from __future__ import annotations

import math
from dataclasses import replace

from secure_frl.encoding import ring
from secure_frl.encoding.quantise import LARGEST_BOUND
from secure_frl.errors import BitBudget, CharterRefused, InvalidParameter
from secure_frl.learning.forms import policy_form
from secure_frl.learning.layout import Layout
from secure_frl.privacy import accountant, round_cost
from secure_frl.privacy.accountant import Schedule
from secure_frl.privacy.charging import WhatIf
from secure_frl.privacy.events import (
    DISTRIBUTED,
    LOCAL,
    PRODUCTION,
    UNSAFE_NONE,
    GaussianSumEvent,
    event_in_round,
    sum_event,
)
from secure_frl.privacy.noise_solving import smallest_sigma
from secure_frl.privacy.plan import Plan
from secure_frl.privacy.round_shares import blocks_in_round, has_value_start
from secure_frl.privacy.sensitivity import LARGEST_WINDOW
from secure_frl.privacy.statement import state
from secure_frl.secure_sum import Block, SumConstants
from secure_frl.study import Study
from secure_frl.study_rules import method_mistakes, sum_mistakes, unit_mistakes, value_sums_mistakes

LOCAL_NOISE_SCALE = 4096  # S under local noise: one site's deviation is the whole noise, so its grid is finer
PLAIN_FRACTION_BITS = 16  # f: without noise the scale is 2^f
_ROUNDS_IN_FULL = 16  # of more rounds, epsilon is given after some


def make_plan(study: Study, sigma: float | None = None) -> Plan:
    """Return constants and promises of a study; the study's own checks have passed.

    sigma: a noise multiplier in place of the one that the target asks for.
    Raises CharterRefused for numbers that no site may sign, BitBudget for a sum that does not fit the ring, or
    whose limbs do not fit the exact range of a sum of ciphertexts.
    """
    constants = sum_constants(study) if sigma is None else constants_at(study, sigma)
    episodes, rounds = study.training.episodes_per_site, study.training.rounds
    schedule = planned_schedule(study, constants)
    event = schedule[0][0]
    may_state = accountant.covers_every_reader(constants)

    def spent(after: int = rounds, **changed: int) -> float | None:
        value = accountant.epsilon_of_schedule(_first_of(schedule, after), WhatIf(**changed)) if may_state else math.inf
        return value if math.isfinite(value) else None

    def read_one_by_one() -> float | None:
        if not may_state or constants.protection != "ckks":
            return None  # nobody reads single updates, or nothing can be stated
        read = tuple((accountant.as_read_one_by_one(event), count) for event, count in schedule)
        value = accountant.epsilon_of_schedule(read)
        return value if math.isfinite(value) else None

    shown, one_more_site = shown_rounds(rounds), spent(sites=event.max_sites_per_person + 1)
    by_round = tuple(spent(number) for number in shown)
    return Plan(
        constants=constants,
        statement=state(event, constants, by_round[-1], one_more_site, study.data.dataset_id),
        target_epsilon=study.privacy.target_epsilon,
        rounds=rounds,
        declared_batch=study.declared_batch,
        declared_units=study.declared_units,
        rounds_shown=shown,
        epsilon_by_round=by_round,
        epsilon_by_shares=tuple((shares, spent(shares=shares)) for shares in shown_shares(constants)),
        epsilon_if_one_more_colludes=spent(shares=event.honest_shares - 1),
        epsilon_if_key_holder_colludes=read_one_by_one(),
        epsilon_household_of_2=spent(people=2),
        epsilon_household_of_4=spent(people=4),
        noise_norm=noise_norm(study, constants),
        unsafe=study.unsafe_choices,
        cost=round_cost.cost(constants, constants.protection, episodes),
        cost_by_protection=round_cost.costs(constants, episodes),
    )


def noise_norm(study: Study, constants: SumConstants) -> float:
    """Return the L2 length of the noise in the mean gradient of one noised sum, in clips of a unit."""
    spread = math.sqrt(constants.sites) if constants.noise == LOCAL else 1.0
    units = constants.sites * study.declared_batch
    return constants.noise_multiplier * spread * math.sqrt(constants.length) / units


def shown_rounds(rounds: int) -> tuple[int, ...]:
    """Return after which rounds a plan says what is spent: after each of few, always the first and the last."""
    if rounds <= _ROUNDS_IN_FULL:
        return tuple(range(1, rounds + 1))
    steps = _ROUNDS_IN_FULL // 2
    return tuple(sorted({round(rounds ** (step / steps)) for step in range(steps)} | {rounds}))


def shown_shares(constants: SumConstants) -> tuple[int, ...]:
    """Return for how many honest shares a plan says what is spent: from h down to one; none under other noise."""
    h = constants.honest_shares
    if constants.noise != DISTRIBUTED:
        return ()
    return (
        tuple(range(h, 0, -1)) if h <= 10 else tuple(sorted({h, h - 1, h - 2, 3 * h // 4, h // 2, h // 4, 2, 1})[::-1])
    )


def study_layout(study: Study) -> Layout:
    """Return which coordinates a study sends: the policy's, the critic's two numbers a state, auxiliary figures."""
    return policy_form(study).layout


def sum_constants(study: Study) -> SumConstants:
    """Return every number of the study's secure sum, with the least noise that keeps the target.

    Raises CharterRefused and BitBudget as `make_plan` does.
    """
    if study.privacy.noise == UNSAFE_NONE:
        return constants_at(study, 0.0)
    _check(study)
    shape = message_blocks(study)

    def schedule_at(sigma: float) -> Schedule:
        return planned_schedule(study, _constants(study, *shape, sigma))

    sigma = smallest_sigma(schedule_at, study.privacy.target_epsilon)
    return _exact(_constants(study, *shape, sigma))


def constants_at(study: Study, sigma: float) -> SumConstants:
    """Return every number of the study's secure sum at noise multiplier sigma; 0 = no noise, whatever the target.

    Raises InvalidParameter for a multiplier that the study's noise cannot have; else as `sum_constants`.
    """
    if not (math.isfinite(sigma) and (sigma == 0 if study.privacy.noise == UNSAFE_NONE else sigma > 0)):
        raise InvalidParameter(
            f"expected a noise multiplier for privacy.noise = {study.privacy.noise}, above 0 or none, got {sigma:g}. "
            "Correct --sigma, or set privacy.noise."
        )
    _check(study)
    return _exact(_constants(study, *message_blocks(study), sigma))


def _exact(constants: SumConstants) -> SumConstants:
    """Return the constants.

    Raises BitBudget when a sum of their ciphertexts could wrap, which leaves no sign of it; and under plain ckks when a
    value with a share of the noise needs two limbs, for the sum of its lower limbs tells every site how often they
    carried, behind single sites' noise.
    """
    if not round_cost.is_encrypted(constants.protection):
        return constants
    widths = round_cost.ciphertext_plan(constants).limb_widths
    if constants.protection == "ckks" and constants.noise == DISTRIBUTED and len(widths) > 1:
        raise BitBudget(
            f"expected values of at most {widths[0]} bits under plain ckks, got modulus_bits={constants.modulus_bits}. "
            "Lower privacy.integer_noise_scale or training.episodes_per_site, or use ckks+masking."
        )
    return constants


def message_blocks(study: Study) -> tuple[int, tuple[Block, ...]]:
    """Return how many values a site sends, and their blocks with the budget of all rounds."""
    privacy, layout = study.privacy, study_layout(study)
    shares = (privacy.clip_norm, privacy.critic_clip_norm, privacy.critic_noise_share)
    return layout.length, layout.blocks(*shares, {**study.auxiliary, **study.value_start})


def planned_schedule(study: Study, constants: SumConstants) -> Schedule:
    """Return the events of all rounds: one kind, or the value start's and then the backups'."""
    first, rounds = planned_event(study, constants), study.training.rounds
    if not has_value_start(constants.blocks):
        return ((first, rounds),)
    return (first, 1), (event_in_round(first, constants.blocks, rounds, 2), rounds - 1)


def _first_of(schedule: Schedule, rounds: int) -> Schedule:
    found: list[tuple[GaussianSumEvent, int]] = []
    for event, count in schedule:
        found.append((event, min(count, rounds)))
        rounds -= found[-1][1]
    return tuple(found)


def planned_event(study: Study, constants: SumConstants) -> GaussianSumEvent:
    """Return the event of the first round as the plan expects it; it names no charter yet and is never recorded."""
    privacy = study.privacy
    return sum_event(
        replace(constants, blocks=blocks_in_round(constants.blocks, study.training.rounds, 1)),
        charter_hash="00",
        dataset_id=study.data.dataset_id or "planned",
        round_number=1,
        attempt=0,
        window="planned",
        unit=privacy.unit,
        max_rounds_per_person=privacy.max_rounds_per_person,
        max_sites_per_person=privacy.max_sites_per_person,
        declared_batch=study.declared_batch,
        delta=privacy.delta,
        composition_group=study.composition_group(study.data.dataset_id or "planned"),
        relation=privacy.relation,
        noised_sums=study.noised_sums,
        random_source=PRODUCTION,
        code_version="plan",
        sampling_rate=privacy.sampling_rate,
    )


def _check(study: Study) -> None:
    """Refuse what no site may sign. Source: docs/protocol.md, sections 3 and 13; docs/privacy.md."""
    privacy, training, sites = study.privacy, study.training, study.sites
    mistakes = [*sum_mistakes(study), *unit_mistakes(study), *method_mistakes(study), *value_sums_mistakes(study)]
    units = study.declared_units
    if privacy.delta >= 1 / units:
        mistakes.append(f"delta = {privacy.delta:g}: below 1 / {units} declared units = {1 / units:.3g}")
    if study.units_per_site > LARGEST_WINDOW:
        mistakes.append(f"units a site = {study.units_per_site}: at most {LARGEST_WINDOW} for exact sums")
    if privacy.sampling_rate != 1 and not study.is_logged:
        mistakes.append(f"sampling_rate = {privacy.sampling_rate}: 1 for fresh windows, each used once")
    if not 1 <= privacy.max_rounds_per_person <= training.rounds:
        mistakes.append(f"max_rounds_per_person = {privacy.max_rounds_per_person}: 1 to rounds = {training.rounds}")
    if not 1 <= privacy.max_sites_per_person <= sites.count:
        mistakes.append(f"max_sites_per_person = {privacy.max_sites_per_person}: 1 to sites = {sites.count}")
    if mistakes:
        raise CharterRefused(
            "expected constants that a site can sign, got " + "; ".join(mistakes) + ". Correct the study file."
        )


def largest_sample(study: Study) -> int:
    """Return how many units a site's sum is made for: all of them, or under sampling hardly ever fewer than come.

    A larger sample is clamped to the bound, which never moves a unit further.
    """
    units, rate = study.units_per_site, study.privacy.sampling_rate
    return units if rate == 1 else min(units, math.ceil(units * rate + 8 * math.sqrt(units * rate) + 8))


def _constants(study: Study, length: int, blocks: tuple[Block, ...], sigma: float) -> SumConstants:
    """Return the constants at noise multiplier sigma; 0 means no noise and the scale 2^16."""
    privacy, sites = study.privacy, study.sites
    honest = sites.min_survivors - sites.max_colluders
    batch = largest_sample(study)
    if sigma == 0:
        deviation, scale = 0, float(1 << PLAIN_FRACTION_BITS)
    elif privacy.noise == DISTRIBUTED:
        deviation = privacy.integer_noise_scale
        scale = deviation * math.sqrt(honest) / sigma
    else:
        deviation = LOCAL_NOISE_SCALE
        scale = deviation / sigma
    bound = study.noised_sums * (math.ceil(scale * batch) + 1)  # the message is the sum of so many noised sums
    if bound >= LARGEST_BOUND:
        raise BitBudget(
            f"expected B < 2^52, got B={bound}: a real of 64 bits has no such step. "
            "Lower privacy.integer_noise_scale or training.episodes_per_site."
        )
    tau = ring.noise_bound(deviation, sites.count * study.noised_sums, length)
    smallest = ring.width_for(sites=sites.count, bound=bound, noise_bound=tau, weight=1)
    asked = study.protection.modulus_bits
    if asked and asked < smallest:
        raise BitBudget(
            f"expected modulus_bits >= {smallest}, got modulus_bits={asked}: the sum would wrap. "
            "Leave protection.modulus_bits at 0."
        )
    return SumConstants(
        sites=sites.count,
        threshold=study.threshold,
        max_colluders=sites.max_colluders,
        min_survivors=sites.min_survivors,
        honest_shares=honest,
        profile=study.protection.profile,
        neighbours=study.neighbours,
        protection=study.protection.method,
        length=length,
        modulus_bits=asked or smallest,
        scale=scale,
        bound=bound,
        noise_bound=tau,
        blocks=blocks,
        noise=privacy.noise,
        noise_multiplier=sigma,
        integer_noise_scale=deviation,
    )
