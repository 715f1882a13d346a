"""Messages that must be refused, made by somebody with valid keys: requests that a site refuses."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable
from typing import Any

from frames import Frames
from reference import ZERO, H, Round, gcm, lp, pack, records, sha256, share

FOREIGN_IDENTITY = b"\x5e" * 32
FOREIGN_KEY = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")  # RFC 7748, Alice
NONE = "unchanged"  # what becomes of the attempt at the site
LEFT, CLOSED = "left", "closed"


def flip(frame: bytes, at: int) -> bytes:
    return frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]


# --- to a site -------------------------------------------------------------------------------------------------------


def to_site(base: Round, parts: tuple[Callable[..., None], ...] = ()) -> list[dict[str, Any]]:
    """Return the cases for site 0 of the base round. after: the last stage that it has answered, or null."""
    f, cases = Frames(base), []

    def case(name: str, after: str | None, frame: bytes, error: str, then: str = NONE, **more: Any) -> None:
        cases.append({"name": name, "after": after, "request": frame.hex(), "error": error, "then": then} | more)
        if error != "BadShare":
            cases[-1]["reply"] = f.refusal(frame, 0, error).hex()

    for part in parts or (_frames, _epoch, _announcement, _members, _survivors, _confirmations, _sum):
        part(f, case)
    return cases


Case = Callable[..., None]


def _frames(f: Frames, case: Case) -> None:
    honest, r1p = f.e0(0), f.r1p(0)
    case("frame shorter than a header", None, honest[:100], "MalformedMessage")
    case("empty frame", None, b"", "MalformedMessage")
    case("other magic", None, b"SFS2" + honest[4:], "MalformedMessage")
    case("reserved byte set", None, honest[:6] + b"\x01" + honest[7:], "MalformedMessage")
    case("unknown type 33", None, honest[:4] + b"\x21" + honest[5:], "MalformedMessage")
    case("longer than E0 may be", None, honest + bytes(100), "MalformedMessage")
    case("cut short", None, honest[:-1], "MalformedMessage")
    case("bytes left over", None, honest + b"\x00", "MalformedMessage")
    fields = [1, f.round.coordinator_c_pk, 1, f.round.study.expiry_s]
    case("a fifth field", None, f.signed("E0", 0, [*fields, 0]), "MalformedMessage")
    case("a field missing", None, f.signed("E0", 0, fields[:3]), "MalformedMessage")
    case("bytes after the array", None, f.signed("E0", 0, pack(fields) + b"\xc0"), "MalformedMessage")
    case("a key of 31 bytes", None, f.signed("E0", 0, [1, bytes(31), 1, fields[3]]), "MalformedMessage")
    negative = b"\x94\xff" + pack(fields)[2:]
    case("a negative number", None, f.signed("E0", 0, negative), "MalformedMessage")
    case("one bit of the signature", None, flip(honest, len(honest) - 1), "BadSignature")
    case("signed by another key", None, f.signed("E0", 0, fields, by=FOREIGN_IDENTITY), "BadSignature")
    case("another session", None, f.signed("E0", 0, fields, session=b"\x09" * 32), "UnexpectedMessage")
    case("another sender", None, f.signed("E0", 0, fields, sender=1), "UnexpectedMessage")
    case("another receiver", None, f.signed("E0", 0, fields, receiver=1), "UnexpectedMessage")
    case("a CKKS key id", None, f.signed("E0", 0, fields, key_id=b"\x01" * 32), "UnexpectedMessage")
    case("a reply sent to a site", None, f.r1(0), "UnexpectedMessage")
    case("R0 before any epoch", None, f.r0(0), "UnexpectedMessage")
    case("R1' before any round", "E1", r1p, "UnexpectedMessage")
    case("R3a in place of R1'", "R0", f.r3a(0), "UnexpectedMessage")
    case("R3c in place of R3a", "R1p", f.r3c(0), "UnexpectedMessage")
    for field, value in (("epoch", 2), ("round", 2), ("attempt", 1), ("fresh", b"\x09" * 32)):
        case(f"R1' with another {field}", "R0", f.r1p(0, **{field: value}), "UnexpectedMessage")
    case("R1' with one bit changed", "R0", flip(r1p, 200), "BadSignature")
    rows = f.round.member_rows
    listed = lp(*rows)
    case("R1' with one bit of its list changed", "R0", flip(r1p, len(r1p) - 1), "BadSignature")
    case("R1' with an id of its list changed", "R0", flip(r1p, len(r1p) - len(listed) + 15), "BadSignature")
    case("R1' with another list than its tag covers", "R0", r1p[: -len(listed)] + lp(*rows[:-1]), "BadSignature")
    case("R1' without its list", "R0", r1p[: -len(listed)], "BadSignature")
    case("R1' with more rows than sites", "R0", r1p + listed, "MalformedMessage")
    empty = f.sealed("R1p", 0, b"\xc0", H("U2", listed)) + listed
    case("R1' sealed but no body", "R0", empty, "MalformedMessage")


def _epoch(f: Frames, case: Case) -> None:
    r = f.round
    key, first, expiry = r.coordinator_c_pk, 1, r.study.expiry_s
    case(
        "E0 with another epoch in its header", None, f.signed("E0", 0, [1, key, first, expiry], epoch=2), "EpochRefused"
    )
    case("E0 of epoch 0", None, f.signed("E0", 0, [0, key, first, expiry], epoch=0), "EpochRefused")
    case("E0 from round 0", None, f.e0(0, first_round=0), "EpochRefused")
    case("E0 that has expired", None, f.e0(0, expiry=r.study.clock_s), "EpochRefused")
    case("E0 for more than a day", None, f.e0(0, expiry=r.study.clock_s + 86_401), "EpochRefused")
    case("E0 of the same epoch again", "E1", f.e0(0, expiry=expiry - 1), "EpochRefused")
    late = f.signed("E0", 0, [2, key, 1, expiry], epoch=2)
    case("E0 from a round in which survivors were confirmed", "R3a", late, "EpochRefused")
    honest = [f.entry(i) for i in r.cohort]

    def changed(i: int, entry: list[Any]) -> list[Any]:
        return [entry if other[0] == i else other for other in honest]

    case(
        "E1 with a key that its owner has not signed",
        "E0",
        f.e1(0, changed(1, [1, FOREIGN_KEY, b"", honest[1][3]])),
        "BadSignature",
    )
    case(
        "E1 with an entry signed for another epoch",
        "E0",
        f.e1(0, changed(1, f.entry(1, FOREIGN_KEY, epoch=2))),
        "BadSignature",
    )
    case("E1 with another key for this site", "E0", f.e1(0, changed(0, f.entry(0, FOREIGN_KEY))), "RosterRefused")
    case("E1 without this site", "E0", f.e1(0, honest[1:]), "RosterRefused")
    case("E1 with fewer than min_survivors", "E0", f.e1(0, honest[:3]), "RosterRefused")
    case("E1 out of order", "E0", f.e1(0, honest[::-1]), "RosterRefused")
    case("E1 with more entries than sites", "E0", f.e1(0, [*honest, honest[-1]]), "MalformedMessage")
    case("E1 with a site twice", "E0", f.e1(0, [*honest[:4], honest[3]]), "RosterRefused")
    case("E1 with a site that is not enrolled", "E0", f.e1(0, [*honest[:4], [9, *honest[4][1:]]]), "RosterRefused")
    case("E1 with a key of low order", "E0", f.e1(0, changed(2, f.entry(2, ZERO))), "KeyRefused")
    case("E1 with two equal keys", "E0", f.e1(0, changed(2, f.entry(2, r.c_pk[1]))), "KeyRefused")
    other = r.c_pk[1][:31] + bytes([r.c_pk[1][31] ^ 0x80])
    case("E1 with one key in two encodings", "E0", f.e1(0, changed(2, f.entry(2, other))), "KeyRefused")
    case("E1 with the coordinator's key for a site", "E0", f.e1(0, changed(2, f.entry(2, key))), "KeyRefused")
    case("E1 of another epoch", "E0", f.e1(0, epoch=2), "EpochRefused")
    case("E1 after the epoch has expired", "E0", f.e1(0), "EpochRefused", clock_s=expiry)


def nonces(f: Frames, case: Case) -> None:
    """What only cross_device has: commitments to nonces, and cohorts of one size."""
    shown = f.round.nonces
    case("E2 before E1", "E0", f.e2(0), "AlreadyAnswered")
    case("E2 with a nonce that its site did not commit to", "E1", f.e2(0, [*shown[:-1], ZERO]), "EpochRefused")
    case("E2 with one nonce missing", "E1", f.e2(0, shown[:-1]), "EpochRefused")
    case("E2 with two nonces exchanged", "E1", f.e2(0, [*shown[:-2], *shown[:-3:-1]]), "EpochRefused")
    case("E2 with a nonce of 31 bytes", "E1", f.e2(0, [*shown[:-1], bytes(31)]), "MalformedMessage")
    case("another E2", "E2", f.e2(0, [*shown[:-1], ZERO]), "AlreadyAnswered")
    case("R0 before E2", "E1", f.r0(0), "UnexpectedMessage")
    case("R0 with a cohort of fewer than n", "E2", f.r0(0, cohort=f.round.cohort[:-1]), "RoundRefused")


def _announcement(f: Frames, case: Case) -> None:
    for name, cohort in (
        ("without this site", [1, 2, 3, 4]),
        ("out of order", [1, 0, 2, 3, 4]),
        ("below min_survivors", [0, 1, 2]),
        ("with a site outside the epoch", [0, 1, 2, 9]),
        ("with a site twice", [0, 0, 1, 2, 3]),
    ):
        case(f"R0 with a cohort {name}", "E1", f.r0(0, cohort=cohort), "RoundRefused")
    case("R0 with other constants", "E1", f.r0(0, config=b"\x09" * 32), "RoundRefused")
    case("R0 beyond the epoch's rounds", "E1", f.r0(0, numbers={"round": 65}), "RoundRefused")
    case("R0 of another epoch", "E1", f.r0(0, numbers={"epoch": 2}), "RoundRefused")
    case("R0 after the epoch has expired", "E1", f.r0(0), "RoundRefused", clock_s=f.round.study.expiry_s)
    case("R0 with other fresh bytes in header and body", "E1", f.r0(0, fresh=b"\x09" * 32), "RoundRefused")
    case("R0 with another digest than its sealed part's", "E1", f.r0(0, digest=b"\x09" * 32), "RoundRefused")
    case("R0 with bytes behind that were not announced", "E1", f.r0(0) + b"\x00", "RoundRefused")
    case("R0 with a model of another tag", "E1", f.r0(0, b"another model"), "RoundRefused")
    case("R0 with a tag that this site does not hold", "E1", f.r0(0, tag=b"\x09" * 32), "ModelMissing")
    garbled = flip(f.r0(0, b"first model"), len(f.r0(0, b"first model")) - 1)
    sealed = garbled[-(len(b"first model") + 16) :]
    opened = f.r0(0, digest=sha256(sealed)) + sealed
    case("R0 with a model that does not open", "E1", opened, "BadSignature")
    case("R0 signed by another key", "E1", f.r0(0, by=FOREIGN_IDENTITY), "BadSignature")
    case("another R0 of the same attempt", "R0", f.r0(0, cohort=[0, 1, 2, 3]), "AlreadyAnswered")
    case("R0 of round 0", "E1", f.r0(0, numbers={"round": 0}), "AlreadyAnswered")
    case("the next attempt after survivors were confirmed", "R3a", f.r0(0, numbers={"attempt": 1}), "AlreadyAnswered")
    case("R0 after a restart", "R0", f.r0(0), "AlreadyAnswered", restarts=True)


def _members(f: Frames, case: Case) -> None:
    r, rows, mail = f.round, f.round.member_rows, f.inbox(0)

    def listed(i: int, key: bytes) -> list[Any]:
        return [[i, key, row[2]] if row[0] == i else row for row in rows]

    case("R1' with another key for this site", "R0", f.r1p(0, listed(0, FOREIGN_KEY)), "RosterRefused", LEFT)
    case("R1' without this site", "R0", f.r1p(0, rows[1:]), "RosterRefused", LEFT)
    case("R1' with fewer than min_survivors", "R0", f.r1p(0, rows[:3], mail[:2]), "RosterRefused", LEFT)
    case("R1' out of order", "R0", f.r1p(0, rows[::-1]), "RosterRefused", LEFT)
    strange = [*rows[:-1], [9, FOREIGN_KEY, ZERO]]
    case("R1' with a site outside the cohort", "R0", f.r1p(0, strange), "RosterRefused", LEFT)
    packed = lp(*rows)
    case("R1' with half a row", "R0", f.r1p(0, packed=packed[:-44]), "MalformedMessage", LEFT)
    case("R1' with a row of another length", "R0", f.r1p(0, packed=flip(packed, 3)), "MalformedMessage", LEFT)
    case("R1' with an id beyond all", "R0", f.r1p(0, packed=flip(packed, 8)), "MalformedMessage", LEFT)
    case("R1' with half an item", "R0", f.r1p(0, inbox=records(mail)[:-106]), "MalformedMessage", LEFT)
    case("R1' with no members", "R0", f.r1p(0, packed=b""), "RosterRefused", LEFT)
    case("R1' with an item missing", "R0", f.r1p(0, inbox=mail[1:]), "RosterRefused", LEFT)
    case("R1' with an item twice", "R0", f.r1p(0, inbox=[mail[0], *mail[:-1]]), "RosterRefused", LEFT)
    case("R1' with items out of order", "R0", f.r1p(0, inbox=mail[::-1]), "RosterRefused", LEFT)
    case("R1' with two equal keys", "R0", f.r1p(0, listed(1, r.s_pk[2])), "KeyRefused", LEFT)
    case("R1' with a channel key of the epoch as mask key", "R0", f.r1p(0, listed(1, r.c_pk[2])), "KeyRefused", LEFT)
    low = copy.copy(r)
    low.s_pk = [ZERO if i == 1 else key for i, key in enumerate(r.s_pk)]
    agreed = [[1, *Frames(low).dealt(1, 0)], *mail[1:]]
    case(
        "R1' with a mask key of low order whose dealer agrees",
        "R0",
        f.r1p(0, listed(1, ZERO), agreed),
        "KeyRefused",
        LEFT,
    )
    for name, bad in (
        ("that does not open", [*mail[1][:3], bytes(144)]),
        ("that is not the committed one", [2, *f.dealt(2, 0, lie=True)]),
        ("moved from another dealer", [2, *mail[2][1:]]),
        ("with a word of 65537", _out_of_range(r)),
    ):
        reply = f.sealed("BadShare", 0, [[2]]).hex()
        frame = f.r1p(0, inbox=[mail[0], bad, *mail[2:]])
        case(f"a share {name}", "R0", frame, "BadShare", LEFT, reply=reply, blamed=[2])
    case("another R1' of the same attempt", "R1p", f.r1p(0, inbox=mail[1:]), "AlreadyAnswered")
    case("R1' after a restart", "R0", f.r1p(0), "AlreadyAnswered", restarts=True)


def _out_of_range(r: Round) -> list[Any]:
    of_key = struct.pack("<I", 65_537) + share(r.rows["key", 2], 0)[4:]
    of_seed = share(r.rows["seed", 2], 0)
    g, h = H("share-s", r.ctx1, 2, 0, of_key), H("share-b", r.ctx1, 2, 0, of_seed)
    return [2, g, h, gcm(r.share_key(2, 0), of_key + of_seed, lp(2, 0, g, h))]


def _survivors(f: Frames, case: Case) -> None:
    for name, survivors in (
        ("fewer than min_survivors", [0, 1, 3]),
        ("without this site", [1, 2, 3, 4]),
        ("with a site that is no member", [0, 1, 2, 9]),
        ("out of order", [1, 0, 3, 4]),
        ("with a site twice", [0, 1, 3, 3]),
    ):
        case(f"R3a {name}", "R1p", f.r3a(0, survivors), "SurvivorsRefused", LEFT)
    case("R3a whose list another key has signed", "R1p", f.r3a(0, by=FOREIGN_IDENTITY), "BadSignature", LEFT)
    case("R3a with another set after the first", "R3a", f.r3a(0, [0, 1, 2, 3, 4]), "AlreadyAnswered")
    case("R3a after a restart", "R1p", f.r3a(0), "AlreadyAnswered", restarts=True)
    case("R3a with another set after a restart", "R3a", f.r3a(0, [0, 1, 2, 3, 4]), "AlreadyAnswered", restarts=True)


def _confirmations(f: Frames, case: Case) -> None:
    mail = [f.confirmation(j, 0) for j in (1, 3, 4)]
    forged = [[*item[:3], ZERO] for item in mail]
    case("R3c with half an item", "R3a", f.r3c(0, records(mail)[:-36]), "MalformedMessage", LEFT)
    case("R3c with too few", "R3a", f.r3c(0, mail[:2]), "TooFewConfirmations", LEFT)
    case("R3c with forged ones", "R3a", f.r3c(0, forged), "TooFewConfirmations", LEFT)
    case("R3c with one three times", "R3a", f.r3c(0, [mail[0]] * 3), "TooFewConfirmations", LEFT)
    case("R3c with one reflected", "R3a", f.r3c(0, [f.confirmation(0, 1), *mail[1:]]), "TooFewConfirmations", LEFT)
    case(
        "R3c with one for another site", "R3a", f.r3c(0, [f.confirmation(1, 3), *mail[1:]]), "TooFewConfirmations", LEFT
    )
    lost = f.confirmation(2, 0)
    case("R3c with one of a lost site", "R3a", f.r3c(0, [mail[0], lost, mail[1]]), "TooFewConfirmations", LEFT)
    two = [f.confirmation(1, 0, [0, 1, 2, 3, 4]), *mail[1:]]
    case("R3c with a valid one over another set", "R3a", f.r3c(0, two), "Equivocation", LEFT)
    case("R3c after a restart", "R3a", f.r3c(0), "AlreadyAnswered", restarts=True)
    case("another R3c of the same attempt", "R3c", f.r3c(0, mail[:2]), "AlreadyAnswered")


def _sum(f: Frames, case: Case) -> None:
    r = f.round
    n, honest = len(r.survivors), r.totals

    def total(front: list[int], inner: list[int], back: list[int]) -> bytes:
        return r.signed_words([*front, *inner, *back])

    case("R5 whose list another key has signed", "R3c", f.r5(0, by=FOREIGN_IDENTITY), "BadSignature", CLOSED)
    case("R5 over other survivors", "R3c", f.r5(0, survivors=[0, 1, 2, 3]), "SurvivorsRefused", CLOSED)
    case("R5 over too few survivors", "R1p", f.r5(0, survivors=[0, 1, 3]), "SurvivorsRefused", CLOSED)
    case("R5 with another transcript", "R3c", f.r5(0, transcript=b"\x09" * 32), "SurvivorsRefused", CLOSED)
    case("R5 over other survivors before R3c", "R3a", f.r5(0, survivors=[0, 1, 2, 3]), "SurvivorsRefused", CLOSED)
    case("R5 with another transcript before R3a", "R1p", f.r5(0, transcript=b"\x09" * 32), "SurvivorsRefused", CLOSED)
    case("R5 with another transcript before R3c", "R3a", f.r5(0, transcript=b"\x09" * 32), "SurvivorsRefused", CLOSED)
    case("R5 one word short", "R3c", f.r5(0, total=r.sum_bytes[:-4]), "MalformedMessage", CLOSED)
    wide = total([n, 0], [1 << 23, *honest[1:]], [n, 0])
    case("R5 with a word that is not centred", "R3c", f.r5(0, total=wide), "MalformedMessage", CLOSED)
    for name, front, back in (
        ("count", [n + 1, 0], [n, 0]),
        ("first zero", [n, 1], [n, 0]),
        ("weight", [n, 0], [n - 1, 0]),
        ("last zero", [n, 0], [n, -1]),
    ):
        case(f"R5 with another {name} lane", "R3c", f.r5(0, total=total(front, honest, back)), "LaneMismatch", CLOSED)
    limit = 5 * 1000 + 50
    for name, value in (("above", limit + 1), ("below", -limit - 1)):
        beyond = total([n, 0], [value, *honest[1:]], [n, 0])
        case(f"R5 with a value {name} the bound", "R3c", f.r5(0, total=beyond), "SumOutOfRange", CLOSED)
    case("R5 with a tag that does not follow", "R3c", f.r5(0, tag=b"\x09" * 32), "ModelDoesNotFollow", CLOSED)
    case("another R5 of a closed round", "R5", f.r5(0, tag=b"\x09" * 32), "AlreadyAnswered")
