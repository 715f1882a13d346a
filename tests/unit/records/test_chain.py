"""The hash chain, its export and its signed head."""

from __future__ import annotations

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hex_values import misspelt
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_frl.errors import LedgerCorrupt, NewerFormat
from secure_frl.records import chain
from secure_frl.wire.canonical import canonical_json
from secure_frl.wire.hashing import Field
from secure_frl.wire.signatures import signed_bytes

TEXT = st.text(max_size=20)
PAYLOADS = st.lists(
    st.dictionaries(TEXT, st.one_of(TEXT, st.integers(), st.none()), max_size=3), min_size=1, max_size=6
)


class Key:
    def __init__(self, fill: int = 1) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(bytes([fill]) * 32)

    @property
    def public_key(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def sign(self, purpose: str, *fields: Field) -> bytes:
        return self._key.sign(signed_bytes(purpose, *fields))


def rows_of(payloads: list[dict[str, object]]) -> list[chain.Row]:
    rows: list[chain.Row] = []
    for payload in payloads:
        rows.append(chain.next_row(rows[-1] if rows else None, "noted", canonical_json(payload)))
    return rows


def test_a_row_hashes_sequence_kind_payload_and_predecessor_with_lengths() -> None:
    row = chain.next_row(None, "opened", b"{}")

    # by hand from secure_aggregation.md section 3: each field after its 4-byte length, integers 8 bytes big-endian
    fields = [b"secure_frl/secagg/v1", b"record-row", bytes(8), b"opened", b"{}", bytes(32)]
    by_hand = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    assert row.hash == hashlib.sha256(by_hand).digest()


@given(PAYLOADS)
def test_an_export_reads_back_to_the_same_rows(payloads: list[dict[str, object]]) -> None:
    rows = rows_of(payloads)

    assert list(chain.decode_export(chain.encode_export(rows), "x.jsonl")) == rows


@settings(max_examples=200)
@given(PAYLOADS, st.data())
def test_any_changed_byte_of_an_export_is_refused_or_misses_the_signed_head(
    payloads: list[dict[str, object]], data: st.DataObject
) -> None:
    rows = rows_of(payloads)
    export = bytearray(chain.encode_export(rows))
    head = chain.sign_head(Key(), chain.receipt_of(rows))
    export[data.draw(st.integers(0, len(export) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(LedgerCorrupt, match=r"x\.jsonl"):
        chain.check_ends_at(chain.decode_export(bytes(export), "x.jsonl"), head, "x.jsonl")


@given(PAYLOADS, st.data())
def test_a_dropped_row_with_a_recomputed_chain_misses_the_signed_head(
    payloads: list[dict[str, object]], data: st.DataObject
) -> None:
    rows = rows_of([*payloads, {"last": "row"}])
    head = chain.sign_head(Key(), chain.receipt_of(rows))
    kept = [json.loads(row.payload) for row in rows]
    del kept[data.draw(st.integers(0, len(kept) - 1))]
    recomputed = chain.decode_export(chain.encode_export(rows_of(kept)), "x.jsonl")  # the chain itself holds

    with pytest.raises(LedgerCorrupt, match="dropped or rewritten"):
        chain.check_ends_at(recomputed, head, "x.jsonl")


def test_rows_in_another_order_are_refused_by_number() -> None:
    lines = chain.encode_export(rows_of([{"a": 1}, {"a": 2}, {"a": 3}])).splitlines(keepends=True)

    with pytest.raises(LedgerCorrupt, match=r"row 1 of x\.jsonl says it is row 2"):
        chain.decode_export(lines[0] + lines[2] + lines[1], "x.jsonl")


def test_a_tail_cut_inside_a_line_is_refused() -> None:
    export = chain.encode_export(rows_of([{"a": 1}, {"a": 2}]))

    with pytest.raises(LedgerCorrupt, match="tail was cut"):
        chain.decode_export(export[:-5], "x.jsonl")


def test_a_head_signed_by_anybody_else_is_refused() -> None:
    head = chain.sign_head(Key(2), chain.receipt_of(rows_of([{"a": 1}])))

    with pytest.raises(LedgerCorrupt, match="not signed by the key"):
        chain.check_head(head, Key(1).public_key, "x.head")


def test_a_head_that_only_names_the_right_key_is_refused() -> None:
    head = chain.sign_head(Key(2), chain.receipt_of(rows_of([{"a": 1}])))
    disguised = chain.SignedHead(head.receipt, Key(1).public_key, head.signature)

    with pytest.raises(LedgerCorrupt, match="not signed by the key"):
        chain.check_head(disguised, Key(1).public_key, "x.head")


def test_a_head_that_names_another_key_than_its_signers_is_refused() -> None:
    head = chain.sign_head(Key(1), chain.receipt_of(rows_of([{"a": 1}])))

    with pytest.raises(LedgerCorrupt, match="not signed by the key"):
        chain.check_head(chain.SignedHead(head.receipt, Key(2).public_key, head.signature), Key(1).public_key, "x.head")


def test_a_head_reads_back_and_verifies() -> None:
    head = chain.sign_head(Key(), chain.receipt_of(rows_of([{"a": 1}])))

    read = chain.decode_head(head.encode(), "x.head")

    chain.check_head(read, Key().public_key, "x.head")
    assert read == head


def test_a_head_from_the_future_is_refused_with_what_to_do() -> None:
    head = chain.sign_head(Key(), chain.receipt_of(rows_of([{"a": 1}])))
    future = head.encode().replace(b'"format":2', b'"format":3')

    with pytest.raises(NewerFormat, match="Use a newer secure_frl"):
        chain.decode_head(future, "x.head")


@pytest.mark.parametrize("field", ["ledger", "head", "public_key", "signature"])
def test_a_head_with_a_value_in_another_spelling_is_refused(field: str) -> None:
    plain = json.loads(chain.sign_head(Key(), chain.receipt_of(rows_of([{"a": 1}]))).encode())

    for value in misspelt(plain[field]):
        with pytest.raises(LedgerCorrupt):
            chain.decode_head(canonical_json(plain | {field: value}) + b"\n", "x.head")


@pytest.mark.parametrize("field", ["previous", "hash"])
def test_a_row_with_a_hash_in_another_spelling_is_refused(field: str) -> None:
    first, line = chain.encode_export(rows_of([{"a": 1}, {"b": 2}])).splitlines(keepends=True)
    plain = json.loads(line)

    for value in misspelt(plain[field]):
        with pytest.raises(LedgerCorrupt, match="lower-case hex"):
            list(chain.decode_export(first + canonical_json(plain | {field: value}) + b"\n", "x.jsonl"))


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_readers(data: bytes) -> None:
    for read in (chain.decode_export, chain.decode_head):
        with pytest.raises(LedgerCorrupt):
            read(data, "x")
