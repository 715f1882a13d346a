"""What an insider can do to the messages of encrypted sums before it seals them: lies, and chosen ciphertexts.

`blind_opened` takes a genuine frame apart with its sender's own keys, as fault_insider's does for the messages of
masking. The plaintext of R5C begins with the ciphertexts that follow it in clear, which its tag covers too.
"""

from __future__ import annotations

import hashlib
from random import Random
from typing import Any

import msgspec
import numpy as np
import tenseal
from ciphertext_families import FAMILIES, FORMS, wrapped
from ciphertext_world import BlindWorld
from fault_insider import Opened, listed_of, opened, with_list
from keyed_policy import fresh_context

from secure_frl.ckks.keys import Addressee, EpochKey, Package, _sealing_key, _signed
from secure_frl.errors import BadSignature
from secure_frl.masking import contexts
from secure_frl.wire.envelope import HEADER_BYTES, Address, Header, read_header, seal, seal_frame, unseal, unseal_frame
from secure_frl.wire.messages import KeyAck, MessageType, PolicyParcel, encode_body
from secure_frl.wire.registry import REGISTRY
from secure_frl.wire.signatures import signed_bytes

T = MessageType
SEALED_HERE = (T.R2C, T.R5C, T.R5C_REPLY)


def address_of(header: Header) -> Address:
    names = ("session", "epoch", "round", "attempt", "sender", "receiver", "fresh", "key_id")
    return Address(*(getattr(header, name) for name in names))


def blind_opened(world: BlindWorld, machine: Any, site: int, frame: bytes) -> Opened:
    """Take apart a frame between the coordinator and a site, of the stage in progress."""
    header = read_header(frame)
    if header.type not in SEALED_HERE:
        return opened(world, machine, site, frame)
    kind, state = T(header.type), machine._state
    link = state.view.link(site, kind, state.ctx2 if kind is T.R2C else state.view.ctx1, header.fresh)
    if kind is T.R5C:
        clear = frame[HEADER_BYTES + header.body_bytes + 16 :]
        plain = with_list(clear, unseal_frame(frame, link, len(clear), hashlib.sha256(clear).digest()))

        def seal_with_sum(head: Header, other: bytes) -> bytes:
            behind, body = listed_of(other)
            return seal_frame(address_of(head), head.type, body, link, behind, hashlib.sha256(behind).digest())

        return Opened(kind, header, plain, seal_with_sum, REGISTRY[kind].body)
    return Opened(
        kind,
        header,
        unseal_frame(frame, link),
        lambda head, other: seal_frame(address_of(head), head.type, other, link),
        REGISTRY[kind].body,
    )


# --- bodies of ciphertexts -------------------------------------------------------------------------------------------


def apart(body: bytes) -> list[bytes]:
    """The chunks of an honest body."""
    chunks, at = [], 0
    while at < len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        chunks.append(body[at + 4 : at + 4 + size])
        at += 4 + size
    return chunks


def together(chunks: list[bytes]) -> bytes:
    return b"".join(len(chunk).to_bytes(4, "big") + chunk for chunk in chunks)


def changed_body(world: BlindWorld, body: bytes, donors: list[bytes], r: Random) -> bytes:
    """Ciphertexts with one chunk changed in form or content, chosen by a key holder, or counted wrongly."""
    chunks, choice = apart(body), r.random()
    place = r.randrange(len(chunks))
    if choice < 0.15:
        other = r.choice(donors)
        return r.choice(
            (
                together(chunks[:-1]),
                together([*chunks, chunks[0]]),
                together(chunks[::-1]),
                b"",
                body[:-1],
                body + b"\x00\x00",
                body + bytes(world.plan.max_body_bytes - len(body) + r.choice((-4, 0, 1))),
                (2**32 - 1).to_bytes(4, "big") + body[4:],
                other,
                together([*chunks[:place], apart(other)[place], *chunks[place + 1 :]]),
            )
        )
    if choice < 0.2 and donors:
        # a sum of zeros without a secret in it, which no library adds: this ends a worker
        taken = apart(r.choice(donors))[place]
        chunks[place] = negated(taken)
        world.negated[chunks[place]] = taken
        _note(world, chunks[place])
    elif choice < 0.25:
        # as long as a chunk may be, and longer than a pipe holds
        words = np.random.default_rng(r.randrange(2**32)).bytes(66_000 - 17 - 16 - r.randrange(400))
        chunks[place] = wrapped(words)
    elif choice < 0.32:
        chunks[place] = FORMS[r.choice(list(FORMS))](chunks[place])
        world.misformed.add(chunks[place])
    elif choice < 0.63:
        names = list(FAMILIES)
        name = r.choices(names, [FAMILIES[name][0] for name in names])[0]
        random = np.random.default_rng(r.randrange(2**32))
        chunks[place] = FAMILIES[name][1](random, chunks[place], apart(r.choice(donors))[place])
    else:
        slots = world.slots_of(chunks[place])
        if slots is not None:
            chunks[place] = world.chunk_of(_chosen(world, slots, r))
            _note(world, chunks[place])
    return together(chunks)


