"""Checks of the kept policies: each is the one that its round left, as its tag says or as its description does.

Where the coordinator reads policies, a tag in rounds and journal is the hash of a policy's bytes. Where it is blind the
tag is keyed: only sites can recompute it. Then a policy is held against the description that was released with it, and
that against the tag; that both tags in a description are of one policy rests on whoever released it.

Where the charter releases the mean of the last policies, the description names their rounds, and each is kept: so the
mean can be made again. Its numbers are not held against theirs here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypedDict

import msgspec

from secure_frl.consortium.charter import Charter
from secure_frl.evidence.findings import Notes
from secure_frl.evidence.rounds import RESULT, RoundLine, tag_after
from secure_frl.masking.contexts import ENCRYPTED, model_tag
from secure_frl.records.journal_state import JournalState

FOLDER, DESCRIPTION = "policies", "policies/policy.json"
_MODEL = re.compile(r"round-(\d{4,})\.model")
_LENGTH_BYTES = 8  # of a safetensors header's length, little-endian
_MAX_HEADER_BYTES = 1 << 20


class _Described(msgspec.Struct, frozen=True):
    """What stands beside a policy, in its safetensors file's header and of the last one in policy.json."""

    round: str
    policy_tag: str  # hex, of the model's bytes
    keyed_tag: str = ""  # hex, as in rounds and journal; only where the coordinator is blind
    mean_of_rounds: str = ""  # a JSON list; only where a mean of policies is released


_Header = TypedDict("_Header", {"__metadata__": _Described})


def check_policies(
    directory: Path, rounds: Sequence[RoundLine], charter: Charter, journal: JournalState | None, notes: Notes
) -> None:
    """Each kept policy is the one that its round left, and the last one is kept, if any round gave one.

    journal: None where it can't be read.
    """
    after = {line.round: tag_after(line) for line in rounds}
    kept = {
        int(match[1]): path
        for path in sorted((directory / FOLDER).glob("*.model"))
        if (match := _MODEL.fullmatch(path.name))
    }
    last = max(after, default=0) if any(line.outcome == "summed" for line in rounds) else 0
    if last and not any(after.get(number) == after[last] for number in kept):
        notes.find(f"{FOLDER}/round-{last:04}.model", "is missing: the last policy must be kept. Restore it.")
    if any(line.outcome == "summed" for line in rounds) and (directory / RESULT).exists():
        _check_mean(directory, rounds, charter, kept, notes)
    if charter.constants.protection not in ENCRYPTED:
        for number, path in kept.items():
            if model_tag(path.read_bytes()).hex() != after.get(number):
                notes.find(f"{FOLDER}/{path.name}", f"isn't the policy that round {number} left. Restore it.")
        return
    for number, path in kept.items():
        is_last = number == max(kept)
        _check_described(directory, number, path, after.get(number), is_last, notes)
        if journal is not None and hashlib.sha256(path.read_bytes()).digest() == journal.model_hash:
            notes.find(
                "journal.sqlite",
                f"keeps the policy of round {number} itself, where a blind coordinator has a sealed parcel. Ask the "
                "coordinator who gave it the policy.",
            )


def _check_mean(
    directory: Path, rounds: Sequence[RoundLine], charter: Charter, kept: Collection[int], notes: Notes
) -> None:
    """An ended run's description names the charter's number of last policies, and they are there."""
    tail = _tail_of(charter)
    of_rounds = sorted({line.round for line in rounds if line.outcome == "summed"})[-tail:]
    if len(of_rounds) < 2:
        return
    try:
        described = _read_description(directory / DESCRIPTION)
    except OSError as error:
        notes.find_error(DESCRIPTION, error)
        return
    except (msgspec.MsgspecError, RecursionError):
        notes.find(DESCRIPTION, "doesn't have the fields of a policy's description. Restore it.")
        return
    if described.mean_of_rounds != json.dumps(of_rounds):
        notes.find(DESCRIPTION, f"doesn't name the mean of rounds {of_rounds}, as the charter has it. Restore it.")
    for number in of_rounds:
        if number not in kept:
            notes.find(f"{FOLDER}/round-{number:04}.model", "is missing: the released mean counts it. Restore it.")


def _tail_of(charter: Charter) -> int:
    """Return how many last policies the released one is the mean of; 1 in charters that do not say."""
    output = charter.study.get("output")
    tail = output.get("tail_average", 1) if isinstance(output, dict) else 1
    return tail if type(tail) is int and tail > 0 else 1


def _check_described(directory: Path, number: int, path: Path, tag: str | None, is_last: bool, notes: Notes) -> None:
    """The description says this policy's own tag, and the tag that the round left."""
    file = DESCRIPTION if is_last else f"{FOLDER}/{path.stem}.safetensors"
    try:
        described = _read_description(directory / DESCRIPTION) if is_last else _read_header(directory / file)
    except OSError as error:
        notes.find_error(file, error)
        return
    except (msgspec.MsgspecError, RecursionError):
        notes.find(file, "doesn't have the fields of a policy's description. Restore it.")
        return
    if described.policy_tag != model_tag(path.read_bytes()).hex():
        notes.find(f"{FOLDER}/{path.name}", f"isn't the policy that {file} describes. Restore both.")
    if described.round != str(number) or not described.keyed_tag or described.keyed_tag != tag:
        notes.find(file, f"doesn't describe the policy that round {number} left: its keyed tag is another. Restore it.")


def _read_description(path: Path) -> _Described:
    return msgspec.json.decode(path.read_bytes(), type=_Described)


def _read_header(path: Path) -> _Described:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        header = msgspec.json.decode(stream.read(min(length, _MAX_HEADER_BYTES)), type=_Header)
    return header["__metadata__"]
