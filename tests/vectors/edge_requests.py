"""Requests at the edge of a rule, made by somebody with valid keys: each breaks one rule alone, or just keeps it.

Each case names the round that it starts from. first: what is sent before it; next: what is sent after it, which shows
what is left of the attempt.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from frames import Frames
from reference import ZERO, H, Round, Study, gcm, lp, pack, sha256, share, sign
from wrong_requests import CLOSED, FOREIGN_IDENTITY, LEFT, NONE

FIVE, ABSENT, SPARSE, FEWER = "ok_round_5_one_lost", "ok_round_5_absent", "ok_site_0_of_101", "ok_site_0_of_101_22_lost"
PRIME = 2**255 - 19
LOW_ORDER = {  # RFC 7748, section 6.1, and the encodings of the same points that a sender never writes
    "u = 1": 1, "u = p - 1": PRIME - 1, "u = 0 as p": PRIME, "u = 1 as p + 1": PRIME + 1, "u = 0 with bit 255": 2**255,
    "order 8": 325606250916557431795983626356110631294008115727848805560023387167927233504,
}  # fmt: skip
GAP = range(20, 31)  # eleven places of the circle: as many as the graph reaches
OTHERS = range(40, 84, 4)  # eleven more, each alone
TWELVE = [*range(41, 46), *range(57, 64)]  # neighbours of the site at 52, which keeps ten and itself


def fewer(study: Study, values: list[list[int]]) -> Round:
    """Return a round in which as many get lost as may be: a gap as wide as the graph reaches, and others alone."""
    whole = Round(study, values)
    return Round(study, values, silent_r2=_sites(whole, [*GAP, *OTHERS]))


def _sites(r: Round, places: Iterable[int]) -> tuple[int, ...]:
    """Return the sites at places of the circle, counted from site 0's."""
    return tuple(sorted(r.order[(r.place[0] + place) % len(r.order)] for place in places))


class _Cases:
    """Collects cases of one file."""

    def __init__(self, bases: dict[str, Round]) -> None:
        self.frames = {name: Frames(base) for name, base in bases.items()}
        self.listed: list[dict[str, Any]] = []
        self.base = FIVE

    @property
    def f(self) -> Frames:
        return self.frames[self.base]

    def refused(self, name: str, after: str | None, frame: bytes, error: str, then: str = NONE, **more: Any) -> None:
        self.taken(name, after, frame, self.f.refusal(frame, 0, error), error=error, then=then, **more)

    def taken(self, name: str, after: str | None, frame: bytes, reply: bytes, **more: Any) -> None:
        exchange = {"request": frame.hex(), "reply": reply.hex()}
        self.listed.append({"name": name, "base": self.base, "after": after} | exchange | more)

    def said(self, frame: bytes, error: str, **more: Any) -> dict[str, Any]:
        return {"request": frame.hex(), "reply": self.f.refusal(frame, 0, error).hex()} | more


# --- what is refused -------------------------------------------------------------------------------------------------


def to_site(bases: dict[str, Round]) -> list[dict[str, Any]]:
    """Return requests that site 0 refuses."""
    cases = _Cases(bases)
    for part in (_epoch, _nonces, _announcement, _members, _confirmations, _sums, _sparse, _left):
        cases.base = FIVE
        part(cases)
    return cases.listed


def _epoch(cases: _Cases) -> None:
    f = cases.f
    for name, kind in (("E3", 7), ("R6", 27)):
        frame = f.signed("E0", 0, [f.round.epoch_hash], type=kind)
        cases.refused(f"{name} where nothing is encrypted", "E1", frame, "UnexpectedMessage")
    honest = [f.entry(i) for i in f.round.cohort]
    own = [*honest[0][:3], bytes(64)]
    cases.refused("E1 with another signature of this site", "E0", f.e1(0, [own, *honest[1:]]), "RosterRefused")
    _, key, _, _ = honest[1]
    fields = (f.round.study.session, f.round.epoch, 1, key, ZERO[:1], f.round.study.roster_hash, f.round.study.expiry_s)
    odd = [1, key, ZERO[:1], sign(f.round.study.identities[1], "epoch", *fields)]
    cases.refused("E1 with an N_i where there are none", "E0", f.e1(0, [honest[0], odd, *honest[2:]]), "RosterRefused")
    for name, point in LOW_ORDER.items():
        entry = f.entry(2, point.to_bytes(32, "little"))
        frame = f.e1(0, [entry if other[0] == 2 else other for other in honest])
        cases.refused(f"E1 with a key of low order: {name}", "E0", frame, "KeyRefused")


