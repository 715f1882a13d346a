"""The guard that a ledger is opened with: the data set's lifetime budget, and the study's own."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from secure_frl.errors import BudgetExhausted
from secure_frl.privacy import accountant
from secure_frl.privacy.events import FRESH, UNSAFE_NONE, GaussianSumEvent, decode_event, event_in_round
from secure_frl.privacy.planning import message_blocks
from secure_frl.privacy.round_shares import has_value_start
from secure_frl.records.ledger import Guard
from secure_frl.secure_sum import Block, Budget
from secure_frl.study import Study


def lifetime_budget(study: Study) -> Budget:
    """Return what a new ledger allows for life; no limit for a run without noise on nobody.

    It is data.lifetime_epsilon, or the target of the first study where that is 0. People of a named data set have a
    limit whatever the first study on them was: a budget is written once, and no later study changes it.
    """
    if study.data.dataset_id and study.data.lifetime_epsilon:
        return Budget(study.data.lifetime_epsilon, study.privacy.delta)
    unlimited = study.privacy.noise == UNSAFE_NONE and not study.data.dataset_id
    return Budget(math.inf if unlimited else study.privacy.target_epsilon, study.privacy.delta)


def study_guard(study: Study, session: bytes) -> Guard:
    """Return the function that refuses a release when it would spend more than the lifetime's or the study's budget.

    Before its first release a study is refused as a whole if what it announces doesn't fit into what is left: nobody is
    spent on the first half of a study. Releases beyond the announced rounds would take more units than the charter
    declared, and delta was judged by those. A run whose messages no stated epsilon covers (without noise, or noise
    shares without masks) is for people who are new in each run, so never for a named data set.
    """
    is_limited = study.privacy.noise != UNSAFE_NONE or bool(study.data.dataset_id)
    own_budget = Budget(study.privacy.target_epsilon if is_limited else math.inf, study.privacy.delta)
    charter_hash, rounds, unsafe = session.hex(), study.training.rounds, study.unsafe_choices
    blocks = message_blocks(study)[1] if study.sums_values else ()  # of a charter whose rounds fill different ones
    memory = _Memory(charter_hash)

    def guard(lifetime: Budget, recorded: Sequence[bytes], candidate: bytes) -> None:
        if unsafe and study.data.dataset_id:
            raise BudgetExhausted(
                f"expected a protected study on data set {study.data.dataset_id}, got {', '.join(unsafe)}"
                ". Leave data.dataset_id empty for a control; nothing was sampled or sent."
            )
        before, own = memory.take(recorded)
        following = _booked(candidate)
        if not own:
            _check_announced(lifetime, before, following.event, rounds, blocks)
        _check_next(lifetime, before, following)
        if len(own) >= rounds:
            raise BudgetExhausted(
                f"expected at most {rounds} releases, as many as the charter announces rounds, got one more. Nothing "
                "was sampled or sent: end the study here, or sign a charter with more rounds."
            )
        _check_next(own_budget, own, following)

    return guard


def _check_announced(
    lifetime: Budget,
    others: tuple[_Shared, ...],
    first: GaussianSumEvent,
    rounds: int,
    blocks: tuple[Block, ...],
) -> None:
    """Raise BudgetExhausted if a study's announced releases don't fit beside what other studies spent."""
    entered = min(rounds, first.max_rounds_per_person) if first.composition_group == FRESH else rounds
    each = [first] * entered
    if has_value_start(blocks):
        each = [event_in_round(first, blocks, rounds, number) for number in range(1, rounds + 1)]
    announced = tuple(_shared(replace(one, window=f"announced-{at}")) for at, one in enumerate(each))
    alone = _spent(announced, lifetime.delta)
    if alone > lifetime.epsilon:
        raise BudgetExhausted(
            f"expected a study that spends at most epsilon {lifetime.epsilon:g} at delta={lifetime.delta:g}, the "
            f"lifetime budget of data set {first.dataset_id} at this holder, got one that announces {alone:.4f}. "
            "Nothing was sampled or sent: lower privacy.target_epsilon to the smallest budget of all sites."
        )
    if not others or not _is_one_kind((*others, announced[0])):  # another kind is refused with its own words
        return
    together = _spent(others + announced, lifetime.delta)
    if together > lifetime.epsilon:
        spent = _spent(others, lifetime.delta)
        raise BudgetExhausted(
            f"expected a study that fits into what is left of data set {first.dataset_id}: other studies spent "
            f"{spent:.4f} of epsilon {lifetime.epsilon:g}, {max(0.0, lifetime.epsilon - spent):.4f} is left at "
            f"delta={lifetime.delta:g}; this one announces {alone:.4f}, {together:.4f} in all. Nothing was sampled or "
            "sent: lower privacy.target_epsilon, or study other people."
        )


def _check_next(budget: Budget, before: tuple[_Shared, ...], following: _Shared) -> None:
    """Raise BudgetExhausted if one more release spends too much; the accountant has the last word and says why."""
    after = (*before, following)
    if not _spent(after, budget.delta) <= budget.epsilon:  # not a number where no epsilon covers all of them
        *recorded, candidate = (one.event.canonical() for one in after)
        accountant.guard(budget, recorded, candidate)


# --- the same events again and again ---------------------------------------------------------------------------------
_MOST_SHARED = 4096
# A guard runs before every release, in a simulation at each of a thousand sites: what was decoded and computed for one
# is kept for the next.


@dataclass(frozen=True, slots=True, eq=False)
class _Shared:
    """One event, without its register's roots, for all ledgers in this process that booked the same."""

    event: GaussianSumEvent


