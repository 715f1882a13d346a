"""Roster and charter: the documents that everybody signs before a study, and forms of them that nobody takes.

Written from docs/protocol.md, section 3; the roster's file is the TOML that people read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from reference import LABEL, H, config_hash, identity, lp, sha256, sign

SITES = (("clinic-a", "2027-03-31"), ("b", "2027-12-31"), ("c0", "2028-02-29"))
_SHORT = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
STUDY = {
    "name": 'Zähler \u2264 3 "a\\b"\n\t\x7f\U0001f600',  # what is escaped
    "privacy": {"noise": "distributed", "delta": 1e-05, "units": [1e16, 0.1, -0.0, 5e-324, 123456789.0, 64]},
    "protection": {"epoch_rounds": 64, "method": "masking", "profile": "cross_silo"},
    "sites": {"count": 3, "max_colluders": 1, "min_survivors": 3},
}


DISAGREEING = (  # with the constants, one at a time
    ("sites", "count", 4),
    ("sites", "min_survivors", 2),
    ("sites", "max_colluders", 0),
    ("protection", "method", "ckks"),
    ("protection", "profile", "cross_device"),
    ("privacy", "noise", "local"),
)


def charter_and_roster(constants: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Return a roster with its hash, a charter with its session and config hash, and every signature."""
    consortium, coordinator = b"\xc0" * 32, b"\xc8" * 32
    secrets = [bytes([1 + i]) * 32 for i in range(3)]
    rows = [[i, name, identity(secrets[i]), expires] for i, (name, expires) in enumerate(SITES)]
    canonical = lp(1, identity(consortium), rows)
    signature = sign(consortium, "roster", canonical)
    plain = _charter(constants(3, scale=1e16, noise_multiplier=1e-07), H("roster", canonical), coordinator)
    data = _json(plain)
    return {
        "protocol": LABEL,
        "what": "a roster, its bytes and hash; a charter, its bytes, session and config hash; all signatures",
        "roster": {
            "consortium_public_key": identity(consortium).hex(),
            "entries": [{"id": i, "name": name, "public_key": key.hex(), "expires": day} for i, name, key, day in rows],
            "signed_bytes": canonical.hex(),
            "hash": H("roster", canonical).hex(),
            "signature": signature.hex(),
            "file": _file(identity(consortium), signature, rows),
        },
        "charter": {
            "bytes": data.hex(),
            "constants": plain["constants"],
            "coordinator_public_key": plain["coordinator_public_key"],
            "nonce": plain["nonce"],
            "epoch_rounds": 64,
            "session": H("session", data).hex(),
            "config_hash": config_hash(plain["constants"]).hex(),
            "site_signatures": [sign(secret, "charter", data).hex() for secret in secrets],
            "coordinator_signature": sign(coordinator, "charter", data).hex(),
        },
    }


def bad_charters(constants: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Return charter bytes that no site signs: another form of the same values, or values that do not fit."""
    plain = _charter(constants(3), sha256(b"roster"), b"\xc8" * 32)
    honest = _json(plain)
    cases = [
        ("a space", honest.replace(b",", b", ", 1)),
        ("a line's end behind it", honest + b"\n"),
        ("keys out of order", json.dumps(dict(sorted(plain.items(), reverse=True)), separators=(",", ":")).encode()),
        ("a key twice", b'{"format":1,' + honest[1:]),
        ("text that is not escaped", honest.replace(b"\\u2264", "\u2264".encode())),
        ("an escape in capitals", honest.replace(b"\\u00e4", b"\\u00E4")),
        ("a whole real without its point", honest.replace(b'"scale":64.0', b'"scale":64')),
        ("a real with a digit too many", honest.replace(b'"scale":64.0', b'"scale":64.00')),
        ("a real in another form", honest.replace(b'"scale":64.0', b'"scale":6.4e1')),
        ("an integer as a real", honest.replace(b'"bound":1000', b'"bound":1000.0')),
        ("not a number", honest.replace(b'"scale":64.0', b'"scale":NaN')),
        ("hex in capitals", _json(plain | {"nonce": plain["nonce"].upper()})),
        ("a nonce of 15 bytes", _json(plain | {"nonce": plain["nonce"][2:]})),
        ("another protocol", _json(plain | {"protocol": "secure_frl/secagg/v2"})),
        ("a later format", _json(plain | {"format": 2})),
        ("a further key", _json(plain | {"more": 0})),
        ("a key missing", _json({key: value for key, value in plain.items() if key != "nonce"})),
        ("a further constant", _json(plain | {"constants": plain["constants"] | {"more": 0}})),
        ("65 rounds an epoch", _json(plain | {"study": _with("protection", "epoch_rounds", 65)})),
        *((f"another {one[1]} in the study", _json(plain | {"study": _with(*one)})) for one in DISAGREEING),
    ]
    assert all(data != honest for _, data in cases)
    return [{"name": name, "charter": data.hex(), "error": "CharterRefused"} for name, data in cases]


def _charter(constants: dict[str, Any], roster_hash: bytes, coordinator: bytes) -> dict[str, Any]:
    return {
        "constants": constants, "coordinator_public_key": identity(coordinator).hex(), "format": 1,
        "nonce": bytes(range(0xA0, 0xB0)).hex(), "protocol": LABEL, "roster_hash": roster_hash.hex(), "study": STUDY,
    }  # fmt: skip


def _with(section: str, key: str, value: object) -> dict[str, Any]:
    return STUDY | {section: STUDY[section] | {key: value}}


def _json(value: object) -> bytes:
    """Return canonical JSON: sorted keys, no spaces, ASCII, reals as Python's repr."""
    if isinstance(value, dict):
        pairs = sorted(value.items())
        return b"{" + b",".join(_json(key) + b":" + _json(entry) for key, entry in pairs) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(_json, value)) + b"]"
    if isinstance(value, str):
        return b'"' + "".join(map(_escaped, value)).encode() + b'"'
    return repr(value).encode()


def _escaped(character: str) -> str:
    if character in _SHORT:
        return "\\" + _SHORT[character]
    if " " <= character <= "~":
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _file(consortium: bytes, signature: bytes, rows: list[list[Any]]) -> str:
    text = f'format = 1\nconsortium_public_key = "{consortium.hex()}"\nsignature = "{signature.hex()}"\n'
    for i, name, key, expires in rows:
        text += f'\n[[site]]\nid = {i}\nname = "{name}"\npublic_key = "{key.hex()}"\nexpires = {expires}\n'
    return text
