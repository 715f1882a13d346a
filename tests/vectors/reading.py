"""How second_site.py reads bytes: MessagePack strictly, signatures, tags, keys, lists, commitments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from reference import LABEL, TYPES, H, exchange, kdf64, lp

SHAPES: dict[str, Any] = {  # section 7: "u", "id", a number of bytes, "short", "bytes", [shape] or a tuple
    "E0": ("u", 32, "u", "u"),
    "E1": ([("id", 32, "short", 64)],),
    "E2": ([32],),
    "R0": (["id"], 32, 32, 32, 32),
    "R1p": ("bytes",),
    "R3a": (["id"], 64),
    "R3c": ("bytes",),
    "R5": (["id"], "bytes", 32, 32, 64),
}

NAMES = {number: name for name, number in TYPES.items()} | {7: "E3", 27: "R6"}  # the latter of section 18
ATTEMPT = ("SharesSent", "InputSent", "SetConfirmed", "SumAwaited", "Departed")
TAKES = {  # section 13
    "WithoutEpoch": {"E0"},
    "KeysAdvertised": {"E0", "E1"},
    "NonceShown": {"E0", "E2"},
    "EpochOpen": {"E0", "R0"},
    "SharesSent": {"E0", "R0", "R1p", "R5"},
    "InputSent": {"E0", "R0", "R3a", "R5"},
    "SetConfirmed": {"E0", "R0", "R3c", "R5"},
    "SumAwaited": {"E0", "R0", "R5"},
    "Departed": {"E0", "R0", "R5"},
}
ANSWERED = {
    "InputSent": {"R1p"},
    "SetConfirmed": {"R1p", "R3a"},
    "SumAwaited": {"R1p", "R3a", "R3c"},
    "Departed": {"R1p", "R3a", "R3c"},
}


class Refused(Exception):
    """One of the names of section 14."""


def need(holds: bool, name: str) -> None:
    if not holds:
        raise Refused(name)


# --- MessagePack, strictly -------------------------------------------------------------------------------------------


def unpack(data: bytes, at: int, shape: Any) -> tuple[Any, int]:
    """Return one value of a shape and where it ends."""
    mark, at = data[at], at + 1
    if isinstance(shape, tuple | list):
        size, at = (mark & 0x0F, at) if 0x90 <= mark < 0xA0 else number(data, at, {0xDC: 2, 0xDD: 4}[mark])
        need(size == len(shape) if isinstance(shape, tuple) else size <= 10_000, "MalformedMessage")
        found = []
        for place in range(size):
            value, at = unpack(data, at, shape[place] if isinstance(shape, tuple) else shape[0])
            found.append(value)
        return found, at
    if shape in ("u", "id"):
        signed = mark in (0xD0, 0xD1, 0xD2, 0xD3)
        sizes = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
        value, at = (mark, at) if mark < 0x80 else number(data, at, sizes[mark], signed=signed)
        need(0 <= value <= (65_534 if shape == "id" else 2**63 - 1), "MalformedMessage")
        return value, at
    size, at = number(data, at, {0xC4: 1, 0xC5: 2, 0xC6: 4}[mark])
    need(shape in ("bytes", size) or (shape == "short" and size <= 32), "MalformedMessage")
    need(at + size <= len(data), "MalformedMessage")
    return data[at : at + size], at + size


def number(data: bytes, at: int, size: int, *, signed: bool = False) -> tuple[int, int]:
    need(at + size <= len(data), "MalformedMessage")
    return int.from_bytes(data[at : at + size], "big", signed=signed), at + size


def decode(kind: str, data: bytes) -> list[Any]:
    try:
        body, end = unpack(data, 0, SHAPES[kind])
    except (KeyError, IndexError):
        raise Refused("MalformedMessage") from None
    need(end == len(data), "MalformedMessage")
    return list(body)


def split_records(data: bytes, *sizes: int) -> list[list[Any]]:
    """Return packed records as lists; 4 is the size of an id, any other one of bytes."""
    need(len(data) % sum(sizes) == 0, "MalformedMessage")
    found, at = [], 0
    while at < len(data):
        record: list[Any] = []
        for size in sizes:
            part, at = data[at : at + size], at + size
            record.append(int.from_bytes(part, "big") if size == 4 else part)
        found.append(record)
    return found


def member_rows(packed: bytes) -> list[list[Any]]:
    """Return U2 out of its lp form: 88 bytes a row, of which the lengths of the parts are 20."""
    need(len(packed) % 88 == 0, "MalformedMessage")
    rows = [packed[at : at + 88] for at in range(0, len(packed), 88)]
    found: list[list[Any]] = [[int.from_bytes(row[8:16], "big"), row[20:52], row[56:88]] for row in rows]
    need(lp(*found) == packed and all(row[0] <= 65_534 for row in found), "MalformedMessage")
    return found


def check_size(kind: str, size: int, *, sites: int, length: int, word: int) -> None:
    """Check a frame's size against the last column of section 7. sites: in the roster."""
    n, d, nonce = sites, length, 32 if sites > 100 else 0
    body, trailer, exact = {
        "E0": (62, 64, False), "E0 reply": (103 + nonce, 64, True), "E1": (8 + (109 + nonce) * n, 64, False),
        "E1 reply": (35 if nonce else 67, 64, True), "E2": (8 + 34 * n, 64, False), "E2 reply": (67, 64, True),
        "R0": (144 + 3 * n + 65_536 + 64 * d, 64, False), "R1": (110 + 212 * n, 16, False),
        "R1p": (8 + 212 * n + 88 * n, 16, False), "R2": (word * (d + 4), 16, True), "BadShare": (8 + 3 * n, 16, False),
        "R3a": (74 + 3 * n, 16, False), "R3b": (8 + 72 * n, 16, False), "R3c": (8 + 72 * n, 16, False),
        "R4": (16 + 68 * n, 16, False), "R5": (150 + 3 * n + word * (d + 4), 16, False),
        "R5 reply": (1, 16, True), "Refusal": (2, 64, True), "E3": (35, 64, True), "R6": (35, 64, True),
        "": (-1000, 0, False),
    }[kind]  # fmt: skip
    greatest = 152 + body + trailer
    need(size == greatest if exact else size <= greatest, "MalformedMessage")


