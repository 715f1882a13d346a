"""What all benches of changed messages share: counts, complaints, changed bytes, and copies of memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np
from fault_insider import HUGE, Opened, listed_of
from fault_world import World

from secure_frl import errors
from secure_frl.masking.contexts import mask_context, members_hash
from secure_frl.masking.neighbourhoods import PairTable
from secure_frl.wire.envelope import EMPTY_32, HEADER_BYTES, Header, sign_frame, unseal_frame
from secure_frl.wire.messages import Complaint, MessageType, RefusalCode, decode_body, encode_body

T = MessageType


@dataclass
class Score:
    """Counts of a campaign; adds up over processes."""

    messages: int = 0
    before_sealing: int = 0
    accepted: int = 0  # and acceptable
    blamed: int = 0  # complaints, each against whom it should be
    peak_bytes: int = 0
    names: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, other: Score) -> None:
        for name in ("messages", "before_sealing", "accepted", "blamed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)
        self.names.update(other.names)
        self.kinds.update(other.kinds)
        self.failures += other.failures

    def report(self) -> str:
        return (
            f"{self.messages} messages, {self.before_sealing} changed before sealing, {self.accepted} acceptable ones "
            f"accepted, {self.blamed} due complaints; greatest peak {self.peak_bytes} bytes; "
            f"refusals {dict(self.names)}; by type {dict(self.kinds)}; "
            f"failures {len(self.failures)} {self.failures[:5]}"
        )


class Judge:
    """Counts what one bench sees and names its seed in each complaint. request: the last one whose answer is due."""

    def __init__(self, world: World, score: Score, seed: int) -> None:
        self.world, self.score, self.seed, self.r = world, score, seed, Random(seed)
        self.request = b""

    def refusal(self, site: int, letter: Opened) -> bytes:
        """A refusal in the site's own hand: of the request or of another one, with a code that may not exist."""
        digest = hashlib.sha256(self.request).digest() if self.r.random() < 0.7 else self.r.randbytes(32)
        body = encode_body(RefusalCode(self.r.randrange(128)))
        head = replace(letter.header, type=T.REFUSAL, fresh=digest, body_bytes=len(body), key_id=EMPTY_32)
        return sign_frame(head, body, self.world.charter.site_keys[site])

    def judge_blame(self, blamed: set[int], due: set[int], plain: bytes) -> None:
        self.score.blamed += bool(due)
        if blamed != due:
            self.fail(f"dealers {blamed} blamed, not {due}: {plain[:80].hex()}")

    def named(self, name: str, where: str) -> None:
        self.score.names[name] += 1
        if not hasattr(errors, name):
            self.fail(f"no name of ours: {where}")

    def fail(self, what: str) -> None:
        self.score.failures.append(f"seed {self.seed}: {what}")


def complaint_of(protocol: Any, reply: bytes, plain: bytes) -> tuple[int, ...]:
    """Whom a site blames in its answer to this R1'."""
    attempt = protocol._state.attempt
    context, listed = attempt.context, listed_of(plain)[0]
    ctx2 = mask_context(attempt.ctx1, context.policy_tag, context.config_hash, members_hash(listed))
    return decode_body(Complaint, unseal_frame(reply, attempt.link(T.BAD_SHARE, ctx2))).dealers


def changed_bytes(r: Random, frame: bytes) -> bytes:
    choice = r.randrange(8)
    place = r.randrange(len(frame))
    if choice == 0:
        return frame[:place]
    if choice == 1:
        return frame + r.randbytes(r.choice((1, 16, 64, 5000)))
    if choice == 2:
        return frame[:place] + r.randbytes(min(8, len(frame) - place)) + frame[place + 8 :]
    if choice == 3:
        return frame[:4] + bytes([r.randrange(40)]) + frame[5:]
    if choice == 4:
        size = r.choice((0, 1, *HUGE, len(frame))) % 2**64
        return frame[:112] + size.to_bytes(8, "big") + frame[120:]
    if choice == 5:
        return (
            r.randbytes(r.randrange(400)) if r.random() < 0.5 else frame[:HEADER_BYTES] + r.randbytes(r.randrange(300))
        )
    if choice == 6:
        place = r.randrange(min(HEADER_BYTES, len(frame)))
    return frame[:place] + bytes([frame[place] ^ (1 << r.randrange(8))]) + frame[place + 1 :]


def changed_header(r: Random, header: Header) -> Header:
    name = r.choice(("session", "epoch", "round", "attempt", "sender", "receiver", "fresh", "type"))
    value: Any = r.choice(
        (0, 1, 2, 3, (getattr(header, name) + 1) % 2**64 if name not in ("session", "fresh") else 0, *HUGE[3:])
    )
    if name in ("session", "fresh"):
        value = r.randbytes(32)
    if name == "type":
        value = r.randrange(33)
    return replace(header, **{name: value})


def channels_of(state: Any) -> Any:
    view = getattr(state, "view", None) or getattr(getattr(state, "attempt", None), "view", None)
    return getattr(view, "channels", None)


def copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, set | list):
        return type(value)(value)
    return value.copy() if isinstance(value, np.ndarray | PairTable) else value
