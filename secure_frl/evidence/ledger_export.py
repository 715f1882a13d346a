"""What a holder does with its own ledger outside a study: export it under its signature, set its time right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from secure_frl.consortium import identity
from secure_frl.consortium.keystore import read_key
from secure_frl.errors import BudgetExhausted, ConfigError
from secure_frl.files import write_durably
from secure_frl.records.chain import encode_export, receipt_of, sign_head
from secure_frl.records.ledger import Ledger, has_ledger, read_ledger_state, read_rows
from secure_frl.records.ledger_state import replay
from secure_frl.secure_sum import Budget


@dataclass(frozen=True, slots=True)
class Exported:
    """An export that was written."""

    files: tuple[str, str]  # export, head
    ledger: str
    sequence: int  # of the last row
    fingerprint: str  # of the key that signed

    def plain(self) -> dict[str, object]:
        """Return it for `--json`."""
        return {
            "files": list(self.files),
            "fingerprint": self.fingerprint,
            "ledger": self.ledger,
            "sequence": self.sequence,
        }


def export_ledger(path: Path, key: Path, folder: Path) -> Exported:
    """Write HOLDER.jsonl and HOLDER.head into a folder; the ledger itself is only read.

    key: the holder's key file.
    Raises LedgerCorrupt, ConfigError for a path without a ledger or a key that can't be used.
    """
    rows = read_rows(_existing(path))
    state = replay(rows, path.name)
    if not key.is_file():
        raise ConfigError(f"expected the holder's key at {key}, found no file. Pass --key.")
    signer = read_key(key, allow_simulated=True)  # a simulated site's ledger is signed by a simulated key
    folder.mkdir(parents=True, exist_ok=True)
    receipt = receipt_of(rows)
    files = (folder / f"{state.holder}.jsonl", folder / f"{state.holder}.head")
    write_durably(files[0], encode_export(rows))
    write_durably(files[1], sign_head(signer, receipt).encode())
    return Exported(
        (str(files[0]), str(files[1])), receipt.ledger, receipt.sequence, identity.fingerprint(signer.public_key)
    )


def accept_clock(path: Path) -> tuple[int | None, int]:
    """Book that the clock is right now; return the time of the last row before, and now, Unix seconds.

    Raises LedgerCorrupt, ConfigError for a path without a ledger.
    """
    state = read_ledger_state(_existing(path))
    if state.budget is None:
        raise ConfigError(f"expected a ledger at {path}, found none. Check the path.")
    with Ledger.open(
        path,
        holder=state.holder,
        dataset_id=state.dataset_id,
        budget=state.budget,
        guard=_no_release,
        signer=identity.Identity.generate(),  # nothing is signed here
        code_version=state.code_version,
    ) as ledger:
        return state.time, ledger.accept_clock()


def _existing(path: Path) -> Path:
    if not has_ledger(path):
        raise ConfigError(f"expected a holder's ledger.sqlite at {path}, found no file. Check the path.")
    return path


def _no_release(lifetime: Budget, recorded: Sequence[bytes], candidate: bytes) -> None:
    raise BudgetExhausted("expected no release here. Release within a study.")
