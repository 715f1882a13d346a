"""Which changed messages of an insider a receiver may accept: the table of section 5, written once more.

`is_acceptable` looks at the plaintext that was sealed and at the truth that the test knows (the other parties' own
memories). It shares no check with the package: only its decoder's types, strict msgspec structs, are used to read;
packed records are cut apart here.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from fault_insider import LOW_ORDER, Opened, listed_of
from fault_oracle import is_connected
from fault_world import next_model

from secure_frl.masking.contexts import config_hash, model_tag, survivors_hash, transcript_hash
from secure_frl.wire.hashing import LABEL, lp
from secure_frl.wire.messages import MessageType
from secure_frl.wire.registry import REGISTRY, Sizes
from secure_frl.wire.signatures import signed_bytes

T = MessageType
_P = 2**255 - 19


def is_acceptable(world: Any, machine: Any, site: int, letter: Opened, plain: bytes) -> bool:
    """Whether the receiver of this message may take it."""
    body = readable(world, machine, site, letter, plain)
    return body is not None and _RULES[letter.kind](world, machine, site, letter, body)


def whom_to_blame(world: Any, machine: Any, site: int, letter: Opened, plain: bytes) -> set[int]:
    """Whom the receiver must blame: a site the dealers whose mail in R1' is not what they sent, and nobody else.

    Of a complaint, whom the coordinator must note as blamed: it cannot tell a cheating dealer from a lying complainer,
    but it can tell who deals to whom. Empty where no complaint may come of the message.
    """
    body = readable(world, machine, site, letter, plain)
    if body is None or letter.kind not in (T.R1P, T.BAD_SHARE):
        return set()
    if letter.kind is T.R1P:
        return _spoilt(world, machine, site, letter, body) or set()
    named, others = list(body.dealers), _beside(machine, site) & set(machine._state.members)
    return set(named) if named == sorted(set(named) & others) else set()


def readable(world: Any, machine: Any, site: int, letter: Opened, plain: bytes) -> Any:
    """The body behind a right header, of R1' with the list; None where section 6 refuses it whatever it says."""
    if letter.header.type != letter.kind or letter.header.session != world.charter.terms.session:
        return None
    if len(plain) != len(letter.plain) and _has_one_length(machine, site, letter):
        return None
    if not _addressed(world, machine, site, letter):
        return None
    body_type = letter.body_type
    if body_type is None:
        return plain
    listed = b""
    if letter.kind is T.R1P:
        listed, plain = listed_of(plain)
    try:
        body = msgspec.msgpack.decode(plain, type=body_type)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError):
        return None
    spec = REGISTRY[letter.kind]
    constants = world.charter.constants
    limit = spec.limit(Sizes(constants.sites, constants.length, constants.modulus_bits))
    if len(plain) > limit or (spec.exact and len(plain) != limit):
        return None
    return (body, listed) if letter.kind is T.R1P else body


def _has_one_length(machine: Any, site: int, letter: Opened) -> bool:
    """Whether only one length fits: of R1 by rule; of R0 since its header is under the tag of the sealed model."""
    return letter.kind is T.R1 or (letter.kind is T.R0 and machine._view.models.get(site) is not None)


def _addressed(world: Any, machine: Any, site: int, letter: Opened) -> bool:
    """Whether the header names these parties and this attempt, with the fresh bytes of who must have made them."""
    head, coordinator = letter.header, 2**64 - 1
    to_site = REGISTRY[letter.kind].to_site
    if (head.sender, head.receiver) != ((coordinator, site) if to_site else (site, coordinator)):
        return False
    if letter.kind in (T.E0, T.E1, T.E2):
        return True  # the epoch's number is a matter of the rule
    if letter.kind in (T.E0_REPLY, T.E1_REPLY, T.E2_REPLY):
        return (head.epoch, head.round, head.attempt) == (machine._epoch, 0, 0)
    context = machine._view.context
    if letter.kind is T.R0:
        return True
    if (head.epoch, head.round, head.attempt) != (context.epoch, context.round, context.attempt):
        return False
    if letter.kind is T.R1:
        return head.fresh == world.sites[site]._state.attempt.fresh_site
    return head.fresh == (machine._view.fresh if letter.kind is T.R5 else machine._view.fresh_of[site])


def _point(key: bytes) -> int:
    return (int.from_bytes(key, "little") & (2**255 - 1)) % _P


