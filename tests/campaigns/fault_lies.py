"""Lies of an insider: well-formed messages under valid keys, signed where a signature is due, and false.

The coordinator lies to one site; a corrupt site lies to the coordinator, or to its peers through it. Whatever is told,
an honest party refuses it by name or gives nothing that the truth would not have given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import numpy as np
from fault_insider import LOW_ORDER, Opened, address_of, listed_of, with_list, word_type

from secure_frl.masking import contexts
from secure_frl.masking.coordinator_states import MaskedSum
from secure_frl.masking.keys import confirmations, share_key
from secure_frl.masking.site_shares import key_share_commitment, seed_share_commitment
from secure_frl.masking.site_states import SiteProtocol
from secure_frl.wire.envelope import seal, seal_frame, unseal
from secure_frl.wire.hashing import lp
from secure_frl.wire.messages import Body, Complaint, MessageType, encode_body
from secure_frl.wire.records import MEMBER_BYTES, Confirmation, DealtShares, Share, pack_records, unpack_records
from secure_frl.wire.signatures import signed_bytes

T = MessageType


def coordinator_lie(world: Any, machine: Any, site: int, letter: Opened, random: Random) -> bytes:
    """The plaintext of a request that is well-formed, signed where a signature is due, and false."""
    body, kind = letter.body(), letter.kind
    replace = msgspec.structs.replace
    if kind is T.E0:
        changes = {"epoch": body.epoch - 1}, {"first_round": 0}, {"expiry_s": body.expiry_s + 10**6}, {"expiry_s": 1}
        return encode_body(replace(body, **random.choice(changes)))
    if kind is T.E1:
        entries = list(body.entries)
        place = random.randrange(len(entries))
        if random.random() < 0.5:
            entries[place] = replace(entries[place], public_key=random.choice((*LOW_ORDER, random.randbytes(32))))
        else:
            del entries[place]
        return encode_body(replace(body, entries=tuple(entries)))
    if kind is T.E2:
        nonces = list(body.nonces)
        nonces[random.randrange(len(nonces))] = random.randbytes(32)
        return encode_body(replace(body, nonces=tuple(nonces)))
    if kind is T.R0:
        cohort = body.cohort
        changes = (
            {"cohort": cohort[:-1]},
            {"cohort": cohort[:2]},
            {"cohort": tuple(reversed(cohort))},
            {"config_hash": bytes(32)},
            {"model_tag": random.randbytes(32)},
            {"fresh": random.randbytes(32)},
        )
        return encode_body(replace(body, **random.choice(changes)))
    if kind is T.R1P:
        listed, rest = listed_of(letter.plain)
        size = len(listed) // MEMBER_BYTES
        place = random.randrange(size)
        others = listed[MEMBER_BYTES * (place - 1) :] if place else listed[-MEMBER_BYTES:]
        stolen = random.choice((others[20:52], random.randbytes(32), *LOW_ORDER))
        start = MEMBER_BYTES * place + 20
        return with_list(listed[:start] + stolen + listed[start + 32 :], rest)
    if kind is T.R3A:
        survivors = _other_set(machine, site, list(body.survivors), random)
        return encode_body(replace(body, survivors=tuple(survivors), signature=_signed_set(world, machine, survivors)))
    if kind is T.R3C:
        genuine = unpack_records(Confirmation, body.items)
        items = [item._replace(mac=random.randbytes(32)) if random.random() < 0.5 else item for item in genuine]
        if items and random.random() < 0.4:
            items[-1] = _of_another_set(world, machine, site, items[-1], random)
        return encode_body(replace(body, items=pack_records(items)))
    return _published(world, machine, body, random)


def _signed_set(world: Any, machine: MaskedSum, survivors: list[int]) -> bytes:
    state: Any = machine._state
    context = state.view.context
    fields = (context.session, context.round, context.attempt, state.ctx2, survivors)
    return world.charter.coordinator_key.sign(signed_bytes("R3a", *fields))


def _other_set(machine: Any, site: int, survivors: list[int], random: Random) -> list[int]:
    members = list(machine._state.members)
    others = [other for other in survivors if other != site]
    return random.choice(
        (
            [site],
            others,
            survivors[::-1],
            [*survivors, survivors[-1]],
            [*survivors, 60_000],
            sorted(random.sample(members, max(1, len(members) - 1))),
            [one for one in survivors if one == site or random.random() < 0.8],
            members if len(members) > len(survivors) else survivors[:-1],
        )
    )


def _of_another_set(world: Any, machine: Any, site: int, item: Any, random: Random) -> Any:
    """A confirmation over another set that its sender's own key has made: two sets were named."""
    sender: Any = world.sites[item.sender]._state
    if not hasattr(sender, "attempt"):
        return item
    digest, channel = random.randbytes(32), sender.attempt.view.channels.key(site)
    word, _ = confirmations(channel, machine._state.ctx2, item.sender, site, digest)
    return item._replace(survivors_hash=digest, mac=word)


