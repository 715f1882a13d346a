"""A ledger as a site opens it, events small enough for its tests, and guards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secure_frl.consortium.identity import Identity
from secure_frl.errors import BudgetExhausted
from secure_frl.records.ledger import Guard, Ledger
from secure_frl.secure_sum import Budget

CHARTER, OTHER = bytes(32), bytes([7]) * 32


def event(number: int, charter: bytes = CHARTER) -> bytes:
    """The least that a ledger books: the round of a study."""
    return json.dumps({"charter_hash": charter.hex(), "round": number}, separators=(",", ":")).encode()


def at_most(count: int) -> Guard:
    """A guard with room for so many events."""

    def guard(budget: Budget, recorded: Sequence[bytes], candidate: bytes) -> None:
        if len(recorded) >= count:
            raise BudgetExhausted("expected room, got none. Stop.")

    return guard


PLENTY = at_most(1000)


def open_ledger(path: Path, guard: Guard = PLENTY, **changes: Any) -> Ledger:
    """One site's ledger. changes: arguments of `Ledger.open` by name."""
    options: dict[str, Any] = {
        "holder": "site-00",
        "dataset_id": "ward",
        "budget": Budget(4.0, 1e-6),
        "code_version": "0.1.0",
    }
    return Ledger.open(path, **options | {"guard": guard, "signer": Identity(bytes([1]) * 32)} | changes)