def _is_low(key: bytes) -> bool:
    # the five u-coordinates of order 1, 2, 4 and 8 (RFC 7748, section 6.1, and its errata discussion)
    eight = (
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
    return _point(key) in (0, 1, _P - 1, *eight)


def is_signed(key: bytes, signature: bytes, purpose: str, *fields: Any) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed_bytes(purpose, *fields))
    except InvalidSignature:
        return False
    return True


# --- to a site -------------------------------------------------------------------------------------------------------


def _e0(world: Any, machine: Any, site: int, letter: Opened, body: Any) -> bool:
    register = world.registers[site]
    number, _, stage = register.rows[-1] if register.rows else (0, 0, "closed")
    closed = number if stage in ("R3b", "R4", "closed") else number - 1  # section 13
    in_time = world.now < body.expiry_s <= world.now + 86_400
    return body.epoch == letter.header.epoch > register.epoch and body.first_round > closed and in_time


def _e1(world: Any, machine: Any, site: int, letter: Opened, body: Any) -> bool:
    terms, ids = world.charter.terms, [entry.site for entry in body.entries]
    own = [entry for entry in machine._state.entries if entry.site == site]
    keys = [_point(entry.public_key) for entry in body.entries] + [_point(machine._keys.public)]
    if _is_sparse(world):
        keys = []  # looked at when the channels are opened, at E2
    fixed = (terms.roster_hash, machine._expiry_s)
    return (
        letter.header.epoch == machine._epoch
        and ids == sorted(set(ids))
        and len(ids) >= (terms.constants.sites if _is_sparse(world) else terms.constants.min_survivors)
        and all(len(entry.nonce_commitment) == (32 if _is_sparse(world) else 0) for entry in body.entries)
        and all(site < len(terms.site_public_keys) for site in ids)
        and all(
            is_signed(
                terms.site_public_keys[entry.site],
                entry.signature,
                "epoch",
                *(terms.session, machine._epoch, entry.site, entry.public_key, entry.nonce_commitment, *fixed),
            )
            for entry in body.entries
        )
        and len(set(keys)) == len(keys)
        and all(entry in body.entries for entry in own)
    )


def _is_sparse(world: Any) -> bool:
    return bool(world.charter.constants.profile == "cross_device")


def _e2(world: Any, machine: Any, site: int, letter: Opened, body: Any) -> bool:
    return letter.header.epoch == machine._epoch and body.nonces == machine._state.nonces


def _beside(machine: Any, site: int) -> set[int]:
    return set(machine._view.graph.neighbours(site))


def _holds(machine: Any, sites: list[int], t: int) -> bool:
    """Whether the seed of each of these sites has t holders among them."""
    return all(1 + len(_beside(machine, site) & set(sites)) >= t for site in sites)


def _r0(world: Any, machine: Any, site: int, letter: Opened, body: Any) -> bool:
    head, constants, epoch = letter.header, world.charter.constants, world.epoch
    cohort = list(body.cohort)
    model = machine._view.models.get(site)
    has_model = model is not None
    if has_model and model != world.hosts[site].model:
        return False
    if has_model and head != machine._view.address(site, machine._view.fresh).header(T.R0, head.body_bytes):
        return False  # the model was sealed under another header
    return (
        head.epoch == epoch.epoch
        and epoch.first_round <= head.round < epoch.first_round + 64
        and head.attempt < 2**64
        and head.fresh == body.fresh
        and cohort == sorted(set(cohort))
        and set(cohort) <= set(epoch.members)
        and site in cohort
        and len(cohort) >= (constants.sites if _is_sparse(world) else constants.min_survivors)
        and body.config_hash == config_hash(constants)
        and body.model_tag == model_tag(world.hosts[site].model)
        and body.sealed_digest == machine_sealed_digest(letter)
    )


def machine_sealed_digest(letter: Opened) -> bytes:
    return msgspec.msgpack.decode(letter.plain, type=REGISTRY[T.R0].body).sealed_digest


def _cut(data: bytes, *sizes: int) -> list[tuple[Any, ...]] | None:
    """Packed records, ids (4 bytes) as numbers; None for a part of one."""
    width = sum(sizes)
    if len(data) % width:
        return None
    found = []
    for start in range(0, len(data), width):
        ends = [start + sum(sizes[:at]) for at in range(len(sizes) + 1)]
        parts = [data[a:b] for a, b in pairwise(ends)]
        found.append(tuple(int.from_bytes(part, "big") if len(part) == 4 else part for part in parts))
    return found


