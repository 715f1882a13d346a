"""The guard that a ledger is opened with: the data set's lifetime budget, and the study's own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from secure_frl.privacy import accountant
from secure_frl.privacy.events import UNSAFE_NONE, decode_event
from secure_frl.records.ledger import Guard
from secure_frl.records.ledger_state import Budget
from secure_frl.study import Study


def lifetime_budget(study: Study) -> Budget:
    """Return what a new ledger allows for life: its first study's target, or no limit for runs without noise."""
    unlimited = study.privacy.noise == UNSAFE_NONE
    return Budget(math.inf if unlimited else study.privacy.target_epsilon, study.privacy.delta)


def study_guard(study: Study, session: bytes) -> Guard:
    """Return the function that refuses a release when it would spend more than the lifetime's or the study's budget.

    A reference run without noise states no epsilon: it passes only where the lifetime budget has no limit, so never on
    a data set that was promised one.
    """
    own_epsilon = lifetime_budget(study).epsilon
    charter_hash = session.hex()

    def guard(lifetime: Budget, recorded: Sequence[bytes], candidate: bytes) -> None:
        accountant.guard(accountant.Budget(lifetime.epsilon, lifetime.delta), recorded, candidate)
        own = [data for data in recorded if decode_event(data).charter_hash == charter_hash]
        accountant.guard(accountant.Budget(own_epsilon, study.privacy.delta), own, candidate)

    return guard
