"""Recompute, offline, what a run folder or a ledger claims. The only place that says "holds".

Reads exports, public keys and the coordinator's files; imports neither federation nor learning, no torch. It says in
words what it proved and what no file can prove.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from secure_frl.consortium.charter import Charter, SignedCharter
from secure_frl.consortium.identity import fingerprint
from secure_frl.consortium.roster import Roster, decode_roster
from secure_frl.errors import LedgerCorrupt, SecureFrlError, UnexpectedState
from secure_frl.evidence import books, policies, protections, rounds
from secure_frl.evidence.findings import Notes, Verification
from secure_frl.evidence.manifest import NAME, SIGNATURE_NAME, check_manifest, read_manifest
from secure_frl.masking.contexts import ENCRYPTED
from secure_frl.privacy.events import REHEARSAL, decode_event
from secure_frl.records.journal import read_journal
from secure_frl.records.ledger import has_ledger, read_ledger_state

if TYPE_CHECKING:
    from secure_frl.privacy.statement import Statement

EPSILON_TOLERANCE = 1e-9  # the same events, accountant and delta: only the last bits may differ
_NEVER_PROVED = (
    "that a site clipped, sampled or drew noise as its events say: no file shows it",
    "that no person is in more windows than max_rounds_per_person: only the site's own register shows it",
    "that no person is at more sites than max_sites_per_person: it takes linking records across hospitals",
    "that a safetensors file holds the numbers of the .model file beside it, or the mean of those that policy.json "
    "names: compare them where policies are loaded",
)


def verify(path: Path, *, allow_rehearsal: bool = False, consortium_public_key: bytes | None = None) -> Verification:
    """Verify a run folder, or one exported ledger with its `.head` beside it.

    allow_rehearsal: accept files marked as a rehearsal's; otherwise they are a finding.
    consortium_public_key: the key that you know; None takes the roster's own and says so.
    Never raises for what is in the files: each thing that doesn't hold is a finding that names its file.
    """
    notes = Notes()
    if path.is_dir():
        return _verify_folder(path, notes, allow_rehearsal, consortium_public_key)
    return _verify_ledger(path, notes, allow_rehearsal)


# --- a run folder ----------------------------------------------------------------------------------------------------


def _verify_folder(directory: Path, notes: Notes, allow_rehearsal: bool, consortium_key: bytes | None) -> Verification:
    # Any of these is written at the end only: taking the manifest away doesn't make an ended run an unfinished one.
    ended = [name for name in (NAME, SIGNATURE_NAME, rounds.RESULT) if (directory / name).exists()]
    ended += [path.name for path in (directory / "ledgers").glob("*.head")]
    agreed = _read_agreement(directory, notes, consortium_key)
    if agreed is None:
        return _conclude(notes, allow_rehearsal, unfinished=not ended)
    roster, charter = agreed
    protections.say_what_is_open(charter, notes)
    if charter.constants.noise.startswith("unsafe"):
        notes.not_proved.append(f"any differential privacy: with {charter.constants.noise} no noise was added")
    if _said(charter, "privacy", "unit").startswith("unsafe"):
        notes.not_proved.append("any protection of a patient: the unit is one step, and steps of one person are many")
    if not ended:
        return _verify_unfinished(directory, roster, charter, notes, allow_rehearsal)
    _check_manifest(directory, charter, notes)
    lines = _check_rounds(directory, roster, charter, notes)
    kept = _check_books(directory, roster, charter, lines, notes)
    result = rounds.read_result(directory, notes)
    recomputed = None
    if result is not None:
        rounds.check_result(result, lines, charter, notes)
        if kept is not None:
            recomputed = _check_epsilon(kept, charter, result, notes)
    return _conclude(notes, allow_rehearsal, recomputed=recomputed, result=result, lines=lines)


def _read_agreement(directory: Path, notes: Notes, consortium_key: bytes | None) -> tuple[Roster, Charter] | None:
    """Roster and charter with every signature: without them no other file means anything."""
    file = "roster.toml"
    try:
        roster = decode_roster((directory / file).read_bytes())
        is_strangers = consortium_key is not None and roster.consortium_public_key != consortium_key
        if is_strangers:
            notes.find(file, "is signed by another key than the consortium's. Take the roster from the consortium.")
        file = "charter.json"
        signed = SignedCharter.decode((directory / file).read_bytes())
        signed.check(roster)
    except (SecureFrlError, OSError) as error:
        notes.find_error(file, error)
        return None
    signer = "the key inside it" if consortium_key is None or is_strangers else "the consortium's key that you gave"
    notes.proved.append(f"{signer} signed the roster; every site and the coordinator signed the charter")
    if consortium_key is None:
        name = fingerprint(roster.consortium_public_key)
        notes.not_proved.append(f"that the consortium's key is the one you know: compare its fingerprint {name}")
    return roster, signed.charter


def _check_manifest(directory: Path, charter: Charter, notes: Notes) -> None:
    before = len(notes.findings)
    missing = [name for name in (NAME, SIGNATURE_NAME) if not (directory / name).is_file()]
    for name in missing:
        notes.find(name, "is missing, though the run says it ended. Restore it, or resume the run.")
    if missing:
        return
    try:
        manifest = read_manifest(directory, charter.coordinator_public_key)
    except (SecureFrlError, OSError) as error:
        notes.find_error(NAME, error)
        return
    if manifest.charter_hash != charter.session.hex():
        notes.find(NAME, "was written for another charter. Restore the manifest of this run.")
    notes.is_rehearsal |= manifest.rehearsal
    check_manifest(directory, manifest, notes)
    if len(notes.findings) == before:
        notes.proved.append(f"no file was added, removed or changed since the coordinator signed {NAME}")


def _check_rounds(directory: Path, roster: Roster, charter: Charter, notes: Notes) -> tuple[rounds.RoundLine, ...]:
    before = len(notes.findings)
    in_force = rounds.read_lines(directory, protections.PROTECTIONS, protections.ProtectionLine, notes)
    lines = rounds.read_lines(directory, rounds.ROUNDS, rounds.RoundLine, notes)
    if lines is None:
        return ()
    rounds.check_rounds(lines, charter, roster.names, notes)
    if in_force is not None:
        protections.check_protections(in_force, lines, charter, notes)
    journal = None
    try:
        journal = read_journal(directory / rounds.JOURNAL)
        rounds.check_journal(lines, journal, charter, notes)
    except (SecureFrlError, OSError) as error:
        notes.find_error(rounds.JOURNAL, error)
    policies.check_policies(directory, lines, charter, journal, notes)
    if len(notes.findings) == before:
        is_blind = charter.constants.protection in ENCRYPTED
        end = "the tag that the last kept policy's description states" if is_blind else "the kept policy"
        notes.proved.append(f"the chain of policy tags is unbroken, in rounds and journal, and ends at {end}")
        notes.proved.append(
            f"{protections.PROTECTIONS} says of every round the protection, noise and honest shares of the charter; "
            "its sentences on who could read what are the coordinator's"
        )
    return lines


def _check_books(
    directory: Path, roster: Roster, charter: Charter, lines: tuple[rounds.RoundLine, ...], notes: Notes
) -> list[books.Book] | None:
    """Return every holder's verified book, or None if one is missing."""
    before = len(notes.findings)
    holders = [*zip(roster.names, roster.public_keys, strict=True), (books.COORDINATOR, charter.coordinator_public_key)]
    found = [books.read_book(directory, name, key, charter, notes) for name, key in holders]
    kept = [book for book in found if book is not None]
    if len(kept) < len(found):
        return None
    notes.proved.append("every ledger's chain holds and ends at the head that its own holder signed")
    for book in kept:
        books.check_against_charter(book, charter, notes)
    *sites, coordinator = kept
    books.check_agreement(sites, coordinator, notes)
    summed = {(line.round, line.attempt): line.survivors for line in lines if line.outcome == "summed"}
    books.check_survivors({book.holder: book for book in sites}, summed, coordinator, notes)
    if len(notes.findings) == before:
        notes.proved.append(
            "every event agrees with the charter, with the other sites and with the coordinator's claim"
        )
        difference = rounds.smallest_difference(summed.values())
        if difference:
            notes.proved.append(
                f"sums that are not over the same sites differ by {difference} at least; what so few sites sent, the "
                "noise of two sums hides, and no mask"
            )
    return kept


