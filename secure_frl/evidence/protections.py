"""Checks of protections.jsonl: what was in force in each round, and who could have read what.

The coordinator's word. Protection, noise and honest shares are held against the charter that every site signed, and
whether there was a key against the protection; the sentences on readers are for people, and nothing is derived of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from secure_frl.consortium.charter import Charter
from secure_frl.evidence.findings import Notes
from secure_frl.evidence.rounds import ROUNDS, RoundLine
from secure_frl.masking.contexts import CKKS, ENCRYPTED

PROTECTIONS = "protections.jsonl"


class ProtectionLine(msgspec.Struct, frozen=True):
    """One line: one attempt of a round. More keys may stand beside these."""

    round: int
    attempt: int
    epoch: int
    protection: str
    noise: str
    honest_shares_assumed: int
    rehearsal: bool
    readable_by: str
    key_held_by: str  # "" where no key opens a sum
    coordinator_learns: str


def check_protections(
    lines: Sequence[ProtectionLine], rounds: Sequence[RoundLine], charter: Charter, notes: Notes
) -> None:
    """The account has the rounds and attempts of rounds.jsonl, each under the protection that the charter fixes."""
    it = charter.constants
    notes.is_rehearsal |= any(line.rehearsal for line in lines)
    said = [(line.round, line.attempt, line.epoch) for line in lines]
    if said != [(line.round, line.attempt, line.epoch) for line in rounds]:
        notes.find(PROTECTIONS, f"doesn't have the rounds, attempts and epochs of {ROUNDS} in order. Restore both.")
    expected = {"protection": it.protection, "noise": it.noise, "honest_shares_assumed": it.honest_shares}
    for line in lines:
        where = f"round {line.round}, attempt {line.attempt}"
        for name, value in expected.items():
            if getattr(line, name) != value:
                notes.find(
                    PROTECTIONS, f"{where} says {name}={getattr(line, name)!r}, the charter {value!r}. Restore it."
                )
        if bool(line.key_held_by) != (it.protection in ENCRYPTED):
            notes.find(
                PROTECTIONS,
                f"{where} says of the key that opens a sum: {line.key_held_by[:70] or 'none'}. That isn't so under "
                f"{it.protection}. Restore it.",
            )


def say_what_is_open(charter: Charter, notes: Notes) -> None:
    """Add what no file can prove of the charter's protection, and what it doesn't protect from."""
    protection = charter.constants.protection
    if protection.startswith("unsafe"):
        notes.not_proved.append(f"any protection from the coordinator: with {protection} it read every single update")
    if protection == CKKS:
        notes.not_proved.append(
            "that a single update was hidden from the coordinator together with one site: under ckks any site's key "
            "opens every ciphertext"
        )
    if protection in ENCRYPTED:
        notes.not_proved.append("that the coordinator was blind: no file shows that no site gave it the key")
        notes.not_proved.append(
            "that a keyed tag belongs to the policy described with it: rounds and journal hold tags that only sites, "
            "who have their secret, can recompute"
        )
