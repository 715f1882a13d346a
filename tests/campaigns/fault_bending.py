"""What can happen to one frame: by the carrier to its bytes, by an insider to its plaintext before sealing.

A bent frame either replaces the genuine one, which is then lost for its stage, or travels beside it and must be
harmless. Kinds that need an older frame or body take one of this world, or of another session of the same people.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from fault_insider import Opened, altered_bytes, apart, together
from fault_world import FIRST_MODEL, Charter, World, charter_of

from secure_frl.wire.envelope import HEADER_BYTES
from secure_frl.wire.registry import REGISTRY

KINDS = ("drop", "delay", "duplicate", "reorder", "reflect", "replay", "flip", "truncate", "splice")
DOWN = ("E0", "E1", "E2", "R0", "R1P", "R3A", "R3C", "R5")
UP = ("E0_REPLY", "E1_REPLY", "E2_REPLY", "R1", "R2", "R3B", "R4", "R5_REPLY")
ANSWER_TO = dict(zip(DOWN, UP, strict=True))  # E2: cross_device only
Cell = tuple[str, str, str]  # fault, stage, role
CELLS: tuple[Cell, ...] = (
    *((kind, stage, "carrier") for kind in KINDS for stage in (*DOWN, *UP)),
    *((kind, stage, "coordinator") for kind in (*KINDS, "lie", "restart") for stage in DOWN),
    *((kind, stage, "peer") for kind in (*KINDS, "lie") for stage in UP),
    *(("restart", stage, "site") for stage in DOWN),
    ("failing", "R0", "host"),
    ("exhausted", "R0", "host"),
    ("expired", "E1", "clock"),
    ("expired", "R0", "clock"),
    ("expired", "E0", "roster"),  # one site's enrolment ends: before its key is taken,
    ("expired", "E1", "roster"),  # or when it stands in the list already
    ("expired", "E0_REPLY", "clock"),  # between a site's answer and the coordinator's reading of it
)


@dataclass(frozen=True)
class Fault:
    """One planned fault; it happens when its stage of its round is reached."""

    kind: str
    stage: str
    role: str
    site: int

    @property
    def cell(self) -> Cell:
        return self.kind, self.stage, self.role


@dataclass(frozen=True)
class Bent:
    """What is delivered now, in order; what is delivered later; and whether the genuine frame is among the first."""

    now: tuple[bytes, ...]
    later: tuple[bytes, ...] = ()
    is_intact: bool = False


# --- the carrier: no key ---------------------------------------------------------------------------------------------


def bent_by_carrier(
    kind: str, frame: bytes, own: list[bytes], back: list[bytes], foreign: bytes, r: Random
) -> Bent | None:
    """own: older frames in this direction with this site; back: of the other one; foreign: see `library`.

    None: there is no older frame of this type to replay.
    """
    if kind == "drop":
        return Bent(())
    if kind == "delay":
        return Bent((), (frame,))
    if kind == "duplicate":
        return Bent((frame,), (frame,), True) if r.random() < 0.5 else Bent((frame, frame), (), True)
    if kind == "reflect":
        return Bent((back[-1],))
    if kind == "replay":
        same = [old for old in own if old[4] == frame[4]]
        if not same:
            return None
        old = r.choice(same)
        return Bent((old, frame), (), True) if r.random() < 0.5 else Bent((old,))
    if kind == "flip":
        place = r.randrange(len(frame)) if r.random() < 0.5 else r.randrange(HEADER_BYTES)
        return Bent((frame[:place] + bytes([frame[place] ^ (1 << r.randrange(8))]) + frame[place + 1 :],))
    if kind == "truncate":
        return Bent((frame[: r.randrange(len(frame))],))
    other = r.choice(
        (foreign, frame[:HEADER_BYTES] + foreign[HEADER_BYTES:], foreign[:HEADER_BYTES] + frame[HEADER_BYTES:])
    )
    if own and r.random() < 0.5:
        old = own[-1]
        other = r.choice((frame[:HEADER_BYTES] + old[HEADER_BYTES:], old[:HEADER_BYTES] + frame[HEADER_BYTES:]))
    return Bent((other,))


# --- an insider: its own keys ----------------------------------------------------------------------------------------


def bent_plaintext(kind: str, letter: Opened, donors: list[bytes], reflected: bytes, r: Random) -> bytes:
    """The plaintext under an insider's fault; of one without parts to drop or swap, the bytes are."""
    plain = letter.plain
    bent = _bent_once(kind, letter, donors, reflected, r)
    if bent != plain:
        return bent
    bytewise = {"drop": plain[:-1], "duplicate": plain + plain, "reorder": plain[::-1], "truncate": plain[:-1]}
    bent = bytewise.get(kind, plain)
    return bent if bent != plain else plain + b"\xc0"


