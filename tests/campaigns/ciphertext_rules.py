"""What may become of a changed message of encrypted sums: section 18 of docs/protocol.md, written once more.

`allowed` names the outcomes that a receiver may have. It looks at the plaintext that was sealed and at what the test
knows; slots of a ciphertext it has from who holds the key, and what they mean it works out itself, on plain integers.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import numpy as np
from ciphertext_world import BlindWorld, cipher_at
from fault_insider import Opened, listed_of
from mutation_rules import is_acceptable, is_signed, readable

from secure_frl.ckks.coordinator_epoch import BlindEpochOpening
from secure_frl.ckks.keys import Addressee, Package, _sealing_key
from secure_frl.errors import BadSignature
from secure_frl.masking.contexts import config_hash, sizes_of, survivors_hash, transcript_hash
from secure_frl.masking.coordinator_epoch import EpochOpening
from secure_frl.wire.envelope import unseal
from secure_frl.wire.messages import EncryptedTotal, MessageType
from secure_frl.wire.registry import REGISTRY

T = MessageType
REFUSED, ANSWERED = "refused", "answered"  # a site; of the coordinator: answered is taken
FOLLOWED, KEPT = "followed", "kept"  # a site's answers to R5C, which look alike from outside
_NO = frozenset({REFUSED})
_YES = frozenset({ANSWERED})


def inner_of(machine: Any) -> Any:
    """The machine of masking in which an opening still is, else the machine itself."""
    is_wrapped = isinstance(machine, BlindEpochOpening) and isinstance(machine._state, EpochOpening)
    return machine._state if is_wrapped else machine


def allowed(
    world: BlindWorld, machine: Any, site: int, letter: Opened, genuine: Opened, plain: bytes
) -> frozenset[str]:
    """The outcomes that this message may have. letter: as sent, its header included; genuine: what it was made of."""
    if letter.kind in _RULES:
        body = _read(world, letter, genuine, plain)
        return _NO if body is None else _RULES[letter.kind](world, machine, site, letter, body)
    if letter.kind is T.R0:
        return _YES if _r0(world, machine, site, letter, genuine, plain) else _NO
    return _YES if is_acceptable(world, inner_of(machine), site, letter, plain) else _NO


def _read(world: BlindWorld, letter: Opened, genuine: Opened, plain: bytes) -> Any:
    """The body behind a right header; None where sections 6 and 7 refuse it whatever it says."""
    spec, sizes, sent, right = REGISTRY[letter.kind], sizes_of(world.terms), letter.header, genuine.header
    names = ["type", "session", "epoch", "sender", "receiver", "key_id"]
    if not spec.protection.startswith("signed"):
        names += ["round", "attempt", "fresh"]
    elif not spec.to_site:
        names += ["round", "attempt"]
    if any(getattr(sent, name) != getattr(right, name) for name in names):
        return None
    behind = b""
    if letter.kind is T.R5C:
        behind, plain = listed_of(plain)
    limit = spec.limit(sizes)
    if len(plain) > limit or (spec.exact and len(plain) != limit) or len(behind) > spec.rest(sizes):
        return None
    if spec.body is None:
        return plain
    try:
        body = msgspec.msgpack.decode(plain, type=spec.body)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError):
        return None
    return (body, behind) if letter.kind is T.R5C else body


# --- the epoch's key -------------------------------------------------------------------------------------------------


def _e3(world: BlindWorld, machine: Any, site: int, letter: Opened, body: Any) -> frozenset[str]:
    host, epoch = world.host(site), machine._state.epoch
    may_make = host.settled is not None or epoch.first_round == 1
    return _YES if body.epoch_hash == epoch.epoch_hash and may_make else _NO


def _e3_reply(world: BlindWorld, machine: Any, site: int, letter: Opened, body: Any) -> frozenset[str]:
    return _YES if len(body.packages) == len(machine._state.epoch.listed) - 1 else _NO


def _package(world: BlindWorld, machine: Any, site: int, letter: Opened, body: Any) -> frozenset[str]:
    epoch, packed = machine._state.epoch, machine._state.packed
    if body.steward not in epoch.listed or body.steward == site:
        return _NO
    to = Addressee(world.terms.session, epoch.epoch_hash, site)
    fresh, state = body.package[:32], world.sites[site]._state
    assert hasattr(state, "view")
    key = _sealing_key(state.view.channels.key(body.steward), to, fresh)
    try:
        package = msgspec.msgpack.decode(unseal(key, body.package[32:], b""), type=Package)
    except (BadSignature, msgspec.MsgspecError, ValueError, RecursionError, OverflowError):
        return _NO
    secret_hash = hashlib.sha256(package.site_secret).digest()
    fields = (to.session, to.epoch_hash, site, package.key_id, secret_hash)
    settled = world.host(site).settled
    is_sound = (
        is_signed(world.terms.site_public_keys[body.steward], package.signature, "package", *fields)
        and package.epoch_hash == epoch.epoch_hash
        and hashlib.sha256(package.context).digest() == package.key_id
        and settled in (None, package.site_secret)
    )
    if is_sound and package.key_id in world.doubtful:
        return _YES | _NO
    return _YES if is_sound and package.key_id == packed.key_id else _NO  # no other context of ours is a key


def _package_reply(world: BlindWorld, machine: Any, site: int, letter: Opened, body: Any) -> frozenset[str]:
    return _YES if body.key_id == machine._state.packed.key_id else _NO


def _r6(world: BlindWorld, machine: Any, site: int, letter: Opened, body: Any) -> frozenset[str]:
    is_between = type(world.sites[site]._state).__name__ == "EpochOpen"  # not in a round that was given up
    return _YES if is_between and body.policy_tag == world.host(site).held_tag() else _NO


def _r6_reply(world: BlindWorld, machine: Any, site: int, letter: Opened, body: Any) -> frozenset[str]:
    return _YES if body.policy_tag == machine._tag else _NO


def _r0(world: BlindWorld, machine: Any, site: int, letter: Opened, genuine: Opened, plain: bytes) -> bool:
    body = readable(world, machine, site, letter, plain)
    if body is None or letter.header.key_id != genuine.header.key_id:
        return False
    head, constants, view, epoch = letter.header, world.terms.constants, machine._view, machine._view.epoch
    parcel, cohort, held = view.models.get(site), list(body.cohort), world.host(site).held_tag()
    if parcel is not None and head != view.address(site, view.fresh).header(T.R0, head.body_bytes):
        return False  # the parcel was sealed under another header
    told = msgspec.msgpack.decode(genuine.plain, type=REGISTRY[T.R0].body)
    has_it = body.model_tag == held or (parcel is not None and body.model_tag == told.model_tag)
    return (
        head.epoch == epoch.epoch
        and max(epoch.first_round, _closed(world, site) + 1) <= head.round < epoch.first_round + 64
        and head.fresh == body.fresh
        and cohort == sorted(set(cohort) & set(epoch.members))
        and len(cohort) == len(body.cohort)
        and site in cohort
        and len(cohort) >= constants.min_survivors
        and body.config_hash == config_hash(constants)
        and body.sealed_digest == told.sealed_digest
        and has_it
        and has_trusted_key(world, site)
    )


def has_trusted_key(world: BlindWorld, site: int) -> bool:
    """Whether fewer than three sums under this site's key were not followed."""
    cipher = cipher_at(world.sites[site])
    return cipher is not None and cipher.failures < 3


