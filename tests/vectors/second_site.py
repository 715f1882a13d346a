"""A site of secure_frl/secagg/v1 written a second time, rule by rule after docs/protocol.md.

Its author knew the package; its code shares nothing with it. It answers every frame of the ok vectors with the same
bytes, and refuses every request of bad_to_site*.json with the same refusal. Not for use: it keeps its row in memory and
its secrets in plain sight.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from reading import (
    ANSWERED,
    ATTEMPT,
    NAMES,
    SHAPES,
    TAKES,
    Refused,
    agreed,
    ascending,
    check,
    check_distinct,
    check_size,
    commitments,
    decode,
    is_connected,
    member_rows,
    need,
    opened,
    split_records,
    summed,
    word,
)
from reference import (
    CODES,
    COORDINATOR,
    PRIME,
    TYPES,
    ZERO,
    H,
    config_hash,
    gcm,
    header,
    identity,
    kdf,
    lp,
    pack,
    permutation,
    public,
    records,
    sha256,
    share,
    sign,
    stream,
    words_of,
)


@dataclass
class Site:
    """One site; `row` and `epoch_noted` are what its disk would hold."""

    vector: dict[str, Any]
    me: int
    row: tuple[int, int, str] | None = None
    epoch_noted: int = 0
    clock_s: float = 0
    state: str = "WithoutEpoch"
    vector_fails: bool = False  # whether the next vector can't be made
    sent: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        v, i = self.vector, self.me
        self.clock_s = self.clock_s or v["clock_s"]
        self.c = v["constants"]
        self.n, self.t, self.least = self.c["sites"], self.c["threshold"], self.c["min_survivors"]
        self.session, self.config = H("session", bytes.fromhex(v["charter"])), config_hash(self.c)
        self.secret = bytes.fromhex(v["site_identity_secrets"][i])
        secrets = [bytes.fromhex(secret) for secret in v["site_identity_secrets"]]
        publics = [bytes.fromhex(key) for key in v.get("site_identity_publics", [])]
        self.enrolled = publics or [identity(secret) for secret in secrets]
        self.is_sparse = self.c["profile"] == "cross_device"
        self.nonce = bytes.fromhex(v[f"nonce_{i}"]) if self.is_sparse else b""
        self.coordinator = identity(bytes.fromhex(v["coordinator_identity_secret"]))
        self.model = b"" if i in v["sites_without_the_model"] else bytes.fromhex(v["model"])
        self.word = 4 if self.c["modulus_bits"] <= 32 else 8
        self.draw(v)

    def draw(self, vector: dict[str, Any]) -> None:
        """Take secrets and values from an attempt's vector."""
        self.vector, drawn, i = vector, vector["drawn"], self.me
        self.c_sk, self.fresh, self.s_sk, self.b = (bytes.fromhex(drawn[k][i]) for k in ("c_sk", "fresh", "s_sk", "b"))
        rows = [drawn["key_coefficients"][i], drawn["seed_coefficients"][i]]
        self.rows = [
            [words_of(secret), *[list(struct.unpack("<16I", bytes.fromhex(row))) for row in kind]]
            for secret, kind in zip((self.s_sk, self.b), rows, strict=True)
        ]

    # --- frames: section 6

    def handle(self, frame: bytes) -> bytes:
        """Answer one frame with a reply or a signed refusal."""
        try:
            return self.answer(frame)
        except Refused as refused:
            readable = len(frame) >= 152 and frame[:4] == b"SFS1" and frame[5:8] == bytes(3)
            numbers = struct.unpack(">3Q", frame[40:64]) if readable else (0, 0, 0)
            return self.signed("Refusal", numbers, [CODES[str(refused)]], sha256(frame))

    def answer(self, frame: bytes) -> bytes:
        need(len(frame) >= 152 and frame[:4] == b"SFS1" and frame[5:8] == bytes(3), "MalformedMessage")
        kind = NAMES.get(frame[4], "")
        check_size(kind, len(frame), sites=len(self.enrolled), length=self.c["length"], word=self.word)
        if self.sent.get(kind, (b"",))[0] == sha256(frame):
            return self.sent[kind][1]
        numbers = struct.unpack(">3Q", frame[40:64])
        parties = (frame[8:40], *struct.unpack(">2Q", frame[64:80]), frame[120:152])
        need(parties == (self.session, COORDINATOR, self.me, ZERO) and kind in SHAPES, "UnexpectedMessage")
        is_inside = kind in ("R1p", "R3a", "R3c", "R5") and self.state in ATTEMPT
        if is_inside:
            fresh = self.coordinator_fresh if kind == "R5" else self.fresh
            need((numbers, frame[80:112]) == (self.numbers, fresh), self.unexpected(kind, numbers))
        need(kind in TAKES[self.state], self.unexpected(kind, numbers))
        body, sealed = self.open(kind, frame)
        handlers: dict[str, Callable[..., bytes]] = {
            "E0": self.e0, "E1": self.e1, "E2": self.e2, "R0": self.r0, "R1p": self.r1p,
            "R3a": self.r3a, "R3c": self.r3c, "R5": self.r5,
        }  # fmt: skip
        try:
            reply = handlers[kind](numbers, body, frame, sealed)
        except Refused:
            if kind not in ("E0", "E1", "E2", "R0"):
                self.state = {"SetConfirmed": "SumAwaited", "SumAwaited": "SumAwaited"}.get(self.state, "Departed")
                self.state = "EpochOpen" if kind == "R5" else self.state
                self.sent.clear()
            raise
        if kind == "E0":
            self.sent.clear()
        elif kind == "R0":
            self.sent = {name: sent for name, sent in self.sent.items() if name[0] == "E"}
        self.sent[kind] = (sha256(frame), reply)
        return reply

    def unexpected(self, kind: str, numbers: tuple[int, ...]) -> str:
        """AlreadyAnswered for what is past, else UnexpectedMessage: section 13, "Repetition"."""
        if self.state in ATTEMPT:
            pair, own = numbers[1:], self.numbers[1:]
            is_past = pair < own or (pair == own and kind in ANSWERED.get(self.state, set()))
        elif kind in ("E0", "E1", "E2"):
            is_past = numbers[0] <= self.epoch_noted
        else:
            is_past = self.row is not None and numbers[1:] <= self.row[:2]
        return "AlreadyAnswered" if is_past else "UnexpectedMessage"

    def open(self, kind: str, frame: bytes) -> tuple[list[Any], bytes]:
        (size,) = struct.unpack(">Q", frame[112:120])
        trailer = 64 if kind in ("E0", "E1", "E2", "R0") else 16
        end = 152 + size + trailer
        need(len(frame) == end or (kind in ("R0", "R1p") and len(frame) > end), "MalformedMessage")
        head, body = frame[:152], frame[152 : 152 + size]
        if trailer == 64:
            check(self.coordinator, frame[152 + size : end], "frame", head, sha256(body))
            return decode(kind, body), frame[end:]
        salt = self.ctx2 if kind in ("R3a", "R3c") else self.ctx1
        behind = frame[end:]
        associated = head + H("U2", behind) if kind == "R1p" else head
        return decode(kind, opened(self.link(kind, "down", salt), frame[152:end], associated)), behind

    def link(self, stage: str, direction: str, salt: bytes) -> bytes:
        fresh = self.coordinator_fresh if (stage, direction) == ("R5", "down") else self.fresh
        return kdf(self.channels[COORDINATOR], salt, "link", direction, stage, fresh)

    def head(self, kind: str, numbers: tuple[int, ...], fresh: bytes, size: int) -> bytes:
        names = {"epoch": numbers[0], "round": numbers[1], "attempt": numbers[2], "sender": self.me}
        rest = {"session": self.session, "receiver": COORDINATOR, "fresh": fresh, "size": size}
        return header({"type": TYPES[kind]} | names | rest)

    def signed(self, kind: str, numbers: tuple[int, ...], body: list[Any], fresh: bytes = ZERO) -> bytes:
        plain = pack(body)
        head = self.head(kind, numbers, fresh, len(plain))
        return head + plain + sign(self.secret, "frame", head, sha256(plain))

    def sealed(self, kind: str, body: list[Any], salt: bytes) -> bytes:
        plain = pack(body)
        head = self.head(kind, self.numbers, self.fresh, len(plain))
        return head + gcm(self.link(kind.removesuffix(" reply"), "up", salt), plain, head)

    def record(self, stage: str) -> None:
        self.row = (*self.numbers[1:], stage)  # type: ignore[assignment]

    def last_closed(self) -> int:
        if self.row is None:
            return 0
        return self.row[0] if self.row[2] in ("R3b", "R4", "closed") else self.row[0] - 1

    # --- epoch: section 11

    def e0(self, numbers: tuple[int, ...], body: list[Any], *_: bytes) -> bytes:
        epoch, key, first, expiry = body
        holds = epoch == numbers[0] and epoch > self.epoch_noted and first > self.last_closed()
        need(holds and self.clock_s < expiry <= self.clock_s + 86_400, "EpochRefused")
        self.epoch_noted = self.epoch = epoch
        self.coordinator_key, self.first_round, self.expiry = key, first, expiry
        roster = bytes.fromhex(self.vector["roster_hash"])
        commitment = H("nonce", self.session, epoch, self.me, self.nonce) if self.is_sparse else b""
        fields = (self.session, epoch, self.me, public(self.c_sk), commitment, roster, expiry)
        self.entry = [self.me, public(self.c_sk), commitment, sign(self.secret, "epoch", *fields)]
        self.state = "KeysAdvertised"
        return self.signed("E0 reply", (epoch, 0, 0), self.entry[1:])

    def e1(self, numbers: tuple[int, ...], body: list[Any], *_: bytes) -> bytes:
        need(numbers[0] == self.epoch and self.clock_s < self.expiry, "EpochRefused")
        entries = body[0]
        ids = [entry[0] for entry in entries]
        least = self.n if self.is_sparse else self.least
        need(ascending(ids, list(range(len(self.enrolled)))) and len(ids) >= least, "RosterRefused")
        need(self.entry in entries and {len(e[2]) for e in entries} == {len(self.entry[2])}, "RosterRefused")
        roster = bytes.fromhex(self.vector["roster_hash"])
        for i, key, nonce, signature in entries:
            check(self.enrolled[i], signature, "epoch", self.session, self.epoch, i, key, nonce, roster, self.expiry)
        if self.is_sparse:
            self.entries, self.state = entries, "NonceShown"
            return self.signed("E1 reply", (self.epoch, 0, 0), [self.nonce])
        return self.join(entries, [b""] * len(entries), "E1 reply")

    def e2(self, numbers: tuple[int, ...], body: list[Any], *_: bytes) -> bytes:
        need(numbers[0] == self.epoch and self.clock_s < self.expiry, "EpochRefused")
        need(len(body[0]) == len(self.entries), "EpochRefused")
        for entry, nonce in zip(self.entries, body[0], strict=True):
            need(H("nonce", self.session, self.epoch, entry[0], nonce) == entry[2], "EpochRefused")
        return self.join(self.entries, body[0], "E2 reply")

    def join(self, entries: list[Any], nonces: list[bytes], reply: str) -> bytes:
        """Derive the epoch's channels and sign its hash."""
        keys = {entry[0]: entry[1] for entry in entries} | {COORDINATOR: self.coordinator_key}
        check_distinct(list(keys.values()))
        listed = [[entry[0], entry[1], nonce] for entry, nonce in zip(entries, nonces, strict=True)]
        self.epoch_hash = H("epoch", self.session, self.epoch, listed, self.coordinator_key)
        self.channels = {}
        for i, key in keys.items():
            if i != self.me:
                shared = agreed(self.c_sk, key)
                self.channels[i] = kdf(shared, self.epoch_hash, "chan", min(i, self.me), max(i, self.me))
        self.members_of_epoch, self.epoch_keys = [entry[0] for entry in entries], list(keys.values())
        self.at_round = self.first_round - 1
        self.state = "EpochOpen"
        acknowledged = sign(self.secret, "epoch-ack", self.session, self.epoch, self.epoch_hash)
        return self.signed(reply, (self.epoch, 0, 0), [acknowledged])

    def ratcheted(self, number_: int) -> dict[int, bytes]:
        keys = dict(self.channels)
        for step in range(self.at_round + 1, number_ + 1):
            keys = {i: kdf(key, self.epoch_hash, "ratchet", step) for i, key in keys.items()}
        return keys

    # --- round: section 12

    def r0(self, numbers: tuple[int, ...], body: list[Any], frame: bytes, sealed: bytes) -> bytes:
        cohort, fresh, config, tag, digest = body
        epoch, round_, _ = numbers
        is_new = self.row is None or numbers[1:] > self.row[:2]
        need(is_new and round_ > self.last_closed(), "AlreadyAnswered")
        first = max(self.first_round, self.at_round)
        need(epoch == self.epoch and first <= round_ < self.first_round + self.vector["epoch_rounds"], "RoundRefused")
        need(self.clock_s < self.expiry and fresh == frame[80:112] and config == self.config, "RoundRefused")
        need(ascending(cohort, self.members_of_epoch) and self.me in cohort, "RoundRefused")
        need(len(cohort) == self.n if self.is_sparse else len(cohort) >= self.least, "RoundRefused")
        need(sha256(sealed) == digest, "RoundRefused")
        channels, model = self.ratcheted(round_), self.model
        if sealed:
            key = kdf(channels[COORDINATOR], self.epoch_hash, "link", "down", "R0", fresh)
            model = opened(key, sealed, frame[:152])
        need(H("model", model) == tag, "RoundRefused" if sealed else "ModelMissing")
        self.model, self.channels, self.at_round, self.state = model, channels, round_, "EpochOpen"
        need(not self.vector_fails, "SiteFailed")
        self.numbers, self.cohort, self.tag, self.coordinator_fresh = numbers, cohort, tag, fresh
        self.ctx1 = H("ctx1", self.session, self.epoch_hash, *numbers[1:], cohort)
        self.order = (
            permutation(H("graph", self.epoch_hash, *numbers[1:], cohort), cohort) if self.is_sparse else cohort
        )
        self.commitment = H("b-commit", self.ctx1, self.me, self.b)
        own = share(self.rows[1], self.me)
        self.shares = {self.me: (b"", own)}
        dealt = []
        for j in self.near(self.me, cohort):
            pair = share(self.rows[0], j), share(self.rows[1], j)
            g, h = commitments(self.ctx1, self.me, j, *pair)
            key = kdf(self.channels[j], self.ctx1, "share", self.me, j, public(self.s_sk), self.commitment)
            dealt.append([j, g, h, gcm(key, pair[0] + pair[1], lp(self.me, j, g, h))])
        self.record("R1")
        self.state = "SharesSent"
        own_h = commitments(self.ctx1, self.me, self.me, b"", own)[1]
        return self.sealed("R1", [public(self.s_sk), self.commitment, own_h, records(dealt)], self.ctx1)

    def near(self, i: int, among: list[int]) -> list[int]:
        """Return N(i) inside a set, ascending: section 10."""
        reach = self.c["neighbours"] // 2 if self.is_sparse else self.n
        places = {site: at for at, site in enumerate(self.order)}
        gaps = {j: (places[j] - places[i]) % len(self.order) for j in among}
        return sorted(j for j, gap in gaps.items() if j != i and min(gap, len(self.order) - gap) <= reach)

    def r1p(self, numbers: tuple[int, ...], body: list[Any], frame: bytes, listed: bytes) -> bytes:
        members, inbox = member_rows(listed), split_records(body[0], 4, 32, 32, 144)
        ids = [member[0] for member in members]
        need(ascending(ids, self.cohort), "RosterRefused")
        need([self.me, public(self.s_sk), self.commitment] in members, "RosterRefused")
        need(len(ids) >= self.least, "RosterRefused")
        need(all(len(self.near(i, ids)) + 1 >= self.t for i in ids), "RosterRefused")
        need([item[0] for item in inbox] == self.near(self.me, ids), "RosterRefused")
        check_distinct([member[1] for member in members] + self.epoch_keys)
        keys = {i: (key, commitment) for i, key, commitment in members}
        self.ctx2 = H("ctx2", self.ctx1, self.tag, self.config, H("U2", members))
        bad = []
        for i, g, h, sealed in inbox:
            key = kdf(self.channels[i], self.ctx1, "share", i, self.me, *keys[i])
            try:
                plain = opened(key, sealed, lp(i, self.me, g, h))
            except Refused:
                bad.append(i)
                continue
            in_range = max(struct.unpack("<32I", plain)) < PRIME
            if not in_range or commitments(self.ctx1, i, self.me, plain[:64], plain[64:]) != [g, h]:
                bad.append(i)
            self.shares[i] = plain[:64], plain[64:]
        if bad:
            self.state = "Departed"
            self.sent.clear()
            return self.sealed("BadShare", [bad], self.ctx2)
        masked = self.masked(keys)
        self.members, self.state = ids, "InputSent"
        self.record("R2")
        head = self.head("R2", self.numbers, self.fresh, len(masked))
        return head + masked + gcm(self.link("R2", "up", self.ctx2), b"", head + masked)

    def masked(self, keys: dict[int, tuple[bytes, bytes]]) -> bytes:
        words = [1, 0, *self.vector["values"][self.me], self.c["weight"], 0]
        masks = [(kdf(self.b, self.ctx2, "self-mask", self.me), 1)]
        for j in self.near(self.me, list(keys)):
            shared = agreed(self.s_sk, keys[j][0])
            pair = kdf(shared, self.ctx2, "pair-mask", min(self.me, j), max(self.me, j))
            masks.append((pair, 1 if self.me < j else -1))
        for key, sign_ in masks:
            words = [word + sign_ * mask for word, mask in zip(words, stream(key, len(words), self.word), strict=True)]
        return b"".join((word % (1 << self.c["modulus_bits"])).to_bytes(self.word, "little") for word in words)

    def r3a(self, numbers: tuple[int, ...], body: list[Any], *_: bytes) -> bytes:
        survivors, signature = body
        check(self.coordinator, signature, "R3a", self.session, *numbers[1:], self.ctx2, survivors)
        need(ascending(survivors, self.members) and len(survivors) >= self.least, "SurvivorsRefused")
        for i in self.members:
            holders = len(self.near(i, survivors))
            enough = holders + 1 >= self.t if i in survivors else holders == 0 or holders >= self.t
            need(enough, "SurvivorsRefused")
        need(is_connected(survivors, self.near), "SurvivorsRefused")
        if self.c["noise"] == "distributed":
            need(len(survivors) - self.c["max_colluders"] >= self.c["honest_shares"], "SurvivorsRefused")
        need(self.me in survivors, "SurvivorsRefused")
        self.survivors, digest = survivors, H("U3", self.ctx2, survivors)
        items = [[self.me, j, digest, self.confirmation(self.me, j, digest)] for j in self.near(self.me, survivors)]
        self.record("R3b")
        self.state = "SetConfirmed"
        return self.sealed("R3b", [records(items)], self.ctx2)

    def confirmation(self, i: int, j: int, digest: bytes) -> bytes:
        return word(self.channels[j if i == self.me else i], self.ctx2, i, j, digest)

    def r3c(self, numbers: tuple[int, ...], body: list[Any], *_: bytes) -> bytes:
        digest, confirmed = H("U3", self.ctx2, self.survivors), {self.me}
        for i, j, found, mac in split_records(body[0], 4, 4, 32, 32):
            if j != self.me or i not in self.near(self.me, self.survivors):
                continue
            if self.confirmation(i, self.me, found) == mac:
                need(found == digest, "Equivocation")
                confirmed.add(i)
        need(len(confirmed) >= self.t, "TooFewConfirmations")
        near = self.near(self.me, self.members)
        seeds = [[j, self.shares[j][1]] for j in self.survivors if j == self.me or j in near]
        keys = [[j, self.shares[j][0]] for j in near if j not in self.survivors]
        self.record("R4")
        self.state = "SumAwaited"
        return self.sealed("R4", [records(seeds), records(keys)], self.ctx2)

    def r5(self, numbers: tuple[int, ...], body: list[Any], *_: bytes) -> bytes:
        survivors, total, tag, transcript, signature = body
        self.record("closed")
        check(self.coordinator, signature, "R5", self.ctx1, survivors, sha256(total), tag, transcript)
        need(ascending(survivors, self.cohort) and len(survivors) >= self.least, "SurvivorsRefused")
        if self.state in ("SetConfirmed", "SumAwaited"):
            need(survivors == self.survivors, "SurvivorsRefused")
        if self.state in ("InputSent", "SetConfirmed", "SumAwaited"):
            seen = H("transcript", self.ctx2, H("U3", self.ctx2, survivors), sha256(total))
            need(seen == transcript, "SurvivorsRefused")
        values = summed(total, len(survivors), self.c)
        following = sha256(self.model + struct.pack(f"<{len(values)}q", *values))
        need(H("model", following) == tag, "ModelDoesNotFollow")
        self.model, self.state = following, "EpochOpen"
        return self.sealed("R5 reply", [], self.ctx1)