def _bent_once(kind: str, letter: Opened, donors: list[bytes], reflected: bytes, r: Random) -> bytes:
    plain = letter.plain
    if kind == "truncate":
        return plain[: r.randrange(len(plain))] if plain else plain
    if kind == "flip":
        place = r.randrange(len(plain))
        return plain[:place] + bytes([plain[place] ^ (1 << r.randrange(8))]) + plain[place + 1 :]
    if kind == "reflect":
        return reflected
    if kind == "replay":
        return r.choice(donors)
    if REGISTRY[letter.kind].body is None:
        return _bent_words(kind, plain, donors, r)
    fields: list[Any] = apart(letter.kind, plain)
    lists = [field for field in fields if isinstance(field, list) and field] or [fields]
    chosen = r.choice(lists)
    if kind == "drop":
        if chosen:
            chosen.pop(r.randrange(len(chosen)))
    elif kind == "duplicate":
        chosen.insert(r.randrange(len(chosen) + 1), r.choice(chosen) if chosen else 0)
    elif kind == "reorder":
        r.shuffle(chosen)
    else:
        _splice(fields, apart(letter.kind, r.choice(donors)), r)
    return together(letter.kind, fields)


def _splice(fields: list[Any], donor: list[Any], r: Random) -> None:
    places = [place for place in range(min(len(fields), len(donor))) if fields[place] != donor[place]]
    if not places:
        return
    place = r.choice(places)
    inner = fields[place]
    if isinstance(inner, list) and inner and isinstance(donor[place], list) and donor[place] and r.random() < 0.7:
        mine, theirs = r.randrange(len(inner)), r.choice(donor[place])
        if isinstance(inner[mine], list) and isinstance(theirs, list) and r.random() < 0.7:
            _splice(inner[mine], theirs, r)
        else:
            inner[mine] = theirs
    else:
        fields[place] = donor[place]


def _bent_words(kind: str, plain: bytes, donors: list[bytes], r: Random) -> bytes:
    if kind == "drop":
        return plain[:-4]
    if kind == "duplicate":
        return plain + plain[-4:]
    if kind == "reorder":
        return plain[4:] + plain[:4]
    return altered_bytes(r, plain, donors)


# --- frames and bodies from elsewhere --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Library:
    """One whole clean round of the same people: raw frames of another session, plaintexts of this one."""

    foreign: dict[str, bytes]
    plaintexts: dict[str, list[bytes]]


@cache
def library(n: int, thresholds_index: int, bits: int, length: int) -> Library:
    """foreign: under another charter, by type. plaintexts: of the same charter, by type; a complaint included."""
    foreign, _ = _clean_round(charter_of(n, thresholds_index, bits, length, b"another charter"))
    _, plaintexts = _clean_round(charter_of(n, thresholds_index, bits, length))
    return Library(foreign, plaintexts)


def _clean_round(charter: Charter) -> tuple[dict[str, bytes], dict[str, list[bytes]]]:
    from fault_insider import opened

    world = World(charter, 99, template=False)
    frames: dict[str, bytes] = {}
    plaintexts: dict[str, list[bytes]] = {}

    def stage(machine: Any) -> None:
        for site, request in list(machine.requests()):
            reply = world.sites[site].handle(request)
            for frame in (request, reply):
                letter = opened(world, machine, site, frame)
                frames[letter.kind.name] = frame
                plaintexts.setdefault(letter.kind.name, []).append(letter.plain)
            machine.receive(site, reply)
        machine.close_stage()

    opening = world.opening(1, 1)
    for _ in charter.opening_stages:
        stage(opening)
    world.epoch = opening.outcome()
    machine = world.attempt(1, 0, world.epoch.members, FIRST_MODEL, {})
    for _ in range(4):
        stage(machine)
    machine.publish(next_tag(machine))
    stage(machine)
    return frames, plaintexts


def next_tag(machine: Any, model: bytes = FIRST_MODEL) -> bytes:
    """The tag of the model that follows from a machine's sum."""
    from fault_world import next_model

    from secure_frl.masking.contexts import model_tag

    return model_tag(next_model(model, machine.outcome()))
