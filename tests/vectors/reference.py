"""Protocol secure_frl/secagg/v1 written a second time from docs/protocol.md, to make the test vectors.

Omniscient and slow: one object knows every party's secrets and writes every frame of a round. It imports nothing of
secure_frl, so that a vector is what two independent programs agree on. It is no implementation to use: it checks
nothing that it receives, for it receives nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

LABEL = "secure_frl/secagg/v1"
COORDINATOR = 2**64 - 1
PRIME = 65_537
ZERO = bytes(32)
TYPES = {
    "E0": 1, "E0 reply": 2, "E1": 3, "E1 reply": 4, "E2": 5, "E2 reply": 6,
    "R0": 16, "R1": 17, "R1p": 18, "R2": 19, "BadShare": 20,
    "R3a": 21, "R3b": 22, "R3c": 23, "R4": 24, "R5": 25, "R5 reply": 26, "Refusal": 31,
}  # fmt: skip
CODES = {
    "SiteFailed": 0, "MalformedMessage": 1, "UnexpectedMessage": 2, "BadSignature": 3, "EpochRefused": 4,
    "RoundRefused": 5, "ModelMissing": 6, "RosterRefused": 7, "KeyRefused": 8, "SurvivorsRefused": 9,
    "TooFewConfirmations": 10, "Equivocation": 11, "AlreadyAnswered": 12, "SumOutOfRange": 13, "LaneMismatch": 14,
    "ModelDoesNotFollow": 15,
}  # fmt: skip

# --- primitives ------------------------------------------------------------------------------------------------------


def encode(value: Any) -> bytes:
    """Return one field: bytes as they are, ASCII text, 8-byte integers and reals, lists as lp of their elements."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("ascii")
    if isinstance(value, int):
        return struct.pack(">Q", value)
    if isinstance(value, float):
        return struct.pack(">d", value)
    return lp(*value)


def lp(*fields: Any) -> bytes:
    """Return each field behind its 4-byte length."""
    return b"".join(struct.pack(">I", len(encode(one))) + encode(one) for one in fields)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def H(purpose: str, *fields: Any) -> bytes:
    return sha256(lp(LABEL, purpose, *fields))


def kdf(secret: bytes, salt: bytes, purpose: str, *fields: Any) -> bytes:
    """Return 32 bytes of HKDF-SHA256 (RFC 5869), one block of output."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), lp(LABEL, purpose, *fields) + b"\x01", "sha256")


def kdf64(secret: bytes, salt: bytes, purpose: str, *fields: Any) -> bytes:
    """Return 64 bytes of the same, two blocks of output."""
    key, info = hmac.digest(salt, secret, "sha256"), lp(LABEL, purpose, *fields)
    first = hmac.digest(key, info + b"\x01", "sha256")
    return first + hmac.digest(key, first + info + b"\x02", "sha256")


def public(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def exchange(secret: bytes, other: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(other))


def identity(secret: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def sign(secret: bytes, purpose: str, *fields: Any) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(secret).sign(lp(LABEL, purpose, *fields))


def gcm(key: bytes, plain: bytes, associated: bytes) -> bytes:
    return AESGCM(key).encrypt(bytes(12), plain, associated)


def stream(key: bytes, count: int, word_bytes: int) -> list[int]:
    """Return `count` little-endian words of AES-256-CTR from counter block 0."""
    data = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(count * word_bytes))
    return [int.from_bytes(data[at : at + word_bytes], "little") for at in range(0, len(data), word_bytes)]


def share(rows: Sequence[Sequence[int]], site: int) -> bytes:
    """Return 16 polynomials at x = site + 1. rows: coefficients by degree, the secret's words first."""
    point = site + 1
    words = [
        sum(row[word] * pow(point, degree, PRIME) for degree, row in enumerate(rows)) % PRIME for word in range(16)
    ]
    return struct.pack("<16I", *words)


def words_of(secret: bytes) -> list[int]:
    return list(struct.unpack("<16H", secret))


