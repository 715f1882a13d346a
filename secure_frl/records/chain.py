"""A hash chain over rows, its signed head, its canonical export, and the strict reading of both.

Row: hash = H("record-row", sequence, kind, payload, previous); the first row's previous is 32 zero bytes. A record is
named by the hash of its first row, which holds random bytes: two records never share a name. A changed, dropped or
reordered row breaks the chain; a chain cut or recomputed as a whole no longer meets the head that its holder signed.
Pure functions over bytes: no file, no database.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secure_frl.errors import BadSignature, LedgerCorrupt, MalformedMessage, NewerFormat, StaleLedger
from secure_frl.wire.canonical import canonical_json, hex_bytes, parse_canonical_object
from secure_frl.wire.hashing import labelled_hash
from secure_frl.wire.signatures import Signer, check_signature

FORMAT = 2  # of heads; 1 has the same fields, a greater one is refused whole
FIRST_PREVIOUS = bytes(32)
_HASH_BYTES = 32
_ROW_KEYS = {"hash", "kind", "payload", "previous", "sequence"}
_HEAD_KEYS = {"format", "head", "ledger", "public_key", "sequence", "signature"}
_RESTORE = "Restore the file from a copy; nothing is answered before it holds."


@dataclass(frozen=True, slots=True)
class Row:
    """One entry: sequence from 0, kind, payload as canonical JSON, hash of the row before, own hash."""

    sequence: int
    kind: str
    payload: bytes
    previous: bytes
    hash: bytes

    def fields(self) -> dict[str, object]:
        """Return the payload, decoded."""
        return parse_canonical_object(self.payload, what=f"the payload of row {self.sequence}")


@dataclass(frozen=True, slots=True)
class Receipt:
    """One row of a record's chain, on disk: the record's name, the row's sequence and its hash."""

    ledger: str
    sequence: int
    head: bytes

    def to_json(self) -> dict[str, object]:
        """Return plain values for a file or a message."""
        return {"head": self.head.hex(), "ledger": self.ledger, "sequence": self.sequence}


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A holder's word for how long its record is and how it ends."""

    receipt: Receipt
    public_key: bytes
    signature: bytes

    def encode(self) -> bytes:
        """Return the bytes of a `.head` file."""
        plain = self.receipt.to_json() | {
            "format": FORMAT,
            "public_key": self.public_key.hex(),
            "signature": self.signature.hex(),
        }
        return canonical_json(plain) + b"\n"


def next_row(previous: Row | None, kind: str, payload: bytes) -> Row:
    """Return the row that follows `previous`, or the first one."""
    sequence = 0 if previous is None else previous.sequence + 1
    before = FIRST_PREVIOUS if previous is None else previous.hash
    return Row(sequence, kind, payload, before, labelled_hash("record-row", sequence, kind, payload, before))


def check_follows(previous: Row | None, row: Row, where: str) -> None:
    """Check that `row` follows `previous`. Raises LedgerCorrupt naming row and file."""
    try:
        expected = next_row(previous, row.kind, row.payload)
    except UnicodeEncodeError:
        expected = None
    if expected != row:
        raise LedgerCorrupt(f"row {row.sequence} of {where} does not follow from the row before it. {_RESTORE}")


def check_chain(rows: Iterable[Row], where: str) -> None:
    """Check a whole chain from its first row. Raises LedgerCorrupt naming row and file."""
    previous: Row | None = None
    for row in rows:
        check_follows(previous, row, where)
        previous = row
    if previous is None:
        raise LedgerCorrupt(f"{where} has no rows, expected at least the first one. {_RESTORE}")


def receipt_of(rows: Sequence[Row]) -> Receipt:
    """Return the receipt of a chain's last row."""
    return Receipt(rows[0].hash.hex(), rows[-1].sequence, rows[-1].hash)


def sign_head(signer: Signer, receipt: Receipt) -> SignedHead:
    """Sign a head."""
    signature = signer.sign("ledger-head", receipt.ledger, receipt.sequence, receipt.head)
    return SignedHead(receipt, signer.public_key, signature)


def check_head(head: SignedHead, public_key: bytes, where: str) -> None:
    """Check a head against the key that the roster names. Raises LedgerCorrupt."""
    receipt = head.receipt
    try:
        if head.public_key != public_key:
            raise BadSignature("another key")
        check_signature(public_key, head.signature, "ledger-head", receipt.ledger, receipt.sequence, receipt.head)
    except BadSignature:
        raise LedgerCorrupt(
            f"{where} is not signed by the key {public_key.hex()[:16]} of its holder. "
            "Ask the holder for its own export; a head signed by anybody else proves nothing."
        ) from None


# --- export ----------------------------------------------------------------------------------------------------------


