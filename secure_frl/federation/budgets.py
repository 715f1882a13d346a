"""The guard that a ledger is opened with: the data set's lifetime budget, and the study's own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from secure_frl.errors import BudgetExhausted
from secure_frl.privacy import accountant
from secure_frl.privacy.events import UNSAFE_NONE, decode_event
from secure_frl.records.ledger import Guard
from secure_frl.records.ledger_state import Budget
from secure_frl.study import Study


def lifetime_budget(study: Study) -> Budget:
    """Return what a new ledger allows for life: its first study's target; no limit for a run without noise on nobody.

    People of a named data set have a limit whatever the first study on them was: a budget is written once.
    """
    unlimited = study.privacy.noise == UNSAFE_NONE and not study.data.dataset_id
    return Budget(math.inf if unlimited else study.privacy.target_epsilon, study.privacy.delta)


def study_guard(study: Study, session: bytes) -> Guard:
    """Return the function that refuses a release when it would spend more than the lifetime's or the study's budget.

    A run whose messages no stated epsilon covers (without noise, or noise shares without masks) is for people who are
    new in each run, so never for a named data set. Releases beyond the announced rounds would take more units than the
    charter declared, and delta was judged by those.
    """
    own_epsilon = lifetime_budget(study).epsilon
    charter_hash = session.hex()

    def guard(lifetime: Budget, recorded: Sequence[bytes], candidate: bytes) -> None:
        if study.unsafe_choices and study.data.dataset_id:
            raise BudgetExhausted(
                f"expected a protected study on data set {study.data.dataset_id}, got {', '.join(study.unsafe_choices)}"
                ". Leave data.dataset_id empty for a control; nothing was sampled or sent."
            )
        accountant.guard(accountant.Budget(lifetime.epsilon, lifetime.delta), recorded, candidate)
        own = [data for data in recorded if decode_event(data).charter_hash == charter_hash]
        if len(own) >= study.training.rounds:
            raise BudgetExhausted(
                f"expected at most {study.training.rounds} releases, as many as the charter announces rounds, got one "
                "more. Nothing was sampled or sent: end the study here, or sign a charter with more rounds."
            )
        accountant.guard(accountant.Budget(own_epsilon, study.privacy.delta), own, candidate)

    return guard
