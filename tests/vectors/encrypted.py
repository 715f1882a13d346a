"""Vectors of encrypted sums, written from docs/protocol.md, section 18; shares no code with secure_frl.

Everything but the encryption itself, which is random: where a frame carries ciphertexts or the epoch's secret context,
fixed bytes of no meaning stand in for TenSEAL's. Their outer form has vectors of its own.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Iterator
from typing import Any

from frames import Frames
from reference import (
    COORDINATOR,
    LABEL,
    ZERO,
    H,
    Round,
    Study,
    exchange,
    gcm,
    header,
    kdf,
    lp,
    pack,
    sha256,
    sign,
    stream,
)

TYPES = {
    "E3": 7, "E3 reply": 8, "Package": 9, "Package reply": 10, "R6": 27, "R6 reply": 28,
    "R2c": 29, "R5c": 30, "R5c reply": 32,
}  # fmt: skip
SLOTS = 2048
STEWARD, OTHER_MODEL, STEP = 0, b"another model", 6
SITE_SECRET, PARCEL_FRESH = b"\x71" * 32, b"\x5e" * 32
CONTEXT = bytes((7 * at + 3) % 256 for at in range(200))  # in the place of a secret context
KEY_ID = sha256(CONTEXT)

# --- words and slots -------------------------------------------------------------------------------------------------


def limb_bits(n: int) -> int:
    """Return l = 33 - ceil(log2 n), counted out."""
    return next(33 - power for power in range(33) if 2**power >= n)


def widths(n: int, w: int) -> list[int]:
    """Return the bits of each limb, low bits first."""
    greatest, left, found = limb_bits(n), w, []
    while left:
        found.append(min(greatest, left))
        left -= found[-1]
    return found


def slots_of(words: list[int], n: int, w: int) -> list[list[int]]:
    """Return the used slots of every chunk, marks first."""
    rows: list[list[int]] = []
    raised = [(word + 2 ** (w - 1)) % 2**w for word in words]
    below = 0
    for m in widths(n, w):
        limb = [number // 2**below % 2**m - 2 ** (m - 1) for number in raised]
        for at in range(0, len(words), SLOTS - 2):
            rows.append([1, len(rows) + 1, *limb[at : at + SLOTS - 2]])
        below += m
    return rows


def added(vectors: list[list[list[int]]]) -> list[list[int]]:
    """Return the sum slot by slot."""
    return [[sum(slot) for slot in zip(*chunks, strict=True)] for chunks in zip(*vectors, strict=True)]


def slot_hash(row: list[int]) -> str:
    return sha256(struct.pack(f"<{SLOTS}q", *row, *[0] * (SLOTS - len(row)))).hex()


def plan(n: int, length: int, w: int) -> dict[str, Any]:
    chunks = len(widths(n, w)) * -(-(length + 4) // (SLOTS - 2))
    numbers = {"sites": n, "length": length, "modulus_bits": w, "greatest_limb_bits": limb_bits(n)}
    return numbers | {"limb_widths": widths(n, w), "chunks": chunks, "C": 66_004 * chunks}


def plans() -> list[dict[str, Any]]:
    """Return plans on both sides of every edge: a limb of all l bits, one bit more, a power of two, a full chunk."""
    sizes = [(n, 6, limb_bits(n) + more) for n in (3, 4, 5, 8, 9, 64, 65, 100) for more in (0, 1)]
    sizes += [(3, 2042, 31), (3, 2043, 31), (10, 4088, 32), (10, 4089, 32), (3, 6, 2), (3, 6, 62), (100, 1000, 64)]
    return [plan(*size) for size in sizes]


def summed() -> list[dict[str, Any]]:
    """Return three vectors a plan with their slots, their sum's slots, and the words that it is."""
    listed = []
    for n, length, w in ((3, 3, 20), (3, 3, 31), (10, 3, 32), (100, 3, 64), (5, 2043, 31)):
        key, count = H("slots", n, length, w), length + 4
        mixed = [word % 2**w for word in stream(key, count, 4 if w <= 32 else 8)]
        ends = [2 ** (w - 1) - at % 2 for at in range(count)]  # least, greatest, least ...
        near = [(at - 3) % 2**w for at in range(count)]  # -3, -2, -1, 0, 1 ...
        vectors = [mixed, ends, near]
        slots = [slots_of(words, n, w) for words in vectors]
        item: dict[str, Any] = {"sites": n, "length": length, "modulus_bits": w, "mask_key_of_the_first": key.hex()}
        total = [sum(words) % 2**w for words in zip(*vectors, strict=True)]
        if count < 100:
            item |= {"vectors": vectors, "slots": slots, "summed_slots": added(slots), "sum": total}
        item["slot_hashes"] = [[slot_hash(row) for row in rows] for rows in slots]
        size = 4 if w <= 32 else 8
        item["sum_hash"] = sha256(b"".join(word.to_bytes(size, "little") for word in total)).hex()
        listed.append(item)
    return listed