_DEALT, _CONFIRMATION = (4, 32, 32, 144), (4, 4, 32, 32)


def _rows(listed: bytes) -> list[tuple[int, bytes, bytes]] | None:
    """The members in lp form; None for any other bytes."""
    cut = _cut(listed, 4, 4, 8, 4, 32, 4, 32)
    if cut is None or any((a, b, c, d) != (84, 8, 32, 32) for a, b, _, c, _, d, _ in cut):
        return None
    return [(int.from_bytes(number, "big"), key, commitment) for _, _, number, _, key, _, commitment in cut]


def _r1p(world: Any, machine: Any, site: int, letter: Opened, sealed: Any) -> bool:
    return _spoilt(world, machine, site, letter, sealed) == set()


def _spoilt(world: Any, machine: Any, site: int, letter: Opened, sealed: Any) -> set[int] | None:
    """The dealers whose mail or entry is not theirs, in an R1' of the right form; None for another form."""
    body, listed = sealed
    near = _beside(machine, site) | {site}
    dealt, members, truth = _cut(body.dealt, *_DEALT), _rows(listed), _rows(listed_of(letter.plain)[0])
    mail = _cut(letter.body().dealt, *_DEALT)
    if dealt is None or members is None or truth is None or mail is None:
        return None
    ids = [member[0] for member in members]
    constants, cohort = world.charter.constants, machine._view.context.cohort
    keys = [_point(member[1]) for member in members]
    fits = (
        len(members) <= constants.sites
        and ids == sorted(set(ids))
        and site in ids
        and set(ids) <= set(cohort)
        and all(member in truth for member in members if member[0] == site)
        and len(set(keys)) == len(keys)
        and not set(keys) & {_point(key) for key in machine._view.epoch.public_keys}
        and [item[0] for item in dealt] == [item[0] for item in mail if item[0] in ids]
        and len(ids) >= constants.min_survivors
        and _holds(machine, ids, constants.threshold)
    )
    # of a site with which it shares no mask, a site cannot know the key; a false one makes it another ctx2 only
    false = [member for member in members if member[0] in near and member not in truth]
    return {record[0] for record in (*false, *(item for item in dealt if item not in mail))} if fits else None


def _r3a(world: Any, machine: Any, site: int, letter: Opened, body: Any) -> bool:
    state, survivors = machine._state, list(body.survivors)
    context, t = state.view.context, world.charter.constants.threshold
    fields = (context.session, context.round, context.attempt, state.ctx2, survivors)
    return (
        is_signed(world.charter.terms.coordinator_public_key, body.signature, "R3a", *fields)
        and survivors == sorted(set(survivors))
        and set(survivors) <= set(state.members)
        and site in survivors
        and len(survivors) >= world.charter.constants.min_survivors
        and _holds(machine, survivors, t)
        and all(
            not 0 < len(_beside(machine, lost) & set(survivors)) < t for lost in state.members if lost not in survivors
        )
        and is_connected(set(survivors), {one: _beside(machine, one) for one in survivors})
    )


def _r3c(world: Any, machine: Any, site: int, letter: Opened, body: Any) -> bool:
    state, survivors = machine._state, machine._state.survivors
    truth, senders = survivors_hash(state.ctx2, survivors), {site}
    items = _cut(body.items, *_CONFIRMATION)
    if items is None:
        return False
    for sender, receiver, digest, mac in items:
        if receiver != site or sender not in survivors or sender not in _beside(machine, site):
            continue
        channel = world.sites[site]._state.attempt.view.channels.key(sender)
        info = lp(LABEL, "confirm", min(site, sender), max(site, sender), digest)
        both = HKDF(SHA256(), 64, state.ctx2, info).derive(channel)
        if (both[:32] if sender < site else both[32:]) != mac:
            continue
        if digest != truth:
            return False  # the coordinator has named two sets
        senders.add(sender)
    return len(senders) >= world.charter.constants.threshold