def _nonces(cases: _Cases) -> None:
    cases.base, f = SPARSE, cases.frames[SPARSE]
    cases.refused("E2 of another epoch", "E1", f.e2(0, epoch=2), "EpochRefused")
    cases.refused("E2 after the epoch has expired", "E1", f.e2(0), "EpochRefused", clock_s=f.round.study.expiry_s)


def _announcement(cases: _Cases) -> None:
    failed = Frames(replace(cases.f.round, number=3)).r0(0)
    first = [cases.said(failed, "SiteFailed", vector="fails")]
    cases.refused("R0 below the ratchet", "E1", cases.f.r0(0, numbers={"round": 2}), "RoundRefused", first=first)
    cases.base = ABSENT
    earlier = cases.f.r0(0, numbers={"round": 6, "attempt": 0})
    cases.refused("R0 before the epoch's first round", "E1", earlier, "RoundRefused")


def _members(cases: _Cases) -> None:
    f, r = cases.f, cases.f.round
    rows, mail = r.member_rows, f.inbox(0)

    def listed(i: int, key: bytes) -> list[Any]:
        return [[i, key, row[2]] if row[0] == i else row for row in rows]

    own = [[0, r.s_pk[0], ZERO], *rows[1:]]
    cases.refused("R1' with another commitment of this site", "R0", f.r1p(0, own), "RosterRefused", LEFT)
    key = r.coordinator_c_pk
    cases.refused("R1' with the coordinator's key as mask key", "R0", f.r1p(0, listed(1, key)), "KeyRefused", LEFT)
    low, point = copy.copy(r), (PRIME + 1).to_bytes(32, "little")
    low.s_pk = [point if i == 1 else key for i, key in enumerate(r.s_pk)]
    agreed = [[1, *Frames(low).dealt(1, 0)], *mail[1:]]
    frame = f.r1p(0, listed(1, point), agreed)
    cases.refused("R1' with u = 1 as p + 1 whose dealer agrees", "R0", frame, "KeyRefused", LEFT)
    _, g, h, _ = mail[1]
    wrong = gcm(r.share_key(2, 0), share(r.rows["key", 2], 0) + share(r.rows["seed", 2], 1), lp(2, 0, g, h))
    frame, reply = f.r1p(0, inbox=[mail[0], [2, g, h, wrong], *mail[2:]]), f.sealed("BadShare", 0, [[2]])
    name = "a share of b that is not the committed one"
    cases.taken(name, "R0", frame, reply, error="BadShare", then=LEFT, blamed=[2])


def _confirmations(cases: _Cases) -> None:
    f = cases.f
    one, *rest = [f.confirmation(j, 0) for j in (1, 3, 4)]
    moved = f.r3c(0, [[one[0], 3, *one[2:]], *rest])
    cases.refused("R3c with a word for this site under another's id", "R3a", moved, "TooFewConfirmations", LEFT)


def _sums(cases: _Cases) -> None:
    f = cases.f
    leave = [cases.said(f.r1p(0, f.round.member_rows[1:]), "RosterRefused")]
    for where, first in (("after R1", {}), ("after leaving", {"first": leave})):
        for name, survivors in (
            ("out of order", [1, 0, 3, 4]),
            ("with a site outside the cohort", [0, 1, 3, 9]),
            ("with a site twice", [0, 1, 3, 3]),
        ):
            frame = f.r5(0, survivors=survivors)
            cases.refused(f"R5 over survivors {name}, {where}", "R0", frame, "SurvivorsRefused", CLOSED, **first)


def _sparse(cases: _Cases) -> None:
    """What the complete graph can't break: too few neighbours, two pieces, too few sites whose neighbours suffice."""
    cases.base, r = FEWER, cases.frames[FEWER].round
    alone = range(2, 94, 4)  # 23 sites, one more than may be lost
    few = [*TWELVE, 46]  # the site at 52 keeps nine and itself
    for name, lost in (("fewer than min_survivors", alone), ("too few beside one of them", few)):
        other = Frames(Round(r.study, r.values, silent_r1=_sites(r, lost)))
        cases.refused(f"R1' with {name}", "R0", other.r1p(0), "RosterRefused", LEFT)
    for name, lost in (
        ("fewer than min_survivors", alone),
        ("too few beside a survivor", few),
        ("too few beside a lost site", range(46, 59)),  # 52 is lost, with six on each side
        ("two pieces", [*GAP, *range(60, 71)]),
    ):
        survivors = [i for i in r.cohort if i not in _sites(r, lost)]
        cases.refused(f"R3a with {name}", "R1p", cases.f.r3a(0, survivors), "SurvivorsRefused", LEFT)


