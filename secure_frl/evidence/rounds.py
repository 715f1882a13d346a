"""Checks of what the coordinator wrote: rounds, the chain of policy tags, the result.

These files rest on the coordinator's word; what they say is held against the charter, the journal and itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from secure_frl.consortium.charter import Charter
from secure_frl.evidence.findings import Notes
from secure_frl.masking.contexts import ENCRYPTED
from secure_frl.records.journal_state import JournalState

ROUNDS, RESULT, JOURNAL = "rounds.jsonl", "result.json", "journal.sqlite"
_MAX_BYTES = 64 << 20
_Line = TypeVar("_Line", bound=msgspec.Struct)


class RoundLine(msgspec.Struct, frozen=True):
    """One line of rounds.jsonl: one attempt of a round. More keys may stand beside these."""

    round: int
    attempt: int
    epoch: int
    outcome: Literal["summed", "lost"]
    cohort: tuple[str, ...]
    survivors: tuple[str, ...]
    policy_tag: str  # hex, of the policy that was asked with
    next_tag: str | None  # hex; None or the same tag when the round was lost
    reason: str | None = None
    transcript_hash: str | None = None


class Result(msgspec.Struct, frozen=True):
    """What `run` said, as far as it is held against the books. More keys may stand beside these."""

    epsilon_spent: float | None
    delta: float
    rounds_completed: int
    protection: str
    noise: str
    unit: str
    honest_shares_assumed: int
    survivors_min: int | None = None
    survivor_difference_min: int | msgspec.UnsetType | None = msgspec.UNSET  # not in summaries of older versions
    statement: dict[str, str | int | float | None] | None = None


def read_lines(directory: Path, file: str, kind: type[_Line], notes: Notes) -> tuple[_Line, ...] | None:
    """Read a file with one JSON object a line; None, with a finding, if it can't be read."""
    try:
        data = (directory / file).read_bytes()
    except OSError as error:
        notes.find_error(file, error)
        return None
    lines = data.split(b"\n")
    if len(data) > _MAX_BYTES or lines.pop() != b"":
        notes.find(file, "doesn't end with a whole line: its tail was cut. Restore it.")
        return None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(msgspec.json.decode(line, type=kind))
        except (msgspec.MsgspecError, RecursionError):
            notes.find(file, f"line {number} doesn't have the fields of a round. Restore it.")
            return None
    return tuple(found)


def read_result(directory: Path, notes: Notes) -> Result | None:
    """Read result.json; None, with a finding, if it can't be read."""
    try:
        return msgspec.json.decode((directory / RESULT).read_bytes(), type=Result)
    except OSError as error:
        notes.find_error(RESULT, error)
    except (msgspec.MsgspecError, RecursionError):
        notes.find(RESULT, "doesn't have the fields of a result. Restore it.")
    return None


def check_rounds(rounds: Sequence[RoundLine], charter: Charter, names: Sequence[str], notes: Notes) -> None:
    """Rounds only grow, each follows from the policy before it, and each sum has enough survivors."""
    constants = charter.constants
    last: RoundLine | None = None
    for line in rounds:
        where = f"round {line.round}, attempt {line.attempt}"
        if last is not None and (line.round, line.attempt) <= (last.round, last.attempt):
            notes.find(ROUNDS, f"{where} comes after round {last.round}, attempt {last.attempt}. Rounds only grow.")
        if last is not None and line.policy_tag != tag_after(last):
            notes.find(ROUNDS, f"{where} doesn't start from the policy of the round before: the tag chain is broken.")
        if last is not None and last.outcome == "summed" and line.round == last.round:
            notes.find(ROUNDS, f"{where} follows a sum of the same round. A round gives one sum.")
        strangers = {*line.cohort, *line.survivors} - set(names)
        if strangers or not set(line.survivors) <= set(line.cohort) or len(set(line.survivors)) < len(line.survivors):
            notes.find(ROUNDS, f"{where} names sites that were not asked, or one twice. Compare it with the roster.")
        if line.outcome == "summed" and (len(line.survivors) < constants.min_survivors or not line.next_tag):
            notes.find(
                ROUNDS,
                f"{where} has a sum over {len(line.survivors)} sites, the charter asks for {constants.min_survivors}.",
            )
        last = line


