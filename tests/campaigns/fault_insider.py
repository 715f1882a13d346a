"""What an insider can do to a message before it is sealed: the coordinator to its requests, a peer to its answers.

`opened` takes a genuine frame apart with its sender's own keys, `Opened.sealed` puts any other plaintext back under
the same keys and header. The plaintext of R1' begins with the list that follows it in clear, which its tag covers too:
see `listed_of`. The alterations are aware of structure: they work on the fields of the decoded body where there is one,
on packed records one by one, on bytes where there is none, and take strange values out of a pool of bodies of other
rounds and sites.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from secure_frl.masking.contexts import members_hash
from secure_frl.masking.coordinator_states import EpochOpening, MaskedSum
from secure_frl.wire.envelope import (
    HEADER_BYTES,
    Address,
    Header,
    mac_frame,
    read_header,
    seal_frame,
    sign_frame,
    unseal_frame,
)
from secure_frl.wire.messages import Body, EpochNonce, MessageType, decode_body
from secure_frl.wire.registry import REGISTRY

T = MessageType
_UNDER_CTX1 = frozenset({T.R1, T.R1P, T.R5, T.R5_REPLY})
LOW_ORDER = (bytes(32), b"\x01" + bytes(31), (2**255 - 20).to_bytes(32, "little"))
HUGE = (2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


@dataclass(frozen=True)
class Opened:
    """A genuine frame in its sender's hands."""

    kind: MessageType
    header: Header
    plain: bytes
    seal: Callable[[Header, bytes], bytes]
    body_type: type[Body] | None

    def sealed(self, plain: bytes) -> bytes:
        """The same header and keys around another plaintext."""
        return self.seal(self.header, plain)

    def body(self) -> Any:
        """The decoded body; None for a vector."""
        plain = self.plain if self.kind is not T.R1P else listed_of(self.plain)[1]
        return None if self.body_type is None else decode_body(self.body_type, plain)


def opened(world: Any, machine: MaskedSum | EpochOpening, site: int, frame: bytes) -> Opened:
    """Take apart a frame between the coordinator and a site, of the stage in progress."""
    header = read_header(frame)
    kind = T(header.type)
    body_end = HEADER_BYTES + header.body_bytes
    has_nonces = world.charter.constants.profile == "cross_device"
    body_type = EpochNonce if kind is T.E1_REPLY and has_nonces else REGISTRY[kind].body
    if REGISTRY[kind].protection.startswith("signed"):
        to_site = REGISTRY[kind].to_site
        key = world.charter.coordinator_key if to_site else world.charter.site_keys[site]
        rest = frame[body_end + 64 :]
        return Opened(
            kind,
            header,
            frame[HEADER_BYTES:body_end],
            lambda head, plain: sign_frame(_sized(head, plain), plain, key) + rest,
            body_type,
        )
    state: Any = machine._state
    view = state.view
    salt = view.ctx1 if kind in _UNDER_CTX1 else state.ctx2
    link = view.link(site, kind, salt, header.fresh)
    if kind is T.R2:
        return Opened(
            kind,
            header,
            frame[HEADER_BYTES:body_end],
            lambda head, plain: mac_frame(address_of(head), head.type, memoryview(plain), link),
            body_type,
        )
    if kind is T.R1P:
        listed = frame[body_end + 16 :]
        plain = with_list(listed, unseal_frame(frame, link, len(listed), members_hash(listed)))

        def seal_with_list(head: Header, other: bytes) -> bytes:
            clear, body = listed_of(other)
            return seal_frame(address_of(head), head.type, body, link, clear, members_hash(clear))

        return Opened(kind, header, plain, seal_with_list, body_type)
    plain = unseal_frame(frame, link)
    return Opened(
        kind, header, plain, lambda head, other: seal_frame(address_of(head), head.type, other, link), body_type
    )


def with_list(listed: bytes, body: bytes) -> bytes:
    """R1' as one plaintext: an array of the clear list and the body's own fields."""
    return msgspec.msgpack.encode([listed, *msgspec.msgpack.decode(body)])


def listed_of(plain: bytes) -> tuple[bytes, bytes]:
    """The clear list and the sealed body of R1' in one plaintext; what is no such array is a body without a list."""
    try:
        fields = msgspec.msgpack.decode(plain)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError):
        return b"", plain
    if not isinstance(fields, list) or not fields or not isinstance(fields[0], bytes):
        return b"", plain
    return fields[0], msgspec.msgpack.encode(fields[1:])


def _sized(header: Header, plain: bytes) -> Header:
    return address_of(header).header(header.type, len(plain))


def word_type(bits: int) -> str:
    """The words of a ring on the wire."""
    return "<u4" if bits <= 32 else "<u8"


def address_of(header: Header) -> Address:
    return Address(
        header.session, header.epoch, header.round, header.attempt, header.sender, header.receiver, header.fresh
    )


# --- alterations of any body -----------------------------------------------------------------------------------------


def altered(random: Random, kind: MessageType, plain: bytes, others: list[bytes]) -> bytes:
    """A plaintext with one thing changed somewhere. others: plaintexts of the same type from elsewhere."""
    body_type = REGISTRY[kind].body
    if body_type is None:
        return altered_bytes(random, plain, others)
    choice = random.random()
    if choice < 0.15:
        return altered_bytes(random, plain, others)
    if choice < 0.25:
        return random.choice(STRANGE)(random, plain)
    fields = apart(kind, plain)
    donor = apart(kind, random.choice(others)) if others and random.random() < 0.5 else None
    return together(kind, _altered_value(random, fields, donor))