def _check_epsilon(kept: list[books.Book], charter: Charter, result: rounds.Result, notes: Notes) -> float | None:
    try:
        recomputed = books.recompute_epsilon(kept, charter, result.delta, notes)
    except SecureFrlError as error:
        notes.find_error(rounds.RESULT, error)
        return None
    claimed = result.epsilon_spent
    privacy = charter.study.get("privacy")
    promised = privacy.get("target_epsilon") if isinstance(privacy, dict) else None
    if recomputed is not None and isinstance(promised, float) and recomputed > promised:
        notes.find(
            "charter.json",
            f"promises epsilon {promised:g}, the exported events give {recomputed:.6g} at delta {result.delta:g}. "
            "Stop the study: its people were promised less.",
        )
    if (recomputed is None) != (claimed is None) or (
        recomputed is not None and claimed is not None and not abs(recomputed - claimed) <= EPSILON_TOLERANCE
    ):
        notes.find(
            rounds.RESULT,
            f"claims epsilon_spent={claimed!r}, the exported events give {recomputed!r} at delta {result.delta:g}. "
            "Trust the events; ask the coordinator where its figure comes from.",
        )
    elif recomputed is not None:
        _check_statement(_statement(kept, charter, recomputed), result, notes)
    return recomputed


def _statement(kept: list[books.Book], charter: Charter, epsilon: float) -> Statement | None:
    """Return the recomputed claim with all that it rests on: a bare epsilon says nothing. None when nothing left."""
    from secure_frl.privacy import accountant
    from secure_frl.privacy.charging import WhatIf
    from secure_frl.privacy.statement import state

    longest = max((book.booked for book in kept), key=len)
    if not longest:
        return None
    events = [one.event for one in longest]
    event = events[0]
    more = accountant.epsilon(events, event.delta, WhatIf(sites=event.max_sites_per_person + 1))
    return state(event, charter.constants, epsilon, more, _said(charter, "data", "dataset_id"))