def _note(world: BlindWorld, chunk: bytes) -> None:
    read = world.slots_of(chunk)
    world.known |= {read.tobytes()} if read is not None else set()


def negated(chunk: bytes) -> bytes:
    """What is added to this ciphertext to nothing. Needs no key."""
    found: bytes = (-tenseal.ckks_vector_from(fresh_context(), chunk)).serialize()
    return found


def _chosen(world: BlindWorld, slots: np.ndarray, r: Random) -> np.ndarray:
    """Slot integers that a key holder prefers to the honest ones."""
    made, used = slots.copy(), min(world.plan.words, 2046)
    where = r.choice(("none", "count", "number", "unused", "value", "lane", "far", "all"))
    if where == "count":
        made[0] += r.choice((-1, 1, 2))
    elif where == "number":
        made[1] += r.choice((-1, 1))
    elif where == "unused":
        made[-1] = 1
    elif where == "value":
        made[2 + r.randrange(used)] += r.choice((-1, 1, 1000))
    elif where == "lane":
        made[2 + r.choice((0, 1))] += 1
    elif where == "far":
        made[2 + r.randrange(used)] = r.choice((-(2**33), 2**33, 2**32, -(2**32)))
    elif where == "all":
        made *= 2
    return made


# --- the coordinator -------------------------------------------------------------------------------------------------


def blind_coordinator_lie(world: BlindWorld, machine: Any, site: int, letter: Opened, r: Random) -> bytes | None:
    """The plaintext of a request that is well-formed, signed where a signature is due, and false; None: no lie here."""
    replace = msgspec.structs.replace
    if letter.kind is T.PACKAGE:
        return encode_body(_package_lie(world, machine, site, letter.body(), r))
    if letter.kind is T.R5C:
        return _total_lie(world, machine, site, letter, r)
    if letter.kind is T.E3:
        return encode_body(replace(letter.body(), epoch_hash=r.randbytes(32)))
    if letter.kind is T.R6:
        return encode_body(replace(letter.body(), policy_tag=r.randbytes(32)))
    return None


def _total_lie(world: BlindWorld, machine: Any, site: int, letter: Opened, r: Random) -> bytes:
    """R5C over other ciphertexts, another M or another set; mostly with transcript and signature that belong to it."""
    ciphertexts, encoded = listed_of(letter.plain)
    body = msgspec.msgpack.decode(encoded, type=REGISTRY[T.R5C].body)
    survivors, correction = list(body.survivors), body.correction
    choice = r.random()
    if choice < 0.6:
        donors = list(world.bodies.values())
        ciphertexts = changed_body(world, ciphertexts, donors, r)
    elif choice < 0.8:
        correction = _other_correction(world, correction, r)
    else:
        survivors = r.choice(
            (survivors[::-1], survivors[1:], survivors[:2], [*survivors, survivors[-1]], [*survivors, 60_000])
        )
    return resigned(world, machine, site, body, ciphertexts, correction, survivors, r.random() < 0.8)


def resigned(
    world: BlindWorld,
    machine: Any,
    site: int,
    body: Any,
    ciphertexts: bytes,
    correction: bytes,
    survivors: list[int],
    is_signed: bool = True,
) -> bytes:
    """The plaintext of R5C over what a lying coordinator likes."""
    transcript, signature, view = body.transcript_hash, body.signature, machine._state.view
    digest = hashlib.sha256(correction + hashlib.sha256(ciphertexts).digest()).digest()
    ctx2 = getattr(world.sites[site]._state, "ctx2", None)
    if is_signed and ctx2 is not None:
        transcript = contexts.transcript_hash(ctx2, contexts.survivors_hash(ctx2, survivors), digest)
    if is_signed:
        fields = (view.ctx1, survivors, digest, b"", transcript)
        signature = world.charter.coordinator_key.sign(signed_bytes("R5", *fields))
    made = type(body)(tuple(survivors), correction, transcript, signature)
    return with_list(ciphertexts, encode_body(made))


def _other_correction(world: BlindWorld, correction: bytes, r: Random) -> bytes:
    bits = world.terms.constants.modulus_bits
    kind = "<u4" if bits <= 32 else "<u8"
    if not correction:
        return r.choice((bytes(4), bytes(world.plan.words * int(kind[-1]))))
    words = np.frombuffer(correction, kind).copy()
    at = r.choice((0, 1, len(words) - 1, r.randrange(len(words))))
    choice = r.randrange(4)
    if choice == 0:
        return r.choice((b"", correction[:-1], correction + bytes(4)))
    if choice == 1:
        words[at] = 1 << bits
    else:
        words[at] = (int(words[at]) + r.choice((1, 2**bits - 1, 5_000))) % 2**bits
    return words.tobytes()


