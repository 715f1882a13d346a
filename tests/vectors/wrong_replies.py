"""Messages that must be refused, made by somebody with valid keys: replies, charters, shares, dealers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from frames import Frames
from reference import ZERO, Round, sha256
from wrong_requests import FOREIGN_IDENTITY, Case, flip

# --- to the coordinator ----------------------------------------------------------------------------------------------


def to_coordinator(base: Round) -> list[dict[str, Any]]:
    """Return the cases: replies that differ from the base round's, and what comes of it.

    replies: by stage of the request; null is silence. error with a site: that site is out, the others go on; with
    abort_at: closing that stage ends the round.
    """
    f, cases = Frames(base), []

    def out(name: str, stage: str, site: int, reply: bytes, error: str) -> None:
        replies = [{"stage": stage, "site": site, "reply": reply.hex()}]
        cases.append({"name": name, "replies": replies, "error": error, "site": site})

    def abort(name: str, stage: str, replies: dict[int, bytes | None], at: str, error: str) -> None:
        listed = [{"stage": stage, "site": i, "reply": None if r is None else r.hex()} for i, r in replies.items()]
        cases.append({"name": name, "replies": listed, "error": error, "abort_at": at})

    _bad_keys(f, out)
    _bad_inputs(f, out)
    _bad_shares(f, out)
    abort("two sites answer no E0", "E0", {3: None, 4: None}, "E0", "TooFewSurvivors")
    abort("two sites answer no R0", "R0", {3: None, 4: None}, "R0", "TooFewSurvivors")
    abort("two sites send no masked input", "R1p", {3: None}, "R1p", "TooFewSurvivors")
    abort("one of four sends no confirmation", "R3a", {3: None}, "R3a", "TooFewShares")
    abort("one of four returns no shares", "R3c", {3: None}, "R3c", "TooFewShares")
    twice = base.plain_words(3)
    abort("a masked input that counts twice", "R1p", {3: f.r2(3, [2, *twice[1:]])}, "R3c", "LaneMismatch")
    huge = f.r2(3, [*twice[:2], 1 << 20, *twice[3:]])
    abort("a masked input far beyond the bound", "R1p", {3: huge}, "R3c", "SumOutOfRange")
    return cases


def _bad_keys(f: Frames, out: Case) -> None:
    r = f.round
    key, _, signature = f.entry(4)[1:]
    out("E0 reply with another signature", "E0", 4, f.signed("E0 reply", 4, [key, b"", bytes(64)]), "BadSignature")
    out("E0 reply with a low-order key", "E0", 4, f.signed("E0 reply", 4, f.entry(4, ZERO)[1:]), "KeyRefused")
    out("E0 reply with another site's key", "E0", 4, f.signed("E0 reply", 4, f.entry(4, r.c_pk[0])[1:]), "KeyRefused")
    odd = f.signed("E0 reply", 4, [key, b"\x01", signature])
    out("E0 reply with a nonce commitment", "E0", 4, odd, "MalformedMessage")
    out("E1 reply over another epoch's hash", "E1", 4, f.signed("E1 reply", 4, [f.entry(4)[3]]), "BadSignature")
    body = f.r1_body(4)

    def r1(name: str, changed: Any, error: str) -> None:
        out(f"R1 {name}", "R0", 4, f.sealed("R1", 4, changed), error)

    r1("with a low-order mask key", [ZERO, *body[1:]], "KeyRefused")
    r1("with another site's mask key", [r.s_pk[0], *body[1:]], "KeyRefused")
    r1("with a channel key of the epoch", [r.c_pk[1], *body[1:]], "KeyRefused")
    r1("with one neighbour missing", [*body[:3], body[3][1:]], "MalformedMessage")
    r1("with shares for itself", [*body[:3], [*body[3], [4, *body[3][0][1:]]]], "MalformedMessage")
    r1("with neighbours out of order", [*body[:3], body[3][::-1]], "MalformedMessage")
    r1(
        "with a sealed pair one byte short",
        [*body[:3], [[*body[3][0][:3], bytes(143)], *body[3][1:]]],
        "MalformedMessage",
    )
    plain = f.plain("R1", body)
    r1("with a length not in its shortest form", plain.replace(b"\xc4\x20", b"\xc5\x00\x20", 1), "MalformedMessage")
    r1("with half a record behind", plain[:-106], "MalformedMessage")
    honest = f.r1(4)
    out("R1 with one bit changed", "R0", 4, flip(honest, 300), "BadSignature")
    out("R1 cut short", "R0", 4, honest[:-1], "MalformedMessage")
    stated = f.sealed("R1", 4, body, size=len(plain) + 1)
    out("R1 whose header states another length", "R0", 4, stated, "MalformedMessage")
    out("R1 of another site", "R0", 4, f.r1(3), "UnexpectedMessage")
    out("R1 of another attempt", "R0", 4, f.sealed("R1", 4, body, attempt=1), "UnexpectedMessage")
    out("R2 in place of R1", "R0", 4, f.r2(4), "UnexpectedMessage")


def _bad_inputs(f: Frames, out: Case) -> None:
    r, honest = f.round, f.r2(4)
    words = struct.unpack("<10I", r.masked(4))
    beyond = struct.pack("<10I", *words[:9], words[9] | 1 << 24)
    out("R2 with a word of 2^w", "R1p", 4, f.r2(4, raw=beyond), "MalformedMessage")
    out("R2 with one bit changed", "R1p", 4, flip(honest, 160), "BadSignature")
    out("R2 one word short", "R1p", 4, f.r2(4, raw=r.masked(4)[:-4]), "MalformedMessage")
    moved = f.head("R2", 4, 40, b"\x09" * 32, down=False) + honest[152:]
    out("R2 with other fresh bytes", "R1p", 4, moved, "UnexpectedMessage")
    out("a complaint", "R1p", 4, f.sealed("BadShare", 4, [[1, 3]]), "BadShare")
    for name, dealers in (("nobody", []), ("its sender", [4]), ("a stranger", [9]), ("a dealer twice", [1, 1])):
        out(f"a complaint about {name}", "R1p", 4, f.sealed("BadShare", 4, [dealers]), "MalformedMessage")
    request = f.r1p(4)
    out("a refusal", "R1p", 4, f.refusal(request, 4, "AlreadyAnswered"), "AlreadyAnswered")
    out("a refusal of another request", "R1p", 4, f.refusal(f.r0(4), 4, "AlreadyAnswered"), "MalformedMessage")
    fields = {"epoch": r.epoch, "round": r.number, "attempt": r.attempt}
    foreign = f.signed("Refusal", 4, [12], sha256(request), by=FOREIGN_IDENTITY, **fields)
    out("a refusal signed by another", "R1p", 4, foreign, "BadSignature")
    unknown = f.signed("Refusal", 4, [127], sha256(request), **fields)
    out("a refusal with an unknown code", "R1p", 4, unknown, "MalformedMessage")


def _bad_shares(f: Frames, out: Case) -> None:
    items = [f.confirmation(4, j) for j in (0, 1, 3)]
    out("R3b with one item missing", "R3a", 4, f.sealed("R3b", 4, [items[1:]]), "MalformedMessage")
    out("R3b in another's name", "R3a", 4, f.sealed("R3b", 4, [[[1, *items[0][1:]], *items[1:]]]), "MalformedMessage")
    seeds, keys = f.r4_body(4)

    def r4(name: str, seeds: list[Any], keys: list[Any], error: str) -> None:
        out(f"R4 {name}", "R3c", 4, f.sealed("R4", 4, [seeds, keys]), error)

    r4("with a share that was not dealt", [[0, bytes(64)], *seeds[1:]], keys, "HolderCheated")
    r4("with a key share that was not dealt", seeds, [[2, bytes(64)]], "HolderCheated")
    r4("with a word of 65537", [[0, struct.pack("<16I", *[65_537] * 16)], *seeds[1:]], keys, "MalformedMessage")
    r4("with one share missing", seeds[1:], keys, "MalformedMessage")
    r4("with both kinds for one site", seeds, [*keys, [3, seeds[2][1]]], "MalformedMessage")


# --- charters, shares, dealers --------------------------------------------------------------------------------------


def constants(make: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Return constants that no site may sign; each breaks one rule of an honest charter of five."""
    rules: list[tuple[str, dict[str, Any], str]] = [
        ("a threshold of 2", {"threshold": 2, "max_colluders": 1, "honest_shares": 3}, "CharterRefused"),
        ("2t = n + c", {"threshold": 3, "max_colluders": 1, "honest_shares": 3}, "CharterRefused"),
        ("t = c", {"threshold": 4, "max_colluders": 4, "honest_shares": 0}, "CharterRefused"),
        ("no colluder assumed", {"max_colluders": 0, "honest_shares": 4}, "CharterRefused"),
        ("min_survivors below t", {"min_survivors": 3, "honest_shares": 1}, "CharterRefused"),
        ("min_survivors above n", {"min_survivors": 6, "honest_shares": 4}, "CharterRefused"),
        (
            "one honest share of noise",
            {"max_colluders": 3, "threshold": 5, "min_survivors": 5, "honest_shares": 1},
            "CharterRefused",
        ),
        ("h that is not min_survivors - c", {"honest_shares": 3}, "CharterRefused"),
        ("two sites", {"sites": 2, "neighbours": 1}, "CharterRefused"),
        ("an unknown protection", {"protection": "none"}, "CharterRefused"),
        ("a complete graph with fewer neighbours", {"neighbours": 3}, "CharterRefused"),
        ("no values", {"length": 0}, "CharterRefused"),
        ("weight 0", {"weight": 0}, "CharterRefused"),
        ("a sum of 2^(w-1)", {"modulus_bits": 14, "noise_bound": 8192 - 5000}, "BitBudget"),
        ("a weight lane of 2^(w-1)", {"modulus_bits": 24, "weight": 1_677_722}, "BitBudget"),
        ("65 bits", {"modulus_bits": 65}, "BitBudget"),
    ]
    return [{"name": name, "constants": make(5, **changes), "error": error} for name, changes, error in rules]


def shares() -> list[dict[str, Any]]:
    """Return shares that do not decode and share sets that do not rebuild a secret."""
    top = struct.pack("<16I", *[65_536] * 16)
    one = struct.pack("<16I", *[65_537] + [0] * 15)
    return [
        {"name": "a word of 65537", "share": one.hex(), "error": "MalformedMessage"},
        {"name": "63 bytes", "share": bytes(63).hex(), "error": "MalformedMessage"},
        {"name": "65 bytes", "share": bytes(65).hex(), "error": "MalformedMessage"},
        {"name": "a rebuilt word of 65536", "rebuild": {"0": top.hex()}, "error": "MalformedMessage"},
    ]


def dealers(base: Round) -> dict[str, dict[tuple[str, int], list[int]]]:
    """Return what a cheating dealer shares in place of its secret's words."""
    other = list(range(1, 17))
    assert base.silent_r2 == (2,)
    return {
        "other_seed": {("seed", 3): other},
        "other_key": {("key", 2): other},
        "seed_word_65536": {("seed", 3): [65_536, *other[1:]]},
    }