def _left(cases: _Cases) -> None:
    """Nothing of an attempt that was left is answered again, but for its sum."""
    f, r = cases.f, cases.f.round
    again = {"E1": f.e1(0), "R0": f.r0(0), "R1p": f.r1p(0), "R3a": f.r3a(0), "R3c": f.r3c(0)}
    closing = [{"request": f.r5(0).hex(), "reply": f.r5_reply(0).hex()}]

    def answered(*frames: bytes) -> list[dict[str, Any]]:
        return [cases.said(frame, "AlreadyAnswered") for frame in frames]

    for name, after, frame, error in (
        ("R1'", "R0", f.r1p(0, r.member_rows[1:]), "RosterRefused"),
        ("R3a", "R1p", f.r3a(0, by=FOREIGN_IDENTITY), "BadSignature"),
        ("R3c", "R3a", f.r3c(0, []), "TooFewConfirmations"),
    ):
        following = [*answered(frame, *again.values()), *closing, *closing]
        cases.refused(f"{name} refused, then all again", after, frame, error, LEFT, next=following)
    bad = f.inbox(0)
    bad[1] = [*bad[1][:3], bytes(144)]
    frame, reply = f.r1p(0, inbox=bad), f.sealed("BadShare", 0, [[2]])
    following = [{"request": frame.hex(), "reply": reply.hex()}, *answered(*again.values()), *closing, *closing]
    cases.taken("a complaint, then all again", "R0", frame, reply, error="BadShare", then=LEFT, blamed=[2],
                next=following)  # fmt: skip
    frame = f.r5(0, tag=b"\x09" * 32)
    following = answered(frame, f.r5(0), *again.values())
    cases.refused("R5 refused, then all again", "R3c", frame, "ModelDoesNotFollow", CLOSED, next=following)


# --- what is taken ---------------------------------------------------------------------------------------------------


def accepted(bases: dict[str, Round]) -> list[dict[str, Any]]:
    """Return requests that site 0 answers, each at the edge of a rule."""
    cases = _Cases(bases)
    f, r = cases.f, cases.f.round
    body = b"\xdc\x00\x04" + _signed(r.epoch, 8) + b"\xc5\x00\x20" + r.coordinator_c_pk + _signed(r.first_round, 2)
    frame = f.signed("E0", 0, body + _signed(r.study.expiry_s, 4))
    cases.taken("E0 in longer forms: array, bytes, signed integers", None, frame, f.e0_reply(0))
    mixed = b"\x94\xcf" + r.epoch.to_bytes(8, "big") + pack(r.coordinator_c_pk) + _signed(r.first_round, 1)
    frame = f.signed("E0", 0, mixed + b"\xce" + r.study.expiry_s.to_bytes(4, "big"))
    cases.taken("E0 in longer forms: unsigned integers, a signed byte", None, frame, f.e0_reply(0))
    numbers = {"round": 5, "attempt": 6, "fresh": b"\x09" * 32}
    fields = [r.epoch, r.coordinator_c_pk, r.first_round, r.study.expiry_s]
    cases.taken("E0 with numbers of no round", None, f.signed("E0", 0, fields, **numbers), f.e0_reply(0))
    cases.taken("E1 with numbers of no round", "E0", f.e1(0, **numbers), f.e1_reply(0))
    limit, n = r.study.n * r.study.constants["bound"] + r.study.constants["noise_bound"], len(r.survivors)
    for name, value in (("n*B + tau", limit), ("-(n*B + tau)", -limit)):
        totals = [value, *r.totals[1:]]
        following = H("model", sha256(r.model + struct.pack(f"<{len(totals)}q", *totals)))
        frame = f.r5(0, total=r.signed_words([n, 0, *totals, n, 0]), tag=following)
        cases.taken(f"R5 with a value of {name}", "R3c", frame, f.r5_reply(0), then=CLOSED)
    repeated = [{"request": f.r5(0).hex(), "reply": f.r5_reply(0).hex()}]
    cases.taken("R5, then R5 again", "R3c", f.r5(0), f.r5_reply(0), then=CLOSED, next=repeated)
    cases.base, r = FEWER, cases.frames[FEWER].round
    lost = _sites(r, TWELVE)
    other = Frames(Round(r.study, r.values, silent_r1=lost))
    cases.taken("R1' with exactly enough beside one of them", "R0", other.r1p(0), other.r2(0))
    for name, gone in (("a survivor", lost), ("a lost site", _sites(r, range(47, 59)))):  # 52 with five and six
        other = Frames(Round(r.study, r.values, silent_r2=gone))
        cases.taken(f"R3a with exactly enough beside {name}", "R1p", other.r3a(0), other.r3b(0))
    return cases.listed


def _signed(value: int, size: int) -> bytes:
    """Return a MessagePack integer of a signed type."""
    return bytes([{1: 0xD0, 2: 0xD1, 4: 0xD2, 8: 0xD3}[size]]) + value.to_bytes(size, "big", signed=True)