def _published(world: Any, machine: Any, body: Any, random: Random) -> bytes:
    """R5 over another sum, set or next model; half of the time with the transcript hash that would belong to it."""
    kind = word_type(world.charter.constants.modulus_bits).replace("u", "i")
    words = np.frombuffer(body.total, kind).copy()
    survivors, tag = list(body.survivors), body.next_tag
    choice = random.choice(("lane", "value", "far", "short", "set", "unsorted", "tag"))
    if choice == "lane":
        words[random.choice((0, 1, -2, -1))] += random.choice((1, -1))
    elif choice == "value":
        words[random.randrange(2, len(words) - 2)] += 1
    elif choice == "far":
        words[random.randrange(2, len(words) - 2)] = random.choice((2**31 - 1, -(2**31), 30_000))
    elif choice == "short":
        words = words[:-1]
    elif choice == "set":
        survivors = survivors[1:] if random.random() < 0.5 else survivors[:1]
    elif choice == "unsorted":
        survivors = random.choice((survivors[::-1], [*survivors, survivors[-1]], [*survivors, 60_000]))
    else:
        tag = random.randbytes(32)
    total = words.astype(kind).tobytes()
    transcript, state = body.transcript_hash, machine._state
    ctx2 = getattr(world.sites[survivors[0] % len(world.sites)]._state, "ctx2", None)
    if ctx2 is not None and random.random() < 0.7:
        digest = hashlib.sha256(total).digest()
        transcript = contexts.transcript_hash(ctx2, contexts.survivors_hash(ctx2, survivors), digest)
    fields = (state.view.ctx1, survivors, hashlib.sha256(total).digest(), tag, transcript)
    signature = world.charter.coordinator_key.sign(signed_bytes("R5", *fields))
    changes = {"survivors": tuple(survivors), "total": total, "next_tag": tag, "transcript_hash": transcript}
    return encode_body(msgspec.structs.replace(body, signature=signature, **changes))


def peer_lie(world: Any, machine: Any, site: int, letter: Opened, random: Random) -> tuple[Opened, bytes]:
    """A corrupt site's answer: (letter, plaintext); the letter has another type when it complains instead of R2."""
    body, kind = letter.body(), letter.kind
    replace = msgspec.structs.replace
    if kind is T.E0_REPLY:
        stolen = random.choice(
            (*LOW_ORDER, machine._keys.public, *(e.public_key for e in machine._state.entries.values()))
        )
        terms = world.charter.terms
        fields = (terms.session, letter.header.epoch, site, stolen, body.nonce_commitment, terms.roster_hash)
        signature = world.charter.site_keys[site].sign(signed_bytes("epoch", *fields, machine._expiry_s))
        return letter, encode_body(replace(body, public_key=stolen, signature=signature))
    if kind is T.E1_REPLY and "nonce" in body.__struct_fields__:
        return letter, encode_body(replace(body, nonce=random.randbytes(32)))
    if kind in (T.E1_REPLY, T.E2_REPLY):
        signed = signed_bytes("epoch-ack", world.charter.terms.session, letter.header.epoch, random.randbytes(32))
        return letter, encode_body(replace(body, signature=world.charter.site_keys[site].sign(signed)))
    if kind is T.R1:
        return letter, _bad_dealer(world.sites[site], site, body, random)
    if kind is T.R2:
        bits = world.charter.constants.modulus_bits
        words = np.frombuffer(letter.plain, word_type(bits)).copy()
        if random.random() < 0.4:
            others = tuple(other for other in machine._state.members if other != site)
            named = random.choice((others, others, (), (site,), others[::-1], (*others, 60_000)))
            return _complaint(machine, site, letter), encode_body(Complaint(named))
        words[random.randrange(len(words))] = random.choice((2**32 - 1, 1 << bits % 32, 0))
        return letter, words.tobytes()
    if kind is T.R3B:
        lie = random.choice(({"mac": random.randbytes(32)}, {"survivors_hash": random.randbytes(32)}))
        return letter, encode_body(
            replace(body, items=pack_records(item._replace(**lie) for item in unpack_records(Confirmation, body.items)))
        )
    if kind is T.R4:
        return letter, encode_body(_bad_holder(body, random))
    return letter, random.choice((b"\x91\x00", b"\xc0", b""))


