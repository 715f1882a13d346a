"""Checks of the ledgers: chains and signed heads, then events against the charter and against each other.

Each head must carry its own holder's key as roster and charter name it, so a coordinator that rewrites an export and
signs a new manifest is still caught. Reads exports only; the accountant is imported when a figure is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from secure_frl.consortium.charter import Charter
from secure_frl.errors import LedgerCorrupt, SecureFrlError, StudyRefused
from secure_frl.evidence.findings import Notes
from secure_frl.privacy.events import REHEARSAL, GaussianSumEvent, decode_event, purpose_of
from secure_frl.privacy.round_shares import blocks_in_round
from secure_frl.records import chain
from secure_frl.records.ledger_state import LedgerState, replay
from secure_frl.study_file import parse_study

COORDINATOR = "coordinator"
# What differs between holders of one release: each has its own people, windows and time of knowing the survivors.
_HOLDERS_OWN = ("dataset_id", "composition_group", "window", "survivors", "register_root_before", "register_root_after")
_LEFT = ("released", "summed", "aborted", "unknown")


@dataclass(frozen=True, slots=True)
class Booked:
    """One event of this charter in one ledger, with what became of it."""

    event: GaussianSumEvent
    status: str
    survivors: tuple[int, ...] | None  # SiteIds, as this holder was told; None if it never was


@dataclass(frozen=True, slots=True)
class Book:
    """A verified export."""

    holder: str
    file: str
    state: LedgerState
    booked: tuple[Booked, ...]  # of the charter at hand; spent ones only
    lifetime: tuple[GaussianSumEvent, ...]  # everything spent on the data set


def read_head(path: Path, public_key: bytes | None) -> chain.SignedHead:
    """Read a `.head` file. public_key: the holder's; None trusts the key inside. Raises LedgerCorrupt, OSError."""
    head = chain.decode_head(path.read_bytes(), path.name)
    chain.check_head(head, head.public_key if public_key is None else public_key, path.name)
    return head


def read_export(path: Path, head: chain.SignedHead) -> LedgerState:
    """Read an export that must end at `head`. Raises LedgerCorrupt naming row and file, OSError."""
    rows = chain.decode_export(path.read_bytes(), path.name)
    chain.check_ends_at(rows, head, path.name)
    return replay(rows, path.name)


def read_book(directory: Path, holder: str, public_key: bytes, charter: Charter, notes: Notes) -> Book | None:
    """Verify one holder's export in a run folder; None, with a finding, if it doesn't hold."""
    export, head_file = f"ledgers/{holder}.jsonl", f"ledgers/{holder}.head"
    file = head_file
    try:
        head = read_head(directory / head_file, public_key)
        file = export
        state = read_export(directory / export, head)
        if state.holder != holder:
            raise LedgerCorrupt(f"it is the ledger of {state.holder[:70]}, not of {holder}. Ask for the holder's own.")
        lifetime = tuple(decode_event(event) for event in state.events())
        strangers = {event.dataset_id for event in lifetime} - {state.dataset_id}
        if strangers:
            raise LedgerCorrupt(
                f"it keeps the budget of data set {state.dataset_id[:70]}, but books events of "
                f"{sorted(strangers)[0][:70]}. Ask {holder} whose people these were."
            )
        booked = tuple(
            Booked(decode_event(kept.event), kept.status, kept.survivors)
            for kept in state.reservations.values()
            if kept.is_spent and kept.charter == charter.session.hex()
        )
    except (SecureFrlError, OSError) as error:
        notes.find_error(file, error)
        return None
    return Book(holder, file, state, booked, lifetime)


def check_against_charter(book: Book, charter: Charter, notes: Notes) -> None:
    """Each event says what the charter fixes, and there are no more of them than it announces rounds."""
    figures = _charter_figures(charter, book, notes)
    training = charter.study.get("training")
    announced = training.get("rounds") if isinstance(training, Mapping) else None
    if type(announced) is int and len(book.booked) > announced:
        notes.find(
            book.file,
            f"books {len(book.booked)} releases, the charter announces {announced} rounds: more people than were "
            f"declared. Ask {book.holder} what it ran.",
        )
    notes.is_rehearsal |= any(event.random_source == REHEARSAL for event in book.lifetime)
    for booked in book.booked:
        event = booked.event
        rounds = announced if type(announced) is int and announced > 1 else 2  # one of value iteration has two or more
        blocks = blocks_in_round(charter.constants.blocks, rounds, event.round)
        expected = figures | {"blocks": blocks, "purpose": purpose_of(blocks)}
        wrong = [
            f"{name}={getattr(event, name)!r} instead of {value!r}"
            for name, value in expected.items()
            if getattr(event, name) != value
        ]
        if wrong:
            notes.find(
                book.file,
                f"the event of round {event.round}, attempt {event.attempt} contradicts the charter: "
                f"{'; '.join(wrong)}. Ask {book.holder} what it ran.",
            )