class _Memory:
    """What the events recorded in one ledger were decoded to, kept from one release to the next."""

    def __init__(self, charter_hash: str) -> None:
        self._charter_hash = charter_hash
        self._recorded: tuple[bytes, ...] = ()
        self._all: tuple[_Shared, ...] = ()
        self._own: tuple[_Shared, ...] = ()

    def take(self, recorded: Sequence[bytes]) -> tuple[tuple[_Shared, ...], tuple[_Shared, ...]]:
        """Return the recorded events, all and this study's; those only are new that were not there the last time."""
        if tuple(recorded[: len(self._recorded)]) != self._recorded:  # a reservation was cancelled since
            self._recorded = self._all = self._own = ()
        new = tuple(map(_booked, recorded[len(self._recorded) :]))
        self._recorded = tuple(recorded)
        self._all += new
        self._own += tuple(one for one in new if one.event.charter_hash == self._charter_hash)
        return self._all, self._own


def _booked(data: bytes) -> _Shared:
    return _without_roots(b"".join(_ROOTS.split(data)))


# A root is any hex, so an event is valid with it where it is valid without. Inside a text the quotation marks would be
# escaped, so what is found is the field.
_ROOTS = re.compile(rb'("register_root_(?:after|before)":")(?:[0-9a-f]{2})*+(?=")')


@lru_cache(maxsize=_MOST_SHARED)
def _without_roots(data: bytes) -> _Shared:
    return _shared(decode_event(data))


_interned: dict[GaussianSumEvent, _Shared] = {}


def _shared(event: GaussianSumEvent) -> _Shared:
    if len(_interned) >= _MOST_SHARED:  # equal events may then become two: nothing but time is lost
        _interned.clear()
    return _interned.setdefault(event, _Shared(event))


@lru_cache(maxsize=256)
def _spent(events: tuple[_Shared, ...], delta: float) -> float:
    """Return the epsilon of these events; not a number when no epsilon covers all of them."""
    return accountant.epsilon([one.event for one in events], delta) if _is_one_kind(events) else math.nan


def _is_one_kind(events: Sequence[_Shared]) -> bool:
    return len({(one.event.unit, one.event.relation) for one in events}) <= 1