def _complaint(machine: MaskedSum, site: int, letter: Opened) -> Opened:
    state: Any = machine._state
    header = address_of(letter.header).header(T.BAD_SHARE, 0)
    link = state.view.link(site, T.BAD_SHARE, state.ctx2, header.fresh)
    return Opened(
        T.BAD_SHARE, header, b"", lambda head, plain: seal_frame(address_of(head), head.type, plain, link), Complaint
    )


def _bad_holder(body: Any, random: Random) -> Body:
    replace = msgspec.structs.replace
    field = "of_keys" if body.of_keys and random.random() < 0.5 else "of_seeds"
    shares = unpack_records(Share, getattr(body, field))
    place = random.randrange(len(shares))
    words = random.choice((bytes(64), b"\xff" * 64, shares[place - 1].words, bytes.fromhex("00000100") * 16))
    shares[place] = shares[place]._replace(words=words)
    if random.random() < 0.2:
        return replace(body, of_seeds=body.of_keys, of_keys=body.of_seeds)
    return replace(body, **{field: pack_records(shares)})


def _bad_dealer(protocol: SiteProtocol, site: int, body: Any, random: Random) -> bytes:
    """R1 of a dealer that lies about its key, its seed, or the shares of all or one of its holders.

    Where its own half would notice that the coordinator returns another entry, its memory is changed to go along.
    """
    replace = msgspec.structs.replace
    state: Any = protocol._state
    choice = random.choice(
        ("low order", "seed", "unopenable", "uncommitted", "another secret", "out of range", "65536")
    )
    if choice == "low order":
        return encode_body(replace(body, public_key=random.choice(LOW_ORDER)))
    if choice == "unopenable":
        items = unpack_records(DealtShares, body.dealt)
        place = random.randrange(len(items))
        items[place] = items[place]._replace(sealed=random.randbytes(len(items[place].sealed)))
        return encode_body(replace(body, dealt=pack_records(items)))
    if choice == "seed":  # commits to one seed, deals and masks with another
        other = replace(body, seed_commitment=random.randbytes(32))
        object.__setattr__(state, "seed_commitment", other.seed_commitment)
        return encode_body(_dealt_again(state, site, body, other, None, True))
    changes = {
        "out of range": lambda: b"\xff" * 128,
        "65536": lambda: (65_536).to_bytes(4, "little") * 32,  # rebuilds words that no secret has
        "another secret": lambda: _random_share(random) + _random_share(random),
        "uncommitted": lambda: _random_share(random) + _random_share(random),
    }
    return encode_body(_dealt_again(state, site, body, body, changes[choice], choice != "uncommitted"))


def _random_share(random: Random) -> bytes:
    return np.frombuffer(random.randbytes(32), "<u2").astype("<u4").tobytes()


def _dealt_again(
    state: Any, dealer: int, old: Any, new: Any, shares: Callable[[], bytes] | None, is_committed: bool
) -> Any:
    """The dealer's R1 with every pair of shares sealed again, changed and committed to as asked."""
    attempt = state.attempt
    items = []
    for item in unpack_records(DealtShares, old.dealt):
        channel = attempt.view.channels.key(item.site)
        key = share_key(channel, attempt.ctx1, dealer, item.site, old.public_key, old.seed_commitment)
        plain = unseal(key, item.sealed, lp(dealer, item.site, item.commitment_s, item.commitment_b))
        plain = plain if shares is None else shares()
        g, h = item.commitment_s, item.commitment_b
        if is_committed:
            g = key_share_commitment(attempt.ctx1, dealer, item.site, plain[:64])
            h = seed_share_commitment(attempt.ctx1, dealer, item.site, plain[64:])
        key = share_key(channel, attempt.ctx1, dealer, item.site, new.public_key, new.seed_commitment)
        items.append(DealtShares(item.site, g, h, seal(key, plain, lp(dealer, item.site, g, h))))
    return msgspec.structs.replace(new, dealt=pack_records(items))
