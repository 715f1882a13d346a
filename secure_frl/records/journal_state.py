"""What the rows of a coordinator's journal say: epochs, rounds with their outcomes, the chain of policy tags.

A blind coordinator reads no policies and knows a tag only when sites state it: the first one inside the first epoch,
each next one after the sum that it follows from went out to them. A round with a published sum is therefore still open,
and an epoch may be opened over it, in which sites say how it ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from secure_frl.errors import LedgerCorrupt, MalformedMessage, NewerFormat, UnexpectedState
from secure_frl.records.chain import Row
from secure_frl.wire.canonical import hex_bytes

FORMAT = 1  # of the rows
_HASH_BYTES = 32  # of charters, policies and their tags


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One attempt of a round: begun, where the coordinator is blind published, then summed or lost."""

    round: int
    attempt: int
    epoch: int
    cohort: tuple[str, ...]
    policy_tag: bytes  # of the policy it was asked with
    outcome: str  # begun | published | summed | lost
    reason: str = ""  # why it was lost
    survivors: tuple[str, ...] = ()  # in the sum; empty when lost
    next_tag: bytes = b""
    details: Mapping[str, object] = field(default_factory=dict)  # what the caller wants back, JSON-ready


@dataclass(slots=True)
class JournalState:
    """What the rows say, folded one by one."""

    where: str
    name: str = ""
    charter_hash: bytes = b""
    last: Row | None = None
    tag: bytes = b""
    model_hash: bytes = b""  # of the policy in force, or of the parcel in its place
    last_epoch: int = 0
    rounds: list[RoundRecord] = field(default_factory=list)

    @property
    def open_round(self) -> RoundRecord | None:
        """The round that is neither summed nor lost, if any."""
        return self.rounds[-1] if self.rounds and self.rounds[-1].outcome in ("begun", "published") else None

    @property
    def begun_round(self) -> RoundRecord | None:
        """The open round of which no sum was published, if any."""
        return self.open_round if self.rounds and self.rounds[-1].outcome == "begun" else None

    @property
    def published_round(self) -> RoundRecord | None:
        """The open round whose sum was published, if any."""
        return self.open_round if self.begun_round is None else None

    @property
    def last_closed_round(self) -> int:
        """The greatest round that is summed or lost, 0 before the first."""
        return max((one.round for one in self.rounds if one.outcome in ("summed", "lost")), default=0)

    def fold(self, row: Row) -> None:
        """Take the next row in. Raises LedgerCorrupt if it contradicts the rows before it."""
        try:
            self._fold(row, row.fields())
        except (KeyError, TypeError, ValueError, MalformedMessage, UnexpectedState):
            raise LedgerCorrupt(
                f"row {row.sequence} of {self.where} ({row.kind[:20]}) contradicts the rows before it. "
                "Restore the file from a copy; a study is not resumed from a broken journal."
            ) from None
        self.last = row

    def _fold(self, row: Row, plain: dict[str, object]) -> None:
        if (row.kind == "opened") != (row.sequence == 0):
            raise ValueError(row.kind)
        if row.kind == "opened":
            if type(plain["format"]) is int and plain["format"] > FORMAT:
                raise NewerFormat(
                    f"{self.where} has format {plain['format']}, this version reads up to {FORMAT}. "
                    "Use a newer secure_frl."
                )
            self.name, self.charter_hash = row.hash.hex(), _hash(plain["charter"])
        elif row.kind == "started":
            self.check_start()
            self.tag, self.model_hash = _hash(plain["tag"]), _hash(plain["model_hash"])
        elif row.kind == "epoch":
            self.check_epoch(_count(plain["epoch"]))
            self.last_epoch = _count(plain["epoch"])
        elif row.kind == "begun":
            self._begin(plain)
        elif row.kind == "published":
            one = self.check_publish()
            survivors, details = _names(plain["survivors"]), _details(plain["details"])
            self.rounds[-1] = replace(one, outcome="published", survivors=survivors, details=details)
        elif row.kind in ("summed", "lost"):
            self._close(row.kind, plain)
        elif row.kind == "kept":
            self.check_started()
            self.model_hash = _hash(plain["model_hash"])
        else:
            raise ValueError(row.kind)

    def _begin(self, plain: dict[str, object]) -> None:
        number, attempt = _count(plain["round"]), _count(plain["attempt"])
        self.check_begin(number, attempt)
        cohort, policy_tag = _names(plain["cohort"]), _hash(plain["policy_tag"])
        if policy_tag != self.tag:
            raise ValueError("policy_tag")
        self.rounds.append(RoundRecord(number, attempt, self.last_epoch, cohort, policy_tag, "begun"))

    def _close(self, outcome: str, plain: dict[str, object]) -> None:
        details = _details(plain["details"])
        if outcome == "summed":
            survivors, next_tag = _names(plain["survivors"]), _hash(plain["next_tag"])
            one = self.check_sum(survivors)
            closed = replace(one, outcome=outcome, survivors=survivors, next_tag=next_tag)
            self.tag, self.model_hash = next_tag, _hash(plain["model_hash"])
        else:
            one = self.check_open()
            closed = replace(one, outcome=outcome, reason=str(plain["reason"]), survivors=(), next_tag=one.policy_tag)
        self.rounds[-1] = replace(closed, details={**one.details, **details})

    # --- rules, used before writing and when reading ----------------------------------------------------------------

    def check_start(self) -> None:
        """Raise UnexpectedState if the first policy is written down."""
        if self.tag:
            raise UnexpectedState("expected a journal without a policy, got one that has begun. Use `resume_point`.")

    def check_started(self) -> None:
        """Raise UnexpectedState unless the first policy is written down."""
        if not self.tag:
            raise UnexpectedState("expected a journal with a policy, got one before its start. Call `start` first.")

    def check_epoch(self, epoch: int) -> None:
        """Raise UnexpectedState unless `epoch` may open now: between rounds, or over a published sum."""
        if self.begun_round is not None or epoch <= self.last_epoch:
            raise UnexpectedState(
                f"expected an epoch after {self.last_epoch} while no round is under way, got {epoch}. "
                "Close the round, or publish its sum first."
            )

    def check_begin(self, number: int, attempt: int) -> None:
        """Raise UnexpectedState unless this round and attempt may begin now."""
        last = self.rounds[-1] if self.rounds else None
        is_newer = last is None or (number, attempt) > (last.round, last.attempt)
        is_summed = last is not None and last.outcome == "summed" and number == last.round
        is_ready = bool(self.tag) and self.last_epoch >= 1 and self.open_round is None
        if number < 1 or attempt < 0 or not is_ready or not is_newer or is_summed:
            raise UnexpectedState(
                f"expected a round after {self.last_closed_round} in an epoch of a started study, the round before it "
                f"closed, got round {number}, attempt {attempt}. Go on from `resume_point`."
            )

    def check_open(self) -> RoundRecord:
        """Return the open round. Raises UnexpectedState without one."""
        if self.open_round is None:
            raise UnexpectedState("expected a round that was begun, got none. Begin it first.")
        return self.open_round

    def check_publish(self) -> RoundRecord:
        """Return the open round. Raises UnexpectedState without one, or when its sum is published."""
        if self.begun_round is None:
            raise UnexpectedState("expected a round without a sum, got none. Begin one; a sum is published once.")
        return self.begun_round

    def check_sum(self, survivors: tuple[str, ...]) -> RoundRecord:
        """Return the open round. Raises UnexpectedState without one, and for others than the published survivors."""
        one = self.check_open()
        if one.outcome == "published" and survivors != one.survivors:
            raise UnexpectedState(
                f"expected round {one.round} with the survivors of its published sum, got others. "
                "Close it with those, or as lost."
            )
        return one


def _hash(value: object) -> bytes:
    return hex_bytes(value, _HASH_BYTES)


def _count(value: object) -> int:
    if type(value) is not int:
        raise TypeError("count")
    return value


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("names")
    return tuple(value)


def _details(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError("details")
    return value
