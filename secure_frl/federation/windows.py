"""Collection windows: their names, and the event that pays for one. No two attempts share a window."""

from __future__ import annotations

from dataclasses import replace

from secure_frl.federation.study_parts import code_version
from secure_frl.privacy.events import PRODUCTION, REHEARSAL, GaussianSumEvent, sum_event
from secure_frl.privacy.round_shares import blocks_in_round
from secure_frl.secure_sum import RandomSource, SumTerms
from secure_frl.study import Study


def window_name(round_number: int, attempt: int) -> str:
    """Return the name of a window inside its study."""
    return f"round-{round_number}-attempt-{attempt}"


def window_event(
    study: Study,
    terms: SumTerms,
    dataset_id: str,
    round_number: int,
    attempt: int,
    random: RandomSource,
    register_root: bytes = b"",
) -> GaussianSumEvent:
    """Return the record of one round's release under a signed charter.

    register_root: a site's participation root before the window; empty at the coordinator, which sees no people.
    """
    blocks = blocks_in_round(terms.constants.blocks, study.training.rounds, round_number)
    return sum_event(
        replace(terms.constants, blocks=blocks),
        charter_hash=terms.session.hex(),
        dataset_id=dataset_id,
        round_number=round_number,
        attempt=attempt,
        window=window_name(round_number, attempt),
        composition_group=study.composition_group(dataset_id),
        unit=study.privacy.unit,
        relation=study.privacy.relation,
        noised_sums=study.noised_sums,
        sampling_rate=study.privacy.sampling_rate,
        max_rounds_per_person=study.privacy.max_rounds_per_person,
        max_sites_per_person=study.privacy.max_sites_per_person,
        declared_batch=study.declared_batch,
        delta=study.privacy.delta,
        random_source=REHEARSAL if random.is_rehearsal else PRODUCTION,
        code_version=code_version(),
        register_root_before=register_root.hex(),
    )