def _package_lie(world: BlindWorld, machine: Any, site: int, body: Any, r: Random) -> Any:
    """A package of a steward in league with the coordinator: wrong in one thing, and signed and sealed all the same."""
    replace = msgspec.structs.replace
    steward = body.steward
    if r.random() < 0.25:
        return replace(body, steward=r.choice((site, 60_000, (steward + 1) % len(world.sites))))
    to = Addressee(world.terms.session, machine._state.epoch.epoch_hash, site)
    state: Any = world.sites[steward]._state
    channel = state.view.channels.key(site)
    fresh, sealed = body.package[:32], body.package[32:]
    try:
        package = msgspec.msgpack.decode(unseal(_sealing_key(channel, to, fresh), sealed, b""), type=Package)
    except BadSignature:  # the genuine one is garbage already
        return replace(body, package=r.randbytes(len(body.package)))
    key = EpochKey(package.key_id, package.context, package.site_secret)
    epoch_hash, choice = package.epoch_hash, r.randrange(8)
    if choice == 0:
        epoch_hash = r.randbytes(32)
    elif choice == 1:
        key = EpochKey(r.randbytes(32), key.context, key.site_secret)
    elif choice == 2:
        key = EpochKey(key.key_id, key.context, r.randbytes(32))
    elif choice == 3:
        context = other_context(world, key.context, r)
        key = EpochKey(hashlib.sha256(context).digest(), context, key.site_secret)
    elif choice == 4:
        key = EpochKey(key.key_id, key.context[:-1], key.site_secret)
    elif choice == 5:
        to = Addressee(to.session, to.epoch_hash, (site + 1) % len(world.sites))
    else:
        fresh = r.randbytes(32)
    signature = (
        r.randbytes(64)
        if choice == 6
        else world.charter.site_keys[steward].sign(signed_bytes("package", *_signed(key, to)))
    )
    plain = encode_body(Package(key.key_id, key.context, key.site_secret, epoch_hash, signature))
    own = Addressee(world.terms.session, machine._state.epoch.epoch_hash, site)
    return replace(body, package=fresh + seal(_sealing_key(channel, own, fresh), plain, b""))


def other_context(world: BlindWorld, context: bytes, r: Random) -> bytes:
    """A secret context that no honest steward hands out: of other parameters, without its secret, or no context."""
    choice = r.randrange(5)
    if choice == 0:
        return r.randbytes(r.randrange(1, 400))
    if choice == 1:
        at = r.randrange(len(context))
        turned = context[:at] + bytes([context[at] ^ 1 << r.randrange(8)]) + context[at + 1 :]
        world.doubtful.add(hashlib.sha256(turned).digest())
        return turned
    made = tenseal.context_from(context, n_threads=1)
    if choice == 2:
        made.global_scale = 2.0**39
    if choice == 3:
        made = fresh_context((40, 40))
    found: bytes = made.serialize(
        save_public_key=False, save_secret_key=choice != 4, save_galois_keys=False, save_relin_keys=False
    )
    return found[:66_000]


# --- a peer ----------------------------------------------------------------------------------------------------------


def blind_peer_lie(world: BlindWorld, machine: Any, site: int, letter: Opened, r: Random) -> bytes | None:
    """The plaintext of an answer that is well-formed and false; None: no lie here."""
    replace = msgspec.structs.replace
    if letter.kind is T.R2C:
        donors = [body for other, body in world.bodies.items() if other != site] or [letter.plain]
        return changed_body(world, letter.plain, donors, r)
    if letter.kind is T.E3_REPLY:
        body = letter.body()
        packages = list(body.packages)
        choice = r.randrange(4)
        if choice == 0:
            packages = r.choice((packages[:-1], [*packages, packages[0]], []))
        elif choice == 1:
            packages = [r.randbytes(len(package)) for package in packages]
        elif choice == 2:
            packages.reverse()
        return encode_body(replace(body, packages=tuple(packages), policy_tag=r.choice((body.policy_tag, bytes(32)))))
    if letter.kind is T.PACKAGE_REPLY:
        ack = letter.body()
        return encode_body(KeyAck(r.choice((ack.key_id, bytes(32), r.randbytes(32))), r.randbytes(32)))
    if letter.kind is T.R6_REPLY:
        parcel = letter.body()
        tag = r.choice((parcel.policy_tag, r.randbytes(32)))
        return encode_body(PolicyParcel(tag, r.choice((parcel.parcel, b"", r.randbytes(500)))))
    if letter.kind is T.R5C_REPLY:
        return encode_body(replace(letter.body(), policy_tag=r.randbytes(32)))
    return None


__all__ = ["apart", "blind_coordinator_lie", "blind_opened", "blind_peer_lie", "resigned", "together"]