# --- checks of bytes -------------------------------------------------------------------------------------------------


def check(key: bytes, signature: bytes, purpose: str, *fields: Any) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, lp(LABEL, purpose, *fields))
    except InvalidSignature:
        raise Refused("BadSignature") from None


def opened(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(bytes(12), sealed, associated)
    except InvalidTag:
        raise Refused("BadSignature") from None


def agreed(secret: bytes, other: bytes) -> bytes:
    try:
        return exchange(secret, other)
    except ValueError:
        raise Refused("KeyRefused") from None


def check_distinct(keys: list[bytes]) -> None:
    points = {(int.from_bytes(key, "little") & (2**255 - 1)) % (2**255 - 19) for key in keys}
    need(len(points) == len(keys), "KeyRefused")


def ascending(ids: list[int], inside: list[int]) -> bool:
    return ids == sorted(set(ids) & set(inside))


def commitments(ctx1: bytes, dealer: int, holder: int, of_key: bytes, of_seed: bytes) -> list[bytes]:
    return [H("share-s", ctx1, dealer, holder, of_key), H("share-b", ctx1, dealer, holder, of_seed)]


def word(channel: bytes, ctx2: bytes, i: int, j: int, digest: bytes) -> bytes:
    """Return i's word to j that it saw the survivors of this hash: section 5."""
    both = kdf64(channel, ctx2, "confirm", min(i, j), max(i, j), digest)
    return both[:32] if i < j else both[32:]


def is_connected(survivors: list[int], near: Callable[[int, list[int]], list[int]]) -> bool:
    """Return whether the graph on the survivors is one piece."""
    seen, open_ = {survivors[0]}, [survivors[0]]
    while open_:
        found = set(near(open_.pop(), survivors)) - seen
        seen |= found
        open_ += found
    return len(seen) == len(survivors)


def summed(total: bytes, count: int, constants: dict[str, Any]) -> list[int]:
    """Return the D values of a published sum over `count` sites: section 8, "Sum"."""
    width = constants["modulus_bits"]
    size, half = 4 if width <= 32 else 8, 1 << (width - 1)
    need(len(total) == size * (constants["length"] + 4), "MalformedMessage")
    words = [int.from_bytes(total[at : at + size], "little", signed=True) for at in range(0, len(total), size)]
    need(-half <= min(words) and max(words) < half, "MalformedMessage")
    need([*words[:2], *words[-2:]] == [count, 0, count * constants["weight"], 0], "LaneMismatch")
    limit = constants["sites"] * constants["bound"] + constants["noise_bound"]
    need(max(map(abs, words[2:-2])) <= limit, "SumOutOfRange")
    return words[2:-2]