def check_agreement(sites: list[Book], coordinator: Book, notes: Notes) -> None:
    """A site's event has its claim at the coordinator, and both say the same."""
    claims = {(one.event.round, one.event.attempt): one.event for one in coordinator.booked}
    for book in sites:
        seen: set[tuple[int, int]] = set()
        for booked in book.booked:
            key = (booked.event.round, booked.event.attempt)
            where = f"round {key[0]}, attempt {key[1]}"
            if key in seen:
                notes.find(book.file, f"books two events for {where}, expected one. Ask {book.holder} what it ran.")
            seen.add(key)
            claim = claims.get(key)
            if claim is None:
                notes.find(
                    coordinator.file, f"has no event for {where} that {book.holder} booked. The books don't agree."
                )
            elif differing := _differing(booked.event, claim):
                notes.find(
                    book.file, f"{where} differs from the coordinator's claim in {', '.join(differing)}. Ask both."
                )


def check_survivors(
    sites: Mapping[str, Book], summed: Mapping[tuple[int, int], tuple[str, ...]], coordinator: Book, notes: Notes
) -> None:
    """Who is in a sum has booked and released it, and was told who else is; the coordinator has booked every sum.

    sites: by name, in the order of their SiteIds.
    summed: (round, attempt) -> names of the survivors, for rounds with a sum.
    """
    claimed = {(one.event.round, one.event.attempt) for one in coordinator.booked}
    left = {
        name: {(one.event.round, one.event.attempt) for one in book.booked if one.status in _LEFT}
        for name, book in sites.items()
    }
    told = {
        (name, one.event.round, one.event.attempt): one.survivors
        for name, book in sites.items()
        for one in book.booked
        if one.survivors is not None
    }
    names = tuple(sites)
    for key, survivors in summed.items():
        where = f"round {key[0]}, attempt {key[1]}"
        if key not in claimed:
            notes.find(coordinator.file, f"has no event for the sum of {where}. Ask the coordinator.")
        for name in survivors:
            if name in left and key not in left[name]:
                notes.find(
                    sites[name].file,
                    f"has no release for {where}, though {name} is in its sum. Ask {name} what it ran.",
                )
            heard = told.get((name, *key))
            if heard is not None and heard != tuple(index for index, one in enumerate(names) if one in survivors):
                notes.find(
                    sites[name].file,
                    f"was told of other survivors in {where} than the coordinator's account names. Ask both.",
                )


def recompute_epsilon(books: list[Book], charter: Charter, delta: float, notes: Notes) -> float | None:
    """Return the greatest epsilon over all holders for this charter; also hold each ledger to its lifetime budget.

    None when no epsilon may be stated: without noise, or with noise shares that reach the coordinator without masks.
    """
    from secure_frl.privacy import accountant

    greatest = 0.0
    for book in books:
        greatest = max(greatest, accountant.epsilon([one.event for one in book.booked], delta))
        budget = book.state.budget
        if budget is not None and math.isfinite(budget.epsilon):
            spent = accountant.epsilon(book.lifetime, budget.delta)
            if spent > budget.epsilon:
                notes.find(
                    book.file,
                    f"spends epsilon {spent:.6g} at delta {budget.delta:g}, its lifetime budget is {budget.epsilon:g}. "
                    "Stop every study on this data set.",
                )
    return greatest if accountant.covers_every_reader(charter.constants) and math.isfinite(greatest) else None


def _charter_figures(charter: Charter, book: Book, notes: Notes) -> dict[str, object]:
    """What every event of this charter must say in this book, from the constants and the study that all signed."""
    it = charter.constants
    figures: dict[str, object] = {
        "mechanism": it.noise,
        "noise_multiplier": it.noise_multiplier,
        "integer_noise_scale": it.integer_noise_scale,
        "scale": it.scale,
        "length": it.length,
        "honest_shares": it.honest_shares,
        "max_colluders": it.max_colluders,
        "min_survivors": it.min_survivors,
    }
    try:
        study = parse_study(charter.study, source="the charter's study")
    except StudyRefused as error:
        notes.find_error("charter.json", error)
        return figures
    if study.data.dataset_id:  # under another name the books would have a lifetime budget of their own
        figures["dataset_id"] = study.data.dataset_id
    return figures | {
        "unit": study.privacy.unit,
        "relation": study.privacy.relation,
        "delta": study.privacy.delta,
        "sampling_rate": study.privacy.sampling_rate,
        "max_rounds_per_person": study.privacy.max_rounds_per_person,
        "max_sites_per_person": study.privacy.max_sites_per_person,
        "declared_batch": study.declared_batch,
        "noised_sums": study.noised_sums,
        "composition_group": study.composition_group(book.state.dataset_id),
    }


def _differing(one: GaussianSumEvent, other: GaussianSumEvent) -> list[str]:
    compared = (each.name for each in fields(GaussianSumEvent) if each.name not in _HOLDERS_OWN)
    return [name for name in compared if getattr(one, name) != getattr(other, name)]