def _r5(world: Any, machine: Any, site: int, letter: Opened, body: Any) -> bool:
    summed, constants = machine._state.summed, world.charter.constants
    ctx2 = world.sites[site]._state.ctx2 if hasattr(world.sites[site]._state, "ctx2") else None
    digest = hashlib.sha256(body.total).digest()
    signed = (summed.view.ctx1, list(body.survivors), digest, body.next_tag, body.transcript_hash)
    if not is_signed(world.charter.terms.coordinator_public_key, body.signature, "R5", *signed):
        return False
    if ctx2 is not None:
        true_set = survivors_hash(ctx2, body.survivors)
        if body.transcript_hash != transcript_hash(ctx2, true_set, digest) or body.survivors != summed.survivors:
            return False
    follows = model_tag(next_model(world.hosts[site].model, summed.total)) == body.next_tag
    return body.total == summed.total_bytes and follows and len(body.survivors) >= constants.min_survivors


# --- to the coordinator ----------------------------------------------------------------------------------------------


def _e0_reply(world: Any, machine: Any, site: int, letter: Opened, body: Any) -> bool:
    terms = world.charter.terms
    fields = (terms.session, machine._epoch, site, body.public_key, body.nonce_commitment)
    fields = (*fields, terms.roster_hash, machine._expiry_s)
    if len(body.nonce_commitment) != (32 if _is_sparse(world) else 0):
        return False
    taken = [machine._keys.public, *(entry.public_key for entry in machine._state.entries.values())]
    is_new = _point(body.public_key) not in [_point(key) for key in taken]
    return (
        is_signed(terms.site_public_keys[site], body.signature, "epoch", *fields)
        and is_new
        and not _is_low(body.public_key)
    )


def _e1_reply(world: Any, machine: Any, site: int, letter: Opened, body: Any) -> bool:
    terms = world.charter.terms
    if letter.kind is T.E1_REPLY and _is_sparse(world):
        return bool(body == letter.body())
    fields = (terms.session, machine._epoch, machine._state.epoch_hash)
    return is_signed(terms.site_public_keys[site], body.signature, "epoch-ack", *fields)


def _r1(world: Any, machine: Any, site: int, letter: Opened, body: Any) -> bool:
    view = machine._view
    others = sorted(_beside(machine, site))
    taken = [*(keys.public_key for keys in machine._state.members.values()), *view.epoch.public_keys]
    is_new = _point(body.public_key) not in [_point(key) for key in taken]
    dealt = _cut(body.dealt, *_DEALT)
    return dealt is not None and [item[0] for item in dealt] == others and is_new and not _is_low(body.public_key)


def _r2(world: Any, machine: Any, site: int, letter: Opened, plain: bytes) -> bool:
    constants = world.charter.constants
    size = 4 if constants.modulus_bits <= 32 else 8
    words = [int.from_bytes(plain[i : i + size], "little") for i in range(0, len(plain), size)]
    fits = all(word < 1 << constants.modulus_bits for word in words)
    return len(plain) == size * (constants.length + 4) and fits


def _r3b(world: Any, machine: Any, site: int, letter: Opened, body: Any) -> bool:
    others = sorted(_beside(machine, site) & set(machine._state.survivors))
    items = _cut(body.items, *_CONFIRMATION)
    return items is not None and [item[:2] for item in items] == [(site, other) for other in others]


def _r4(world: Any, machine: Any, site: int, letter: Opened, body: Any) -> bool:
    return body == msgspec.msgpack.decode(letter.plain, type=REGISTRY[T.R4].body)


def _r5_reply(world: Any, machine: Any, site: int, letter: Opened, body: Any) -> bool:
    return True


def _never(world: Any, machine: Any, site: int, letter: Opened, body: Any) -> bool:
    return False  # a complaint is always noted under the name BadShare, never as an answer


_RULES = {
    T.E0: _e0,
    T.E1: _e1,
    T.E2: _e2,
    T.E2_REPLY: _e1_reply,
    T.R0: _r0,
    T.R1P: _r1p,
    T.R3A: _r3a,
    T.R3C: _r3c,
    T.R5: _r5,
    T.E0_REPLY: _e0_reply,
    T.E1_REPLY: _e1_reply,
    T.R1: _r1,
    T.R2: _r2,
    T.R3B: _r3b,
    T.R4: _r4,
    T.R5_REPLY: _r5_reply,
    T.BAD_SHARE: _never,
}
__all__ = ["LOW_ORDER", "is_acceptable", "is_signed", "readable", "whom_to_blame"]
