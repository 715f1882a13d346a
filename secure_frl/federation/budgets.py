"""The guard that a ledger is opened with: the data set's lifetime budget, and the study's own."""

from __future__ import annotations

from collections.abc import Sequence

from secure_frl.privacy import accountant
from secure_frl.privacy.events import UNSAFE_NONE, decode_event
from secure_frl.records.ledger import Guard
from secure_frl.records.ledger_state import Budget
from secure_frl.study import Study


def study_guard(study: Study, session: bytes) -> Guard:
    """Return the function that refuses a release when it would spend more than either budget.

    A reference run without noise states no epsilon and is let through; whatever follows it on the same data set is
    refused, for its event stays in the ledger.
    """
    own_budget = accountant.Budget(study.privacy.target_epsilon, study.privacy.delta)
    charter_hash = session.hex()

    def guard(lifetime: Budget, recorded: Sequence[bytes], candidate: bytes) -> None:
        event = decode_event(candidate)
        events = [decode_event(data) for data in recorded]
        if event.mechanism == UNSAFE_NONE and all(kept.mechanism == UNSAFE_NONE for kept in events):
            return
        accountant.guard(accountant.Budget(lifetime.epsilon, lifetime.delta), recorded, candidate)
        own = [data for data, kept in zip(recorded, events, strict=True) if kept.charter_hash == charter_hash]
        accountant.guard(own_budget, own, candidate)

    return guard