def coefficients(seed: bytes, count: int) -> list[list[int]]:
    """Return `count` rows of 16 words uniform over Z_65537, by rejection of 17-bit words of a stream."""
    kept = [word & 0x1FFFF for word in stream(seed, 64 * (count + 1), 4)]
    kept = [word for word in kept if word < PRIME]
    return [kept[16 * row : 16 * row + 16] for row in range(count)]


def permutation(seed: bytes, cohort: Sequence[int]) -> list[int]:
    """Return the circulant graph's order of the cohort: Fisher-Yates over the stream of the seed."""
    order, words = list(cohort), iter(stream(seed, 4 * len(cohort) + 64, 4))
    for i in range(len(order) - 1, 0, -1):
        limit = 2**32 // (i + 1) * (i + 1)
        j = next(word for word in words if word < limit) % (i + 1)
        order[i], order[j] = order[j], order[i]
    return order


def records(items: Sequence[Sequence[Any]]) -> bytes:
    """Return packed records: their ids as 4 bytes big-endian, their bytes as they are."""
    fields = [field for item in items for field in item]
    return b"".join(field if isinstance(field, bytes) else struct.pack(">I", field) for field in fields)


def pack(value: Any) -> bytes:
    """Return MessagePack in its shortest form: arrays, unsigned integers, bytes."""
    if isinstance(value, bytes):
        for mark, size, form in ((0xC4, 1 << 8, ">B"), (0xC5, 1 << 16, ">H"), (0xC6, 1 << 32, ">I")):
            if len(value) < size:
                return bytes([mark]) + struct.pack(form, len(value)) + value
    if isinstance(value, int):
        if value < 128:
            return bytes([value])
        for mark, bits, form in ((0xCC, 8, ">B"), (0xCD, 16, ">H"), (0xCE, 32, ">I"), (0xCF, 64, ">Q")):
            if value < 1 << bits:
                return bytes([mark]) + struct.pack(form, value)
    head = bytes([0x90 + len(value)]) if len(value) < 16 else b"\xdc" + struct.pack(">H", len(value))
    return head + b"".join(pack(one) for one in value)


def header(h: dict[str, Any]) -> bytes:
    """Return the 152 bytes of a frame's header."""
    numbers = (h["epoch"], h["round"], h["attempt"], h["sender"], h["receiver"])
    rest = (h["fresh"], h["size"], h.get("key_id", ZERO))
    return struct.pack(">4sB3x32s5Q32sQ32s", b"SFS1", h["type"], h["session"], *numbers, *rest)


# --- a study and one round of it -------------------------------------------------------------------------------------


@dataclass
class Study:
    """What the charter fixes, and who the parties are."""

    constants: dict[str, Any]
    charter: bytes = b"charter"
    roster_hash: bytes = b"\x77" * 32
    epoch_rounds: int = 64
    clock_s: int = 1_000_000
    expiry_s: int = 1_003_600

    def __post_init__(self) -> None:
        self.n = self.constants["sites"]
        self.session = H("session", self.charter)
        self.is_sparse = self.constants["profile"] == "cross_device"
        self.identities = [self.drawn("identity", 0x01, i) for i in range(self.n)]
        self.coordinator_identity = b"\xc8" * 32
        self.word_bytes = 4 if self.constants["modulus_bits"] <= 32 else 8
        self.config_hash = config_hash(self.constants)

    def drawn(self, what: str, first: int, i: int, drawing: int = 0) -> bytes:
        """Return a secret of site i: a byte 32 times in small studies, a hash of its name in large ones and later."""
        if drawing or self.is_sparse:
            return sha256(named(f"vectors/{what}/{i}", drawing))
        return bytes([first + i]) * 32


def named(name: str, drawing: int) -> bytes:
    """Return what a secret is the hash of. drawing: how many attempts drew before; the first has no suffix."""
    return (f"{name}/{drawing}" if drawing else name).encode()


