"""From a study to the constants of its sum and what they promise, before data is touched. No torch.

The noise is solved for the mechanism that will run: integers, rounding and the discrete Gaussian included. So the
guard of a ledger, which computes from events, agrees with the plan. What cannot be signed is refused here.
"""

from __future__ import annotations

import math
from dataclasses import replace

from secure_frl.encoding import ring
from secure_frl.encoding.quantise import LARGEST_BOUND
from secure_frl.errors import BitBudget, CharterRefused
from secure_frl.learning.forms import policy_form
from secure_frl.learning.layout import Layout
from secure_frl.privacy import accountant
from secure_frl.privacy.events import DISTRIBUTED, LOCAL, PRODUCTION, UNSAFE_NONE, GaussianSumEvent, sum_event
from secure_frl.privacy.plan import Plan
from secure_frl.privacy.sensitivity import LARGEST_WINDOW
from secure_frl.secure_sum import Block, SumConstants
from secure_frl.study import Study, sum_mistakes
from secure_frl.study_rules import unit_mistakes
from secure_frl.wire.messages import vector_bytes

LOCAL_NOISE_SCALE = 4096  # S under local noise: one site's deviation is the whole noise, so its grid is finer
PLAIN_FRACTION_BITS = 16  # f: without noise the scale is 2^f
_SIGMA_STEP = 1e-6  # sigma is rounded up to a multiple of this

# Bytes and seconds of a round, for the estimate only. Source: secure_aggregation.md, section 10, measured there.
_PEER_BYTES = 330  # a neighbour's keys, commitments and encrypted shares, each way
_FRAME_BYTES = 1024  # headers, signatures, lists of a round
_EPISODE_S = 35e-6  # roll out and clip one trajectory of ICU-Sepsis, one core, two values a step
_PEER_S = 70e-6
_MASK_BYTE_S = 0.15e-9


def make_plan(study: Study) -> Plan:
    """Return constants and promises of a study; the study's own checks have passed.

    Raises CharterRefused for numbers that no site may sign, BitBudget for a sum that does not fit the ring.
    """
    constants = sum_constants(study)
    privacy, training = study.privacy, study.training
    event = planned_event(study, constants)
    sites, length, batch = constants.sites, constants.length, study.declared_batch
    spread = math.sqrt(sites) if constants.noise == LOCAL else 1.0
    peers = constants.neighbours
    vector = vector_bytes(length, constants.modulus_bits)
    may_state = accountant.covers_every_reader(constants)

    def stated(value: float) -> float | None:
        return value if may_state and math.isfinite(value) else None

    return Plan(
        constants=constants,
        unit=privacy.unit,
        relation=privacy.relation,
        target_epsilon=privacy.target_epsilon,
        delta=privacy.delta,
        rounds=training.rounds,
        max_rounds_per_person=privacy.max_rounds_per_person,
        max_sites_per_person=privacy.max_sites_per_person,
        declared_batch=batch,
        declared_units=study.declared_units,
        epsilon_by_round=tuple(map(stated, _epsilon_by_round(event, training.rounds))),
        epsilon_if_one_more_colludes=stated(accountant.epsilon_if_fewer_shares(event, event.honest_shares - 1)),
        epsilon_if_one_more_site=stated(accountant.epsilon_if_more_sites(event, event.max_sites_per_person + 1)),
        epsilon_household_of_2=stated(accountant.epsilon_of_household(event, 2)),
        epsilon_household_of_4=stated(accountant.epsilon_of_household(event, 4)),
        noise_norm=constants.noise_multiplier * spread * math.sqrt(length) / (sites * batch),
        upload_bytes=vector + _PEER_BYTES * peers + _FRAME_BYTES,
        download_bytes=vector + _PEER_BYTES * peers + _FRAME_BYTES,
        round_seconds=sites
        * (training.episodes_per_site * _EPISODE_S + peers * _PEER_S + (peers + 1) * vector * _MASK_BYTE_S),
    )


def study_layout(study: Study) -> Layout:
    """Return which coordinates a study sends: the policy's, the critic's two numbers a state, auxiliary figures."""
    return policy_form(study).layout


def sum_constants(study: Study) -> SumConstants:
    """Return every number of the study's secure sum; see `make_plan` for what is refused."""
    privacy = study.privacy
    _check(study)
    layout = study_layout(study)
    blocks = layout.blocks(privacy.clip_norm, privacy.critic_clip_norm, privacy.critic_noise_share, study.auxiliary)
    if privacy.noise == UNSAFE_NONE:
        return _constants(study, layout.length, blocks, 0.0)
    return _constants(study, layout.length, blocks, _solve(study, layout.length, blocks))


def planned_event(study: Study, constants: SumConstants) -> GaussianSumEvent:
    """Return the event of one round as the plan expects it; it names no charter yet and is never recorded."""
    privacy = study.privacy
    return sum_event(
        constants,
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
    """Refuse what no site may sign. Source: secure_aggregation.md, sections 2 and 6; privacy.md, sections 1 and 4."""
    privacy, training, sites = study.privacy, study.training, study.sites
    mistakes = [*sum_mistakes(study), *unit_mistakes(study)]
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


def _solve(study: Study, length: int, blocks: tuple[Block, ...]) -> float:
    """Return a sigma, a multiple of 1e-6, whose integer mechanism keeps R rounds within the target, and hardly more.

    Starts from the exact multiplier of one continuous Gaussian, undoes rounding, R and M, and goes up until the
    accountant agrees: the guard must never refuse what the plan promised.
    """
    target = study.privacy.target_epsilon
    ideal = accountant.smallest_gaussian_sigma(target, study.privacy.delta)

    def event_at(sigma: float) -> GaussianSumEvent:
        return planned_event(study, _constants(study, length, blocks, sigma))

    sigma = ideal
    for _ in range(4):  # the loss to rounding hardly depends on sigma: each turn gains two digits or more
        sigma *= ideal / accountant.effective_sigma(event_at(sigma))
    for _ in range(64):
        sigma = math.ceil(sigma / _SIGMA_STEP) * _SIGMA_STEP
        event = event_at(sigma)
        spent = accountant.epsilon_if_more_sites(event, event.max_sites_per_person)
        if spent <= target:
            return sigma
        # Epsilon falls at least as fast as 1 / sigma, so this overshoots by little.
        sigma *= max(spent / target, 1 + _SIGMA_STEP) if math.isfinite(spent) else 2.0
    raise CharterRefused(
        f"expected a noise multiplier for epsilon={target} at delta={study.privacy.delta:g}, got none. "
        "Raise privacy.target_epsilon, or lower max_rounds_per_person or max_sites_per_person."
    )


def _epsilon_by_round(event: GaussianSumEvent, rounds: int) -> tuple[float, ...]:
    """Return what one person has spent after each round, were he in as many of them as R allows."""
    entered = [min(number, event.max_rounds_per_person) for number in range(1, rounds + 1)]
    spent = {
        count: accountant.epsilon([replace(event, window=f"planned {n}") for n in range(count)], event.delta)
        for count in sorted(set(entered))
    }
    return tuple(spent[count] for count in entered)
