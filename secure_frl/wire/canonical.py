"""Canonical JSON: one value has one encoding, and a decoder that accepts nothing else.

Used for what people and auditors read (charters, ledgers, manifests). Keys are sorted, no space is written, text is
escaped to ASCII, reals have Python's shortest exact form; NaN and infinity do not exist. The decoder re-encodes and
compares, so doubled keys, other spacing and leftovers are refused.
"""

from __future__ import annotations

import json

from secure_frl.errors import MalformedMessage

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode
MAX_BYTES = 64 << 20  # far above any file of a study; a larger one is refused before it is parsed


def canonical_json(value: object) -> bytes:
    """Encode dicts with text keys, lists, text, integers, finite reals, booleans and None. Raises ValueError on NaN."""
    return _encode(value).encode("ascii")


def parse_canonical(data: bytes, *, what: str, max_bytes: int = MAX_BYTES) -> object:
    """Decode canonical JSON. `what` names the file or message in the error.

    Raises MalformedMessage for anything that `canonical_json` would not have written.
    """
    if len(data) > max_bytes:
        raise MalformedMessage(
            f"expected {what} of at most {max_bytes} bytes, got {len(data)}. Ask its writer for a valid copy."
        )
    try:
        value: object = json.loads(data.decode("ascii"))
        same = canonical_json(value) == data
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        same = False
    if not same:
        raise MalformedMessage(
            f"expected {what} in canonical JSON, got other bytes. Restore the file as written; never reformat it."
        )
    return value


def parse_canonical_object(data: bytes, *, what: str, max_bytes: int = MAX_BYTES) -> dict[str, object]:
    """Decode a canonical JSON object. Raises MalformedMessage."""
    value = parse_canonical(data, what=what, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise MalformedMessage(
            f"expected {what} to be a JSON object, got {type(value).__name__}. Ask its writer for a valid copy."
        )
    return value


def hex_bytes(value: object, size: int, *, what: str = "a value") -> bytes:
    """Read bytes as canonical JSON and signed files hold them: text of 2 * `size` lower-case hex digits, nothing else.

    Raises MalformedMessage, which names `what` and never shows the value: it may be a secret.
    """
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""  # takes capitals and blanks: compared below
    except ValueError:
        data = b""
    if len(data) != size or data.hex() != value:
        raise MalformedMessage(
            f"expected {what} of {size} bytes in lower-case hex, got another. Ask its writer for a valid copy."
        )
    return data