def smallest_difference(sums: Iterable[Iterable[Hashable]]) -> int | None:
    """Return how many sites are in one and not the other of the two most alike sums that are not over the same sites.

    sums: who is in each. 0: all are over the same sites; None: there are fewer than two. Whoever takes one of two sums
    from the other has what so few sites sent in them, with the noise of both: So et al. (AAAI 2023), section 3.
    """
    numbers: dict[Hashable, int] = {}
    masks = [sum(1 << numbers.setdefault(site, len(numbers)) for site in set(one)) for one in sums]
    if len(masks) < 2:
        return None
    return min(((one ^ other).bit_count() for one, other in combinations(set(masks), 2)), default=0)


def tag_after(line: RoundLine) -> str:
    """Return the tag of the policy in force after a round, in hex."""
    return line.next_tag if line.outcome == "summed" and line.next_tag else line.policy_tag


def check_journal(rounds: Sequence[RoundLine], journal: JournalState, charter: Charter, notes: Notes) -> None:
    """The journal of this charter says the same rounds; a blind coordinator's says nothing of a policy but its tag."""
    if journal.charter_hash != charter.session:
        notes.find(JOURNAL, "belongs to another charter. Restore the journal of this run.")
    protection = charter.constants.protection
    for one in journal.rounds if protection in ENCRYPTED else ():
        if "shown" in one.details:
            notes.find(
                JOURNAL,
                f"has figures of the policy of round {one.round}, which no coordinator knows under {protection}. "
                "Ask the coordinator who gave it the policy.",
            )
    written = [
        (one.round, one.attempt, one.epoch, one.outcome, one.cohort, one.survivors, one.policy_tag.hex())
        for one in journal.rounds
    ]
    said = [
        (one.round, one.attempt, one.epoch, one.outcome, one.cohort, _in_sum(one), one.policy_tag) for one in rounds
    ]
    if written != said:
        differing = next(
            (number for number, (left, right) in enumerate(zip(written, said, strict=False), 1) if left != right),
            min(len(written), len(said)) + 1,
        )
        notes.find(ROUNDS, f"line {differing} differs from what {JOURNAL} says. Restore both from where the run ended.")
    elif rounds and journal.tag.hex() != tag_after(rounds[-1]):
        notes.find(ROUNDS, f"ends with another policy than {JOURNAL}. Restore both from where the run ended.")


def check_result(result: Result, rounds: Sequence[RoundLine], charter: Charter, notes: Notes) -> None:
    """What `run` said agrees with the rounds and the charter (epsilon is checked with the ledgers)."""
    constants = charter.constants
    privacy = charter.study.get("privacy")
    table = privacy if isinstance(privacy, dict) else {}
    summed = [line for line in rounds if line.outcome == "summed"]
    expected = {
        "rounds_completed": len(summed),
        "protection": constants.protection,
        "noise": constants.noise,
        "honest_shares_assumed": constants.honest_shares,
        "unit": table.get("unit"),
        "delta": table.get("delta"),
    }
    if result.survivors_min is not None and summed:
        expected["survivors_min"] = min(len(line.survivors) for line in summed)
    if result.survivor_difference_min is not msgspec.UNSET:
        expected["survivor_difference_min"] = smallest_difference(line.survivors for line in summed)
    for name, value in expected.items():
        if getattr(result, name) != value:
            notes.find(RESULT, f"says {name}={getattr(result, name)!r}, the books say {value!r}. Restore it.")


def _in_sum(line: RoundLine) -> tuple[str, ...]:
    return line.survivors if line.outcome == "summed" else ()