def encode_export(rows: Iterable[Row]) -> bytes:
    """Return a chain as canonical JSON lines, one a row; the payload is embedded as an object."""
    return b"".join(
        canonical_json(
            {
                "hash": row.hash.hex(),
                "kind": row.kind,
                "payload": row.fields(),
                "previous": row.previous.hex(),
                "sequence": row.sequence,
            }
        )
        + b"\n"
        for row in rows
    )


def decode_export(data: bytes, where: str) -> tuple[Row, ...]:
    """Read an export strictly and check its chain. Raises LedgerCorrupt naming row and file."""
    if not data.endswith(b"\n"):
        raise LedgerCorrupt(f"{where} does not end with a whole line: its tail was cut. {_RESTORE}")
    rows = tuple(_decode_row(line, number, where) for number, line in enumerate(data[:-1].split(b"\n")))
    check_chain(rows, where)
    return rows


def decode_head(data: bytes, where: str) -> SignedHead:
    """Read a `.head` file strictly. Raises LedgerCorrupt."""
    if not data.endswith(b"\n"):
        raise LedgerCorrupt(f"{where} does not end with a whole line: its tail was cut. {_RESTORE}")
    plain = _object(data[:-1], where)
    version = plain.get("format")
    if type(version) is int and version > FORMAT:
        raise NewerFormat(f"{where} has format {version}, this version reads up to {FORMAT}. Use a newer secure_frl.")
    if set(plain) != _HEAD_KEYS or type(version) is not int or version < 1 or not isinstance(plain["ledger"], str):
        raise LedgerCorrupt(f"{where} does not have the fields of a signed head. {_RESTORE}")
    receipt = Receipt(
        _hex(plain["ledger"], _HASH_BYTES, where).hex(),
        _sequence(plain["sequence"], where),
        _hex(plain["head"], _HASH_BYTES, where),
    )
    return SignedHead(receipt, _hex(plain["public_key"], 32, where), _hex(plain["signature"], 64, where))


def check_extends(rows: Sequence[Row], head: SignedHead, where: str) -> int:
    """Check that a chain contains the row that was signed; return how many rows it has beyond it.

    Raises StaleLedger for a chain that is older than the head, or another one.
    """
    signed, found = head.receipt, receipt_of(rows)
    if found.ledger != signed.ledger:
        raise StaleLedger(
            f"expected {where} to be the ledger {signed.ledger[:16]} whose head its holder signed, got "
            f"{found.ledger[:16]}. Compare it with a head of its own. If this is one, restore the newest copy: a new "
            "ledger forgets what was spent."
        )
    if found.sequence < signed.sequence or rows[signed.sequence].hash != signed.head:
        raise StaleLedger(
            f"expected {where} to contain row {signed.sequence} with hash {signed.head.hex()[:16]}, which its holder "
            f"signed, it ends at row {found.sequence} without it. Restore the newest copy: an older one forgets what "
            "was spent."
        )
    return found.sequence - signed.sequence


def check_ends_at(rows: Sequence[Row], head: SignedHead, where: str) -> None:
    """Check that a chain is the one that was signed, neither cut nor recomputed. Raises LedgerCorrupt."""
    found = receipt_of(rows)
    if found != head.receipt:
        raise LedgerCorrupt(
            f"{where} ends at row {found.sequence} with hash {found.head.hex()[:16]}, its holder signed row "
            f"{head.receipt.sequence} with {head.receipt.head.hex()[:16]}. Rows were dropped or rewritten: ask the "
            "holder for its own export."
        )


def _decode_row(line: bytes, number: int, where: str) -> Row:
    here = f"row {number} of {where}"
    plain = _object(line, here)
    if set(plain) != _ROW_KEYS or not isinstance(plain["kind"], str) or not isinstance(plain["payload"], dict):
        raise LedgerCorrupt(f"{here} does not have the fields of a row. {_RESTORE}")
    if _sequence(plain["sequence"], here) != number:
        raise LedgerCorrupt(f"{here} says it is row {plain['sequence']}. {_RESTORE}")
    previous, own = _hex(plain["previous"], _HASH_BYTES, here), _hex(plain["hash"], _HASH_BYTES, here)
    return Row(number, plain["kind"], canonical_json(plain["payload"]), previous, own)


def _object(data: bytes, where: str) -> dict[str, object]:
    try:
        return parse_canonical_object(data, what=where)
    except MalformedMessage as error:
        raise LedgerCorrupt(str(error)) from None


def _hex(value: object, size: int, where: str) -> bytes:
    try:
        return hex_bytes(value, size)
    except MalformedMessage:
        raise LedgerCorrupt(f"{where} holds a value that is not {size} bytes in lower-case hex. {_RESTORE}") from None


def _sequence(value: object, where: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise LedgerCorrupt(f"{where} holds a sequence that is not a whole number from 0. {_RESTORE}")
    return value