# where packed records are, with the sizes of their fields; ids have 4 bytes, in the list of members 8 behind 8 more
_PACKED: dict[MessageType, dict[int, tuple[int, ...]]] = {
    T.R1: {3: (4, 32, 32, 144)},
    T.R1P: {0: (8, 8, 36, 36), 1: (4, 32, 32, 144)},
    T.R3B: {0: (4, 4, 32, 32)},
    T.R3C: {0: (4, 4, 32, 32)},
    T.R4: {0: (4, 64), 1: (4, 64)},
}


def apart(kind: MessageType, plain: bytes) -> Any:
    """The fields of a plaintext, packed records as lists of numbers and bytes."""
    fields = msgspec.msgpack.decode(plain)
    for place, sizes in _PACKED.get(kind, {}).items():
        if isinstance(fields, list) and place < len(fields) and isinstance(fields[place], bytes):
            fields[place] = list(_records(fields[place], sizes))
    return fields


def _records(data: bytes, sizes: tuple[int, ...]) -> Iterator[list[Any]]:
    for start in range(0, len(data), sum(sizes)):
        record: list[Any] = []
        for size in sizes:
            part, start = data[start : start + size], start + size
            record.append(int.from_bytes(part, "big") if size <= 8 else part)
        yield record


def together(kind: MessageType, fields: Any) -> bytes:
    """A plaintext again; where a list has no longer the form of records, it stays one."""
    if isinstance(fields, list):
        places = _PACKED.get(kind, {})
        fields = [_packed(part, places[at]) if at in places else part for at, part in enumerate(fields)]
    return msgspec.msgpack.encode(fields)


def _packed(records: Any, sizes: tuple[int, ...]) -> Any:
    if not isinstance(records, list) or not all(isinstance(record, list) for record in records):
        return records
    data = b""
    for record in records:
        for size, part in zip((*sizes, *[4] * len(record)), record, strict=False):
            if isinstance(part, int):
                data += (part % 2 ** (8 * min(size, 8))).to_bytes(min(size, 8), "big")
            elif isinstance(part, bytes):
                data += part
            else:
                return records
    return data


def _altered_value(random: Random, value: Any, donor: Any) -> Any:
    if isinstance(value, list) and value and random.random() < 0.75:
        place = random.randrange(len(value))
        part = donor[place] if isinstance(donor, list) and place < len(donor) else None
        changed = list(value)
        changed[place] = _altered_value(random, value[place], part)
        return changed
    if donor is not None and type(donor) is type(value) and random.random() < 0.5:
        return donor
    if isinstance(value, list):
        return altered_list(random, value, donor)
    if isinstance(value, int):
        return random.choice((value + 1, max(0, value - 1), 0, random.randrange(12), 65_534, 65_535, -1, *HUGE))
    if isinstance(value, bytes):
        return altered_bytes(random, value, [donor] if isinstance(donor, bytes) else [])
    return None


def altered_list(random: Random, value: list[Any], donor: Any = None) -> list[Any]:
    changed = list(value)
    choice = random.randrange(6)
    if choice == 0 and changed:
        changed.pop(random.randrange(len(changed)))
    elif choice == 1 and changed:
        changed.insert(random.randrange(len(changed) + 1), random.choice(changed))
    elif choice == 2 and len(changed) > 1:
        i, j = random.sample(range(len(changed)), 2)
        changed[i], changed[j] = changed[j], changed[i]
    elif choice == 3:
        changed = []
    elif choice == 4 and isinstance(donor, list) and donor:
        changed.append(random.choice(donor))
    else:
        changed.reverse()
    return changed


def altered_bytes(random: Random, data: bytes, others: list[bytes]) -> bytes:
    choice = random.randrange(7)
    if choice == 0 or not data:
        return data + random.randbytes(random.choice((1, 4, 32)))
    if choice == 1:
        return data[: random.randrange(len(data))]
    if choice == 2:
        return random.choice((bytes(len(data)), b"\xff" * len(data), random.randbytes(len(data)), *LOW_ORDER))
    if choice == 3 and others:
        other = random.choice(others)
        place = random.randrange(len(data))
        return data[:place] + other[place:]
    place = random.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << random.randrange(8))]) + data[place + 1 :]


def _nested(random: Random, plain: bytes) -> bytes:
    return b"\x91" * random.choice((10, 200, 600)) + b"\xc0"


def _promised(random: Random, plain: bytes) -> bytes:
    # a header that promises far more elements, or bytes, than follow
    return random.choice(
        (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x92\xdd\x00\x00\x27\x10", b"\xdf\xff\xff\xff\xff")
    )


def _as_map(random: Random, plain: bytes) -> bytes:
    return msgspec.msgpack.encode({"cohort": [0, 1, 2], "items": plain[:40]})


def _longer(random: Random, plain: bytes) -> bytes:
    fields = msgspec.msgpack.decode(plain)
    return msgspec.msgpack.encode([*fields, random.choice((0, None, b"", [], "x", 1.5, True))])


def _other_types(random: Random, plain: bytes) -> bytes:
    fields = msgspec.msgpack.decode(plain)
    if fields:
        fields[random.randrange(len(fields))] = random.choice(
            (None, True, 1.5, "text", {}, [[]], msgspec.msgpack.Ext(5, b"x"))
        )
    return msgspec.msgpack.encode(fields)


def _not_shortest(random: Random, plain: bytes) -> bytes:
    # the same array behind a longer prefix: one value in two encodings
    return (
        b"\xdd" + (plain[0] & 0x0F).to_bytes(4, "big") + plain[1:] if plain and plain[0] >> 4 == 9 else plain + b"\x00"
    )


STRANGE: tuple[Callable[[Random, bytes], bytes], ...] = (
    _nested,
    _promised,
    _as_map,
    _longer,
    _other_types,
    _not_shortest,
    lambda random, plain: plain + random.choice((b"\x00", b"\xc0", plain)),
    lambda random, plain: b"",
)
