"""The first epoch's rounds, as a site of three that takes part in them knows each."""

from __future__ import annotations

from secure_frl.masking.contexts import config_hash
from secure_frl.secure_sum import RoundContext, SiteId, SumTerms


def round_context(terms: SumTerms, number: int, attempt: int = 0) -> RoundContext:
    """Return the context of one round of the study whose terms these are."""
    return RoundContext(
        session=terms.session,
        epoch_hash=bytes(32),
        config_hash=config_hash(terms.constants),
        epoch=1,
        round=number,
        attempt=attempt,
        policy_tag=bytes(32),
        cohort=(SiteId(0), SiteId(1), SiteId(2)),
    )