def _closed(world: BlindWorld, site: int) -> int:
    return max((row[0] for row in world.registers[site].rows), default=0)


# --- ciphertexts -----------------------------------------------------------------------------------------------------


def has_outer_form(chunk: bytes) -> bool:
    """Whether a chunk looks as section 18 says, byte for byte."""
    inner = len(chunk) - 17
    if not 1 << 14 <= inner < 1 << 21 or len(chunk) > 66_000:
        return False
    varint = bytes([inner % 128 + 128, inner // 128 % 128 + 128, inner // 16384])
    head = bytes.fromhex("0a02801012") + varint
    seal = bytes.fromhex("5ea11004"), bytes.fromhex("020000") + inner.to_bytes(8, "little")
    return (
        chunk[:8] == head and (chunk[8:12], chunk[13:24]) == seal and chunk[-9:] == bytes.fromhex("190000000000007042")
    )


def whole_chunks(world: BlindWorld, body: bytes) -> list[bytes] | None:
    """The chunks of a body in the outer form; None for any other bytes, and for ciphertexts of another form inside."""
    chunks: list[bytes] = []
    while body:
        size = int.from_bytes(body[:4], "big")
        chunk, rest = body[4 : 4 + size], body[4 + size :]
        if len(body) < 4 + size or not has_outer_form(chunk) or chunk in world.misformed:
            return None
        chunks.append(chunk)
        body = rest
    return chunks if len(chunks) == world.plan.chunks else None


def _r2c(world: BlindWorld, machine: Any, site: int, letter: Opened, body: bytes) -> frozenset[str]:
    chunks = whole_chunks(world, body)
    if chunks is None:
        return _NO
    encrypted = machine._view.encrypted
    alone = world.bodies[encrypted.contributors[0]] if len(encrypted.contributors) == 1 else b""
    if any(chunk in world.negated and world.negated[chunk] in alone for chunk in chunks):
        return _NO  # it would leave a sum that is readable without a key
    # what decrypts was a ciphertext; of what does not, the coordinator cannot know more than its form
    is_known = all(world.slots_of(chunk) is not None for chunk in chunks)
    return _YES if is_known else _YES | _NO


def _r5c(world: BlindWorld, machine: Any, site: int, letter: Opened, pair: Any) -> frozenset[str]:
    body, ciphertexts = pair
    constants, view, survivors = world.terms.constants, machine._state.view, list(body.survivors)
    digest = hashlib.sha256(body.correction + hashlib.sha256(ciphertexts).digest()).digest()
    fields = (view.ctx1, survivors, digest, b"", body.transcript_hash)
    state: Any = world.sites[site]._state
    if not is_signed(world.terms.coordinator_public_key, body.signature, "R5", *fields):
        return _NO
    if survivors != sorted(set(survivors) & set(view.context.cohort)) or len(survivors) < constants.min_survivors:
        return _NO
    confirmed = getattr(state, "survivors", None)
    if confirmed is not None and list(confirmed) != survivors:
        return _NO
    if hasattr(state, "ctx2"):
        told = survivors_hash(state.ctx2, survivors)
        if transcript_hash(state.ctx2, told, digest) != body.transcript_hash:
            return _NO
    correction = _correction(world, body.correction)
    if correction is None:
        return _NO
    return frozenset({FOLLOWED if summed(world, ciphertexts, correction, len(survivors)) is not None else KEPT})


def _correction(world: BlindWorld, data: bytes) -> list[int] | None:
    """The words of M, zeros under plain ckks; None for any other bytes."""
    constants = world.terms.constants
    size = 4 if constants.modulus_bits <= 32 else 8
    if constants.protection == "ckks":
        return None if data else [0] * world.plan.words
    words = [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]
    is_sound = len(data) == size * world.plan.words and max(words) < 1 << constants.modulus_bits
    return words if is_sound else None


def followed_values(world: BlindWorld, plain: bytes) -> list[int] | None:
    """The values of a sum that a site must follow, of R5C's plaintext."""
    ciphertexts, encoded = listed_of(plain)
    body = msgspec.msgpack.decode(encoded, type=EncryptedTotal)
    correction = _correction(world, body.correction)
    return None if correction is None else summed(world, ciphertexts, correction, len(body.survivors))


def summed(world: BlindWorld, ciphertexts: bytes, correction: list[int], count: int) -> list[int] | None:
    """The values that these ciphertexts and M come to; None where a site must not follow."""
    chunks = whole_chunks(world, ciphertexts)
    if chunks is None:
        return None
    read = [world.slots_of(chunk) for chunk in chunks]
    slots = [row for row in read if row is not None]
    if len(slots) != len(read):
        return None
    constants, words = world.terms.constants, joined(world, slots, count)
    if words is None:
        return None
    half = 1 << (constants.modulus_bits - 1)
    centred = [(word - m + half) % (2 * half) - half for word, m in zip(words, correction, strict=True)]
    lanes, values = (*centred[:2], *centred[-2:]), centred[2:-2]
    most = constants.sites * constants.bound + constants.noise_bound
    if lanes != (count, 0, count * constants.weight, 0) or max(map(abs, values)) > most:
        return None
    return values


def joined(world: BlindWorld, slots: list[np.ndarray], count: int) -> list[int] | None:
    """Slots to words modulo 2^w, as section 18 has it; None where one of its conditions fails."""
    bits, most = world.terms.constants.modulus_bits, 33 - (world.terms.constants.sites - 1).bit_length()
    widths = [bits] if bits <= most else [most] * (bits // most) + ([bits % most] if bits % most else [])
    each = -(-world.plan.words // 2046)
    words = [-count << (bits - 1)] * world.plan.words
    for number, row in enumerate(slots):
        limb, part = divmod(number, each)
        start, width = part * 2046, widths[limb]
        used = min(2046, world.plan.words - start)
        limbs = [int(value) + (count << (width - 1)) for value in row[2 : 2 + used]]
        if (int(row[0]), int(row[1])) != (count, count * (number + 1)) or any(row[2 + used :]):
            return None
        if min(limbs) < 0 or max(limbs) > count * ((1 << width) - 1):
            return None
        for at, value in enumerate(limbs):
            words[start + at] += value << sum(widths[:limb])
    return [word % (1 << bits) for word in words]


def _r5c_reply(world: BlindWorld, machine: Any, site: int, letter: Opened, body: Any) -> frozenset[str]:
    return _YES


_RULES = {
    T.E3: _e3,
    T.E3_REPLY: _e3_reply,
    T.PACKAGE: _package,
    T.PACKAGE_REPLY: _package_reply,
    T.R6: _r6,
    T.R6_REPLY: _r6_reply,
    T.R2C: _r2c,
    T.R5C: _r5c,
    T.R5C_REPLY: _r5c_reply,
}
__all__ = ["ANSWERED", "FOLLOWED", "KEPT", "REFUSED", "allowed", "followed_values", "has_trusted_key", "inner_of"]