def config_hash(c: dict[str, Any]) -> bytes:
    """Return the hash of every number of the sum; reals as 8 bytes, whatever they are written as."""
    clip = [[b["name"], b["start"], b["stop"], float(b["clip_norm"]), float(b["noise_share"])] for b in c["blocks"]]
    noise = [c["noise"], float(c["noise_multiplier"]), c["integer_noise_scale"], c["noise_bound"]]
    names = ["sites", "threshold", "max_colluders", "min_survivors", "honest_shares", "profile", "neighbours"]
    numbers = [c[name] for name in names]
    sizes = [c["modulus_bits"], float(c["scale"]), c["bound"], c["length"], c["weight"]]
    return H("config", *numbers, *sizes, clip, noise, c["protection"])


@dataclass
class Round:
    """Every value of one round.

    silent_r1, silent_r2: sites whose reply to R0, to R1' gets lost. lacks_model: sites that R0 sends the model to.
    first_words: what a cheating dealer shares in place of its secret's words. cohort: all sites if empty. drawing: how
    many attempts of the epoch drew secrets before this one.
    """

    study: Study
    values: list[list[int]]
    silent_r1: tuple[int, ...] = ()
    silent_r2: tuple[int, ...] = ()
    silent_r3b: tuple[int, ...] = ()
    lacks_model: tuple[int, ...] = ()
    epoch: int = 1
    number: int = 1
    attempt: int = 0
    first_round: int = 1
    model: bytes = b"first model"
    first_words: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    cohort: list[int] = field(default_factory=list)
    drawing: int = 0

    def __post_init__(self) -> None:
        study, n, t = self.study, self.study.n, self.study.constants["threshold"]
        again = self.drawing
        self.listed = list(range(n))  # all that answered E0
        self.cohort = self.cohort or self.listed
        self.c_sk = [study.drawn("c_sk", 0x11, i) for i in range(n)]
        self.c_pk = [public(secret) for secret in self.c_sk]
        self.coordinator_c_sk = b"\x1f" * 32
        self.coordinator_c_pk = public(self.coordinator_c_sk)
        self.s_sk = [study.drawn("s_sk", 0x21, i, again) for i in range(n)]
        self.s_pk = [public(secret) for secret in self.s_sk]
        self.seeds = [study.drawn("b", 0x31, i, again) for i in range(n)]
        self.fresh = [study.drawn("fresh", 0x66, i, again) for i in range(n)]
        self.nonces = [study.drawn("nonce", 0, i) if study.is_sparse else b"" for i in range(n)]
        self.coordinator_fresh = sha256(named("vectors/fresh of S", again)) if again else b"\x6f" * 32
        keys = [[i, self.c_pk[i], self.nonces[i]] for i in self.listed]
        self.epoch_hash = H("epoch", study.session, self.epoch, keys, self.coordinator_c_pk)
        self.ctx1 = H("ctx1", study.session, self.epoch_hash, self.number, self.attempt, self.cohort)
        self.order = self.cohort
        if study.is_sparse:
            graph_seed = H("graph", self.epoch_hash, self.number, self.attempt, self.cohort)
            self.order = permutation(graph_seed, self.cohort)
        self.place = {site: at for at, site in enumerate(self.order)}
        self.commitments = [H("b-commit", self.ctx1, i, self.seeds[i]) for i in self.listed]
        self.rows: dict[tuple[str, int], list[list[int]]] = {}
        for kind, secrets in (("seed", self.seeds), ("key", self.s_sk)):
            for i in self.listed:
                drawn = coefficients(sha256(named(f"vectors/{kind}/{i}", again)), t - 1)
                self.rows[kind, i] = [self.first_words.get((kind, i), words_of(secrets[i])), *drawn]
        self.members = [i for i in self.cohort if i not in self.silent_r1]
        self.survivors = [i for i in self.members if i not in self.silent_r2]
        self.confirmed = [i for i in self.survivors if i not in self.silent_r3b]
        self.model_tag = H("model", self.model)
        self.member_rows = [[i, self.s_pk[i], self.commitments[i]] for i in self.members]
        self.members_hash = H("U2", self.member_rows)
        self.ctx2 = H("ctx2", self.ctx1, self.model_tag, study.config_hash, self.members_hash)
        self.survivors_hash = H("U3", self.ctx2, self.survivors)
        self.totals = [sum(self.values[i][at] for i in self.survivors) for at in range(len(self.values[0]))]
        count, weight = len(self.survivors), study.constants["weight"]
        self.sum_bytes = self.signed_words([count, 0, *self.totals, count * weight, 0])
        self.transcript = H("transcript", self.ctx2, self.survivors_hash, sha256(self.sum_bytes))
        self.next_model = sha256(self.model + struct.pack(f"<{len(self.totals)}q", *self.totals))
        self.next_tag = H("model", self.next_model)

    def near(self, i: int, among: Sequence[int]) -> list[int]:
        """Return N(i) inside a set, ascending."""
        if self.study.is_sparse:
            reach, size = self.study.constants["neighbours"] // 2, len(self.order)
            found = {self.order[(self.place[i] + step) % size] for step in range(-reach, reach + 1)}
            return [j for j in among if j in found and j != i]
        return [j for j in among if j != i]

    # --- keys

    def channel(self, i: int, j: int) -> bytes:
        """Return chan_ij of this round; j may be the coordinator."""
        other = self.coordinator_c_pk if j == COORDINATOR else self.c_pk[j]
        key = kdf(exchange(self.c_sk[i], other), self.epoch_hash, "chan", min(i, j), max(i, j))
        for step in range(self.first_round, self.number + 1):
            key = kdf(key, self.epoch_hash, "ratchet", step)
        return key

    def link(self, i: int, stage: str, direction: str) -> bytes:
        down = direction == "down"
        context = {"R0": self.epoch_hash, "R1": self.ctx1, "R1p": self.ctx1, "R5": self.ctx1}.get(stage, self.ctx2)
        fresh = self.coordinator_fresh if down and stage in ("R0", "R5") else self.fresh[i]
        return kdf(self.channel(i, COORDINATOR), context, "link", direction, stage, fresh)

    def pair_key(self, i: int, j: int) -> bytes:
        return kdf(exchange(self.s_sk[i], self.s_pk[j]), self.ctx2, "pair-mask", min(i, j), max(i, j))

    def self_key(self, i: int) -> bytes:
        return kdf(self.seeds[i], self.ctx2, "self-mask", i)

    def share_key(self, i: int, j: int) -> bytes:
        return kdf(self.channel(i, j), self.ctx1, "share", i, j, self.s_pk[i], self.commitments[i])

    def confirmation(self, i: int, j: int, digest: bytes) -> bytes:
        """Return i's word to j that it saw the survivors of this hash."""
        both = kdf64(self.channel(i, j), self.ctx2, "confirm", min(i, j), max(i, j), digest)
        return both[:32] if i < j else both[32:]

    # --- words

    def signed_words(self, values: Iterable[int]) -> bytes:
        return b"".join(value.to_bytes(self.study.word_bytes, "little", signed=True) for value in values)

    def plain_words(self, i: int) -> list[int]:
        """Return site i's words with lanes, modulo 2^w."""
        lanes = [1, 0, *self.values[i], self.study.constants["weight"], 0]
        return [value % (1 << self.study.constants["modulus_bits"]) for value in lanes]

    def masked(self, i: int, words: Sequence[int] | None = None) -> bytes:
        words = list(words or self.plain_words(i))
        size = self.study.word_bytes
        masks = [(self.self_key(i), 1)] + [
            (self.pair_key(i, j), 1 if i < j else -1) for j in self.near(i, self.members)
        ]
        for key, sign_ in masks:
            words = [word + sign_ * mask for word, mask in zip(words, stream(key, len(words), size), strict=True)]
        modulus = 1 << self.study.constants["modulus_bits"]
        return b"".join((word % modulus).to_bytes(size, "little") for word in words)