def _said(charter: Charter, section: str, key: str) -> str:
    """Return a word of the signed study, "" without one."""
    table = charter.study.get(section)
    word = table.get(key, "") if isinstance(table, dict) else ""
    return word if isinstance(word, str) else ""


def _check_statement(statement: Statement | None, result: rounds.Result, notes: Notes) -> None:
    """The summary says of its epsilon what the books say of theirs."""
    if statement is None:
        notes.proved.append("no release was booked, so no privacy was spent")
        return
    plain = statement.plain()
    if result.statement is not None:
        wrong = [name for name, value in plain.items() if not _same(value, result.statement.get(name))]
        if wrong:
            notes.find(
                rounds.RESULT,
                f"states its epsilon with other terms than the exported events have: {', '.join(wrong)}. Trust the "
                "events; restore it.",
            )
            return
    notes.proved.append(f"{plain['sentence']}; recomputed from the exported events, it is what the run claimed")
    notes.statement = plain


def _same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float | int):
        return abs(one - other) <= EPSILON_TOLERANCE
    return one == other


# --- an unfinished run -----------------------------------------------------------------------------------------------


def _verify_unfinished(
    directory: Path, roster: Roster, charter: Charter, notes: Notes, allow_rehearsal: bool
) -> Verification:
    """Check the chains of the databases as they are; nothing is claimed yet."""
    completed = 0
    homes = [f"state/sites/{name}/ledger.sqlite" for name in roster.names] + ["state/coordinator/ledger.sqlite"]
    for file in (rounds.JOURNAL, *homes):
        path = directory / file
        try:
            if not has_ledger(path):  # or the journal
                continue
            if file == rounds.JOURNAL:
                state = read_journal(path)
                completed = sum(one.outcome == "summed" for one in state.rounds)
                if state.charter_hash != charter.session:
                    notes.find(file, "belongs to another charter. Restore the journal of this run.")
            else:
                ledger = read_ledger_state(path)
                for event in ledger.events():
                    notes.is_rehearsal |= decode_event(event).random_source == REHEARSAL
            notes.proved.append(f"the chain of {file} holds up to its last row")
        except UnexpectedState:
            notes.not_proved.append(f"anything about {file}: a program holds it now")
        except (SecureFrlError, OSError) as error:
            notes.find_error(file, error)
    notes.not_proved.append("any result: the run is unfinished, and an unfinished run claims none")
    return _conclude(notes, allow_rehearsal, marked_in="run.json", unfinished=True, completed=completed)