def chunk_forms() -> list[dict[str, Any]]:
    """Return what stands before and behind the ciphertext's bytes, by the ciphertext's size with its header."""
    forms = []
    for size, minor in ((16_384, 0), (61_713, 3), (65_983, 255)):  # the second is TenSEAL's own
        varint = bytes([size % 128 | 128, size // 128 % 128 | 128, size // 128**2])
        seal = bytes([0x5E, 0xA1, 0x10, 4, minor, 2, 0, 0]) + size.to_bytes(8, "little")
        head = b"\x0a\x02\x80\x10\x12" + varint + seal
        forms.append({"size": size, "head": head.hex(), "tail": (b"\x19" + struct.pack("<d", 2.0**40)).hex()})
    return forms


# --- a round ---------------------------------------------------------------------------------------------------------


class EncryptedRound(Round):
    """A round whose sum is encrypted; site 0 is the steward."""

    def __post_init__(self) -> None:
        super().__post_init__()
        c = self.study.constants
        self.width, self.is_masked = c["modulus_bits"], c["protection"] == "ckks+masking"
        self.model_tag, self.next_tag = self.tag(self.model), self.tag(self.next_model)
        if not self.is_masked:
            self.members_hash = H("U2", [])
        self.ctx2 = H("ctx2", self.ctx1, self.model_tag, self.study.config_hash, self.members_hash)
        self.survivors_hash = H("U3", self.ctx2, self.survivors)
        self.chunks = plan(self.study.n, c["length"], self.width)["chunks"]
        self.total = self.ciphertexts("sum")
        self.correction = self.left_over() if self.is_masked else b""
        self.digest = sha256(self.correction + sha256(self.total))
        self.transcript = H("transcript", self.ctx2, self.survivors_hash, self.digest)

    def tag(self, model: bytes) -> bytes:
        return hmac.digest(kdf(SITE_SECRET, self.study.session, "model-tag"), model, "sha256")

    def ciphertexts(self, whose: int | str) -> bytes:
        """Return what stands in for a vector's ciphertexts: 16 bytes a chunk, each after its length."""
        chunks = [sha256(f"vectors/chunk/{whose}/{at}".encode())[:16] for at in range(self.chunks)]
        return b"".join(struct.pack(">I", len(chunk)) + chunk for chunk in chunks)

    def left_over(self) -> bytes:
        """Return M, mask by mask."""
        size, count = self.study.word_bytes, self.study.constants["length"] + 4
        masks = [(stream(self.self_key(i), count, size), 1) for i in self.survivors]
        for lost in set(self.members) - set(self.survivors):
            masks += [(stream(self.pair_key(i, lost), count, size), 1 if i < lost else -1) for i in self.survivors]
        words = [sum(sign_ * mask[at] for mask, sign_ in masks) % 2**self.width for at in range(count)]
        return b"".join(word.to_bytes(size, "little") for word in words)

    def encrypted_words(self, i: int) -> list[int]:
        """Return what site i encrypts."""
        if not self.is_masked:
            return self.plain_words(i)
        data, size = self.masked(i), self.study.word_bytes
        return [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]

    def link(self, i: int, stage: str, direction: str) -> bytes:
        if stage not in ("R2c", "R5c"):
            return super().link(i, stage, direction)
        fresh = self.coordinator_fresh if direction == "down" else self.fresh[i]
        context = self.ctx1 if stage == "R5c" else self.ctx2
        return kdf(self.channel(i, COORDINATOR), context, "link", direction, stage, fresh)

    # --- the key and the policy

    def package_parts(self, i: int) -> dict[str, bytes]:
        """Return the package for site i, part by part."""
        fresh, digest = bytes([0xA0 + i]) * 32, sha256(SITE_SECRET)
        secret = exchange(self.c_sk[STEWARD], self.c_pk[i])
        channel = kdf(secret, self.epoch_hash, "chan", min(STEWARD, i), max(STEWARD, i))
        key = kdf(channel, self.epoch_hash, "package", i, fresh)
        signed = (self.study.session, self.epoch_hash, i, KEY_ID, digest)
        signature = sign(self.study.identities[STEWARD], "package", *signed)
        plain = pack([KEY_ID, CONTEXT, SITE_SECRET, self.epoch_hash, signature])
        parts = {"channel": channel, "fresh": fresh, "key": key, "associated": b"", "plain": plain}
        return parts | {"signature": signature, "package": fresh + gcm(key, plain, b"")}

    def parcel_parts(self, writer: int) -> dict[str, bytes]:
        """Return the sealed policy of this round, part by part."""
        session = self.study.session
        key = kdf(SITE_SECRET, sha256(lp(session, STEP, writer, PARCEL_FRESH)), "model-blob")
        associated = lp(session, STEP, self.model_tag)
        parcel = pack([writer, STEP, PARCEL_FRESH, gcm(key, self.model, associated)])
        return {"fresh": PARCEL_FRESH, "key": key, "associated": associated, "model": self.model, "parcel": parcel}


class EncryptedFrames(Frames):
    """Every frame of it; as Frames, with other rows."""

    round: EncryptedRound

    def letter(self, kind: str, i: int, body: list[Any]) -> bytes:
        """Return a signed frame outside rounds."""
        study, down, plain = self.round.study, not kind.endswith("reply"), pack(body)
        sender, receiver = (COORDINATOR, i) if down else (i, COORDINATOR)
        numbers = {"epoch": self.round.epoch, "round": 0, "attempt": 0, "sender": sender, "receiver": receiver}
        rest = {"type": TYPES[kind], "session": study.session, "fresh": ZERO, "size": len(plain)}
        head, secret = header(numbers | rest), study.coordinator_identity if down else study.identities[i]
        return head + plain + sign(secret, "frame", head, sha256(plain))

    def keyed(self, kind: str, i: int, plain: bytes, key_id: bytes = KEY_ID, clear: bytes = b"") -> bytes:
        """Return a sealed frame of a round, under a link key of this section."""
        r, down = self.round, kind == "R5c"
        sender, receiver = (COORDINATOR, i) if down else (i, COORDINATOR)
        numbers = {"epoch": r.epoch, "round": r.number, "attempt": r.attempt, "sender": sender, "receiver": receiver}
        rest = {"type": TYPES[kind], "session": r.study.session, "size": len(plain), "key_id": key_id}
        head = header(numbers | rest | {"fresh": r.coordinator_fresh if down else r.fresh[i]})
        key = r.link(i, kind.removesuffix(" reply"), "down" if down else "up")
        return head + gcm(key, plain, head + (sha256(clear) if clear else b"")) + clear

    def r5c_signed(self) -> bytes:
        """Return the bytes under R5C's signature."""
        r = self.round
        return lp(LABEL, "R5", r.ctx1, r.survivors, r.digest, b"", r.transcript)

    def r5c_body(self) -> list[Any]:
        r = self.round
        fields = (r.ctx1, r.survivors, r.digest, b"", r.transcript)
        return [r.survivors, r.correction, r.transcript, sign(r.study.coordinator_identity, "R5", *fields)]

    def announced(self, i: int) -> bytes:
        r = self.round
        return self.r0(i, r.parcel_parts(STEWARD)["parcel"] if i in r.lacks_model else None)

    def r2c(self, i: int) -> bytes:
        return self.keyed("R2c", i, self.round.ciphertexts(i))

    def held(self, i: int) -> bytes:
        return self.round.tag(OTHER_MODEL if i in self.round.lacks_model else self.round.model)

    def all_steps(self) -> Iterator[dict[str, Any]]:
        """Yield stage by stage each site's request and reply; a lost one has arrives = false."""
        r = self.round
        others = [i for i in r.cohort if i != STEWARD]
        packages = {i: r.package_parts(i)["package"] for i in others}
        made = [KEY_ID, self.held(STEWARD), list(packages.values())]
        parcel = r.parcel_parts(STEWARD)["parcel"]
        rows: list[tuple[str, list[int], Callable[[int], bytes], Callable[[int], bytes], tuple[int, ...]]] = [
            ("E0", r.cohort, self.e0, self.e0_reply, ()),
            ("E1", r.cohort, self.e1, self.e1_reply, ()),
            ("E3", [STEWARD], lambda i: self.letter("E3", i, [r.epoch_hash]),
             lambda i: self.letter("E3 reply", i, made), ()),
            ("Package", others, lambda i: self.letter("Package", i, [STEWARD, packages[i]]),
             lambda i: self.letter("Package reply", i, [KEY_ID, self.held(i)]), ()),
            ("R6", [STEWARD], lambda i: self.letter("R6", i, [r.model_tag]),
             lambda i: self.letter("R6 reply", i, [r.model_tag, parcel]), ()),
        ]  # fmt: skip
        if r.is_masked:
            rows += [
                ("R0", r.cohort, self.announced, self.r1, r.silent_r1),
                ("R1p", r.members, self.r1p, self.r2c, r.silent_r2),
                ("R3a", r.survivors, self.r3a, self.r3b, r.silent_r3b),
                ("R3c", r.confirmed, self.r3c, self.r4, ()),
            ]
        else:
            rows.append(("R0", r.cohort, self.announced, self.r2c, r.silent_r2))
        body = pack(self.r5c_body())
        rows.append(("R5C", r.cohort, lambda i: self.keyed("R5c", i, body, clear=r.total),
                     lambda i: self.keyed("R5c reply", i, pack([r.next_tag]), ZERO), ()))  # fmt: skip
        for stage, sites, request, reply, silent in rows:
            for i in sites:
                step = {"stage": stage, "site": i, "request": request(i).hex(), "reply": reply(i).hex()}
                yield step | {"arrives": i not in silent}


def one_round(title: str, r: EncryptedRound) -> dict[str, Any]:
    """Return one round as a vector."""
    study, frames = r.study, EncryptedFrames(r)

    def hexed(items: list[bytes]) -> list[str]:
        return [item.hex() for item in items]

    def named(parts: dict[str, bytes]) -> dict[str, str]:
        return {name: part.hex() for name, part in parts.items()}

    def drawn(kind: str) -> list[list[str]]:
        return [[struct.pack("<16I", *row).hex() for row in r.rows[kind, i][1:]] for i in r.cohort]

    masks: dict[str, Any] = {}
    if r.is_masked:
        masks = {"s_sk": hexed(r.s_sk), "b": hexed(r.seeds)}
        masks |= {"seed_coefficients": drawn("seed"), "key_coefficients": drawn("key")}
    slots = {i: slots_of(r.encrypted_words(i), study.n, r.width) for i in r.members}
    return {
        "what": title,
        "charter": study.charter.hex(),
        "constants": study.constants,
        "epoch_rounds": study.epoch_rounds,
        "roster_hash": study.roster_hash.hex(),
        "clock_s": study.clock_s,
        "expiry_s": study.expiry_s,
        "site_identity_secrets": hexed(study.identities),
        "coordinator_identity_secret": study.coordinator_identity.hex(),
        "epoch": r.epoch, "first_round": r.first_round, "round": r.number, "attempt": r.attempt,
        "model": r.model.hex(), "step": STEP, "other_model": OTHER_MODEL.hex(),
        "sites_with_the_other_model": list(r.lacks_model),
        "values": r.values,
        "drawn": {
            "coordinator": {"c_sk": r.coordinator_c_sk.hex(), "fresh": r.coordinator_fresh.hex()},
            "site_secret": SITE_SECRET.hex(), "context": CONTEXT.hex(), "parcel_fresh": PARCEL_FRESH.hex(),
            "package_fresh": [r.package_parts(i)["fresh"].hex() for i in r.cohort if i != STEWARD],
            "c_sk": hexed(r.c_sk), "fresh": hexed(r.fresh), **masks,
        },
        "package_1": named(r.package_parts(1)),
        "parcel": named(r.parcel_parts(STEWARD)),
        "derived": {
            "key_id": KEY_ID.hex(), "policy_tag": r.model_tag.hex(), "config_hash": study.config_hash.hex(),
            "epoch_hash": r.epoch_hash.hex(), "ctx1": r.ctx1.hex(), "U2_hash": r.members_hash.hex(),
            "ctx2": r.ctx2.hex(), "U3_hash": r.survivors_hash.hex(),
            "link up R2c, site 0": r.link(0, "R2c", "up").hex(),
            "link up R5c, site 0": r.link(0, "R5c", "up").hex(),
            "link down R5c, site 0": r.link(0, "R5c", "down").hex(),
        },
        "slots": {str(i): rows for i, rows in slots.items()},
        "ciphertexts": {str(i): r.ciphertexts(i).hex() for i in r.members},
        "steps": list(frames.all_steps()),
        "outcome": {
            "U3": r.survivors, "summed_slots": added([slots[i] for i in r.survivors]),
            "summed_ciphertexts": r.total.hex(), "M": r.correction.hex(), "digest": r.digest.hex(),
            "transcript_hash": r.transcript.hex(), "r5c_signed_bytes": frames.r5c_signed().hex(),
            "sum": r.totals, "next_model": r.next_model.hex(), "next_tag": r.next_tag.hex(),
        },
    }  # fmt: skip


def encrypted(
    constants: Callable[..., dict[str, Any]], values: Callable[[int, int], list[list[int]]]
) -> dict[str, Any]:
    """Return the vectors of encrypted sums. constants, values: those of the other rounds."""
    plain = Study(constants(3, protection="ckks"))
    masked = Study(constants(5, protection="ckks+masking", modulus_bits=40))
    three = EncryptedRound(plain, values(3, 1000), lacks_model=(1,))
    five = EncryptedRound(masked, values(5, 1000), silent_r2=(2,), lacks_model=(4,), epoch=2, number=4, first_round=3)
    return {
        "protocol": LABEL,
        "what": "encrypted sums: all but the encryption itself, in whose place fixed bytes stand",
        "plans": plans(),
        "slots": summed(),
        "chunk_forms": chunk_forms(),
        "ckks": one_round("three sites; site 1 holds another policy", three),
        "ckks+masking": one_round("two limbs; site 2's ciphertexts get lost, site 4 holds another policy", five),
    }
