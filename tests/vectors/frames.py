"""Every frame of a round of secure_frl/secagg/v1, byte by byte, over the values of reference.py."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from reference import (
    CODES,
    COORDINATOR,
    TYPES,
    ZERO,
    H,
    Round,
    gcm,
    header,
    lp,
    pack,
    records,
    sha256,
    share,
    sign,
)

RECORDS = {"R1": (3,), "R1p": (0,), "R3b": (0,), "R3c": (0,), "R4": (0, 1)}  # fields that hold packed records
STAGES = ("E0", "E1", "E2", "R0", "R1p", "R3a", "R3c", "R5")  # the requests; each has one reply


@dataclass
class Frames:
    """Frames of one round. A `**changes` names header fields to write otherwise."""

    round: Round

    # --- the three kinds of frame

    def head(self, kind: str, i: int, size: int, fresh: bytes, *, down: bool, **changes: Any) -> bytes:
        r = self.round
        number, attempt = (0, 0) if kind.startswith("E") else (r.number, r.attempt)
        sender, receiver = (COORDINATOR, i) if down else (i, COORDINATOR)
        fields = {"type": TYPES[kind], "session": r.study.session, "epoch": r.epoch, "round": number}
        fields |= {"attempt": attempt, "sender": sender, "receiver": receiver, "fresh": fresh, "size": size}
        return header(fields | changes)

    def signed(
        self, kind: str, i: int, body: Any, fresh: bytes = ZERO, *, by: bytes | None = None, **changes: Any
    ) -> bytes:
        down = kind in STAGES
        plain = body if isinstance(body, bytes) else pack(body)
        head = self.head(kind, i, len(plain), fresh, down=down, **changes)
        study = self.round.study
        secret = by or (study.coordinator_identity if down else study.identities[i])
        return head + plain + sign(secret, "frame", head, sha256(plain))

    def plain(self, kind: str, body: Any) -> bytes:
        """Return a body's bytes; lists of records are packed."""
        if isinstance(body, bytes):
            return body
        places = RECORDS.get(kind, ())
        fields = enumerate(body)
        return pack([records(x) if at in places and isinstance(x, list) else x for at, x in fields])

    def sealed(self, kind: str, i: int, body: Any, bound: bytes = b"", **changes: Any) -> bytes:
        """Return a sealed frame. bound: what is associated data behind the header."""
        r, down = self.round, kind in STAGES
        fresh = changes.pop("fresh", r.coordinator_fresh if kind == "R5" else r.fresh[i])
        plain = self.plain(kind, body)
        head = self.head(kind, i, changes.pop("size", len(plain)), fresh, down=down, **changes)
        return head + gcm(r.link(i, kind.removesuffix(" reply"), "down" if down else "up"), plain, head + bound)

    # --- the epoch

    def e0(self, i: int, **body: int) -> bytes:
        r = self.round
        fields = {"epoch": r.epoch, "first_round": r.first_round, "expiry": r.study.expiry_s} | body
        return self.signed("E0", i, [fields["epoch"], r.coordinator_c_pk, fields["first_round"], fields["expiry"]])

    def entry(self, i: int, key: bytes | None = None, epoch: int | None = None) -> list[Any]:
        """Return a site's entry of E1, correctly signed by it over whatever key and epoch."""
        r, key = self.round, key or self.round.c_pk[i]
        nonce = H("nonce", r.study.session, epoch or r.epoch, i, r.nonces[i]) if r.study.is_sparse else b""
        fields = (r.study.session, epoch or r.epoch, i, key, nonce, r.study.roster_hash, r.study.expiry_s)
        return [i, key, nonce, sign(r.study.identities[i], "epoch", *fields)]

    def e0_reply(self, i: int) -> bytes:
        return self.signed("E0 reply", i, self.entry(i)[1:])

    def e1(self, i: int, entries: list[Any] | None = None, **changes: Any) -> bytes:
        listed = [self.entry(j) for j in self.round.listed] if entries is None else entries
        return self.signed("E1", i, [listed], **changes)

    def e1_reply(self, i: int) -> bytes:
        return self.signed("E1 reply", i, [self.round.nonces[i]]) if self.round.study.is_sparse else self.ack(i, "E1")

    def ack(self, i: int, stage: str) -> bytes:
        r = self.round
        signature = sign(r.study.identities[i], "epoch-ack", r.study.session, r.epoch, r.epoch_hash)
        return self.signed(f"{stage} reply", i, [signature])

    def e2(self, i: int, nonces: list[bytes] | None = None, **changes: Any) -> bytes:
        return self.signed("E2", i, [self.round.nonces if nonces is None else nonces], **changes)

    def e2_reply(self, i: int) -> bytes:
        return self.ack(i, "E2")

    # --- the round

    def r0(self, i: int, model: bytes | None = None, **body: Any) -> bytes:
        """Return R0; `model` is sealed behind the signature. body: fields to write otherwise."""
        r = self.round
        model = r.model if model is None and i in r.lacks_model else model
        by, numbers = body.pop("by", None), body.pop("numbers", {})
        fields = {"cohort": r.cohort, "fresh": r.coordinator_fresh, "config": r.study.config_hash, "tag": r.model_tag}
        fields |= {"digest": None} | body
        size = len(pack([fields["cohort"], ZERO, ZERO, ZERO, ZERO]))
        head = self.head("R0", i, size, r.coordinator_fresh, down=True, **numbers)
        sealed = b"" if model is None else gcm(r.link(i, "R0", "down"), model, head)
        listed = [
            fields["cohort"],
            fields["fresh"],
            fields["config"],
            fields["tag"],
            fields["digest"] or sha256(sealed),
        ]
        return self.signed("R0", i, listed, r.coordinator_fresh, by=by, **numbers) + sealed

    def dealt(self, i: int, j: int, *, lie: bool = False) -> list[Any]:
        """Return what i deals to j, without the id. lie: the sealed key share is not the committed one."""
        r = self.round
        of_key, of_seed = share(r.rows["key", i], j), share(r.rows["seed", i], j)
        g = H("share-s", r.ctx1, i, j, of_key)
        h = H("share-b", r.ctx1, i, j, of_seed)
        plain = (share(r.rows["seed", i], j) if lie else of_key) + of_seed
        return [g, h, gcm(r.share_key(i, j), plain, lp(i, j, g, h))]

    def r1_body(self, i: int) -> list[Any]:
        r = self.round
        own = H("share-b", r.ctx1, i, i, share(r.rows["seed", i], i))
        return [r.s_pk[i], r.commitments[i], own, [[j, *self.dealt(i, j)] for j in r.near(i, r.cohort)]]

    def r1(self, i: int) -> bytes:
        return self.sealed("R1", i, self.r1_body(i))

    def inbox(self, i: int) -> list[Any]:
        return [[j, *self.dealt(j, i)] for j in self.round.near(i, self.round.members)]

    def r1p(
        self,
        i: int,
        members: list[Any] | None = None,
        inbox: Any = None,
        *,
        packed: bytes | None = None,
        **changes: Any,
    ) -> bytes:
        """Return R1'. packed: the list's bytes, in place of lp of the rows `members`."""
        packed = lp(*(self.round.member_rows if members is None else members)) if packed is None else packed
        body = [self.inbox(i) if inbox is None else inbox]
        return self.sealed("R1p", i, body, H("U2", packed), **changes) + packed

    def r2(self, i: int, words: list[int] | None = None, raw: bytes | None = None) -> bytes:
        r = self.round
        body = raw or r.masked(i, words)
        head = self.head("R2", i, len(body), r.fresh[i], down=False)
        return head + body + gcm(r.link(i, "R2", "up"), b"", head + body)

    def r3a(self, i: int, survivors: list[int] | None = None, *, by: bytes | None = None) -> bytes:
        r, study = self.round, self.round.study
        named = r.survivors if survivors is None else survivors
        fields = (study.session, r.number, r.attempt, r.ctx2, named)
        return self.sealed("R3a", i, [named, sign(by or study.coordinator_identity, "R3a", *fields)])

    def confirmation(self, i: int, j: int, survivors: list[int] | None = None) -> list[Any]:
        digest = self.round.survivors_hash if survivors is None else H("U3", self.round.ctx2, survivors)
        return [i, j, digest, self.round.confirmation(i, j, digest)]

    def r3b(self, i: int) -> bytes:
        return self.sealed("R3b", i, [[self.confirmation(i, j) for j in self.round.near(i, self.round.survivors)]])

    def r3c(self, i: int, items: Any = None) -> bytes:
        honest = [self.confirmation(j, i) for j in self.round.near(i, self.round.confirmed)]
        return self.sealed("R3c", i, [honest if items is None else items])

    def r4_body(self, i: int) -> list[Any]:
        r = self.round
        lost = [j for j in r.near(i, r.members) if j not in r.survivors]
        seeds = [[j, share(r.rows["seed", j], i)] for j in r.survivors if j == i or j in r.near(i, [j])]
        return [seeds, [[j, share(r.rows["key", j], i)] for j in lost]]

    def r4(self, i: int) -> bytes:
        return self.sealed("R4", i, self.r4_body(i))

    def r5(self, i: int, **body: Any) -> bytes:
        r = self.round
        total = body.get("total", r.sum_bytes)
        survivors, tag = body.get("survivors", r.survivors), body.get("tag", r.next_tag)
        digest = H("U3", r.ctx2, survivors)
        transcript = body.get("transcript", H("transcript", r.ctx2, digest, sha256(total)))
        secret = body.get("by", r.study.coordinator_identity)
        signature = sign(secret, "R5", r.ctx1, survivors, sha256(total), tag, transcript)
        return self.sealed("R5", i, [survivors, total, tag, transcript, signature])

    def r5_reply(self, i: int) -> bytes:
        return self.sealed("R5 reply", i, [])

    def refusal(self, request: bytes, i: int, name: str) -> bytes:
        """Return site i's refusal of a request; it repeats epoch, round and attempt where there is a header."""
        starts = len(request) >= 152 and request[:4] == b"SFS1" and request[5:8] == bytes(3)
        epoch, number, attempt = struct.unpack(">3Q", request[40:64]) if starts else (0, 0, 0)
        changes = {"epoch": epoch, "round": number, "attempt": attempt}
        return self.signed("Refusal", i, [CODES[name]], sha256(request), **changes)

    # --- all of it, in order

    def steps(self, only: list[int] | None = None) -> list[dict[str, Any]]:
        """Return stage by stage each site's (or only some sites') request and reply; a lost one has arrives = false."""
        r, listed = self.round, []
        plan = (
            ("E0", r.listed, self.e0, self.e0_reply, ()),
            ("E1", r.listed, self.e1, self.e1_reply, ()),
            ("E2", r.listed if r.study.is_sparse else [], self.e2, self.e2_reply, ()),
            ("R0", r.cohort, self.r0, self.r1, r.silent_r1),
            ("R1p", r.members, self.r1p, self.r2, r.silent_r2),
            ("R3a", r.survivors, self.r3a, self.r3b, r.silent_r3b),
            ("R3c", r.confirmed, self.r3c, self.r4, ()),
            ("R5", r.cohort, self.r5, self.r5_reply, ()),
        )
        for stage, sites, request, reply, silent in plan:
            for i in sites if only is None else [i for i in sites if i in only]:
                step = {"stage": stage, "site": i, "request": request(i).hex(), "reply": reply(i).hex()}
                listed.append(step | {"arrives": i not in silent})
        return listed