# --- one ledger ------------------------------------------------------------------------------------------------------


def _verify_ledger(path: Path, notes: Notes, allow_rehearsal: bool) -> Verification:
    """Verify an export against the head beside it; the key is the head's own, so its fingerprint is printed."""
    recomputed, delta, completed = None, None, 0
    file = path.with_suffix(".head").name
    try:
        head = books.read_head(path.with_suffix(".head"), None)
        file = path.name
        state = books.read_export(path, head)
        events = [decode_event(event) for event in state.events()]
        notes.is_rehearsal = any(event.random_source == REHEARSAL for event in events)
        completed = sum(one.status == "summed" for one in state.reservations.values())
        notes.proved.append(f"the chain of {path.name} holds and ends at the signed head")
        notes.not_proved.append(
            f"that the key is {state.holder}'s: compare its fingerprint {fingerprint(head.public_key)} with the roster"
        )
        if state.budget is not None:
            from secure_frl.privacy import accountant

            delta = state.budget.delta
            recomputed = accountant.epsilon(events, delta)
            if recomputed > state.budget.epsilon:
                raise LedgerCorrupt(
                    f"it spends epsilon {recomputed:.6g} at delta {delta:g}, its lifetime budget is "
                    f"{state.budget.epsilon:g}. Stop every study on this data set."
                )
    except (SecureFrlError, OSError) as error:
        notes.find_error(file, error)
    return _conclude(
        notes, allow_rehearsal, marked_in=path.name, recomputed=recomputed, completed=completed, delta=delta
    )


def _conclude(
    notes: Notes,
    allow_rehearsal: bool,
    *,
    marked_in: str = NAME,
    unfinished: bool = False,
    recomputed: float | None = None,
    result: rounds.Result | None = None,
    lines: tuple[rounds.RoundLine, ...] = (),
    completed: int | None = None,
    delta: float | None = None,
) -> Verification:
    if notes.is_rehearsal:
        notes.not_proved.append("any privacy: this is a rehearsal, its noise and keys follow from a seed")
        if not allow_rehearsal:
            notes.find(
                marked_in, "marks a rehearsal, which protects nobody. Pass --allow-rehearsal to check its books."
            )
    summed = sum(line.outcome == "summed" for line in lines)
    return Verification(
        holds=not notes.findings,
        findings=tuple(notes.findings),
        epsilon_recomputed=recomputed,
        epsilon_claimed=None if result is None else result.epsilon_spent,
        delta=delta if result is None else result.delta,
        rounds=summed if completed is None else completed,
        statement=notes.statement,
        unfinished=unfinished,
        is_rehearsal=notes.is_rehearsal,
        proved=tuple(notes.proved),
        not_proved=(*notes.not_proved, *_NEVER_PROVED),
    )
