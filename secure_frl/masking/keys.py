"""Every secret of an epoch and a round, with every key derived from them; memory only.

A secret is a field with repr=False in a class without comparison; it is dropped with the state that holds it. Each
AEAD or MAC key made here seals one message in its life, because the sender's fresh bytes, the stage and the context
are inside it. Channel keys ratchet forward round by round: a site seized in round r opens no earlier round.
Source: docs/protocol.md, section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from secure_frl.errors import KeyRefused, LocalProtocolError
from secure_frl.secure_sum import RandomSource
from secure_frl.wire.hashing import Field, labelled, lp, lp_of_hashes, lp_of_ids
from secure_frl.wire.messages import STAGE_NAMES, MessageType

SECRET_BYTES = 32
_SHA256 = SHA256()
_UNIQUE_BELOW = 0x7F  # the highest byte of a key below 2^255 - 2^248, which is encoded in its one way
_FIELD = 2**255 - 19


def derive(secret: bytes, salt: bytes, purpose: str, *fields: Field) -> bytes:
    """Return KDF(ikm, salt, purpose, fields...) = HKDF-SHA256, 32 bytes, info lp(LABEL, purpose, fields...)."""
    return _expand(secret, salt, labelled(purpose) + lp(*fields))


def _expand(secret: bytes, salt: bytes, info: bytes, size: int = SECRET_BYTES) -> bytes:
    """Return HKDF-SHA256 under an info that is encoded already."""
    return HKDF(_SHA256, size, salt, info).derive(secret)


@dataclass(frozen=True, slots=True, eq=False)
class KeyPair:
    """An X25519 pair. The secret stays in this process; reuse over rounds would join their masks."""

    public: bytes
    secret: bytes = field(repr=False)
    _private: X25519PrivateKey = field(repr=False)  # made once: to load raw bytes costs as much as an exchange

    @classmethod
    def draw(cls, random: RandomSource) -> KeyPair:
        """Return a fresh pair."""
        return cls.from_secret(random.take(SECRET_BYTES))

    @classmethod
    def from_secret(cls, secret: bytes) -> KeyPair:
        """Return the pair of 32 raw bytes."""
        private = X25519PrivateKey.from_private_bytes(secret)
        return cls(private.public_key().public_bytes_raw(), secret, private)

    def exchange(self, public: bytes) -> bytes:
        """Return the shared secret. Raises KeyRefused for a low-order key, whose result everybody knows."""
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise KeyRefused("expected an X25519 key of full order, got a low-order one. Exclude its sender.") from None


def channel_key(own: KeyPair, public: bytes, epoch_digest: bytes, one: int, other: int) -> bytes:
    """Return chan_ij,e, which only starts the ratchet."""
    return derive(own.exchange(public), epoch_digest, "chan", min(one, other), max(one, other))


@dataclass(slots=True, eq=False)
class Channels:
    """One party's channel keys of an epoch, at one round; older rounds are gone.

    at_round: first_round - 1 before the first round.
    """

    epoch_hash: bytes
    at_round: int
    _keys: dict[int, bytes] = field(repr=False)

    def key(self, peer: int) -> bytes:
        """Return chan with `peer` in the present round; it only derives."""
        return self._keys[peer]

    def key_at(self, peer: int, number: int) -> bytes:
        """Return chan with `peer` in this or a later round, without moving."""
        key = self._keys[peer]
        for step in range(self.at_round + 1, number + 1):
            key = derive(key, self.epoch_hash, "ratchet", step)
        return key

    def advance_to(self, number: int) -> None:
        """Start round `number`: every key steps through skipped numbers, the older keys are dropped."""
        if number < self.at_round:
            raise LocalProtocolError(f"expected a round from {self.at_round} on, got {number}. Open a new epoch.")
        if number > self.at_round:
            for step in range(self.at_round + 1, number + 1):
                info = labelled("ratchet") + lp(step)  # the same for every peer
                self._keys = {peer: _expand(key, self.epoch_hash, info) for peer, key in self._keys.items()}
            self.at_round = number


def open_channels(
    own: KeyPair, me: int, public_keys: Mapping[int, bytes], epoch_digest: bytes, first_round: int
) -> Channels:
    """Return the channels of an epoch. public_keys: of every peer, the coordinator under its id. Raises KeyRefused."""
    keys = {
        peer: channel_key(own, public, epoch_digest, me, peer) for peer, public in public_keys.items() if peer != me
    }
    return Channels(epoch_digest, first_round - 1, keys)


def points(public_keys: Iterable[bytes]) -> frozenset[bytes]:
    """Return the points of keys that are known to differ, for later comparisons."""
    return frozenset(key if key[-1] < _UNIQUE_BELOW else _point(key) for key in public_keys)


def check_distinct(public_keys: Iterable[bytes], beside: Set[bytes] = frozenset()) -> None:
    """Raise KeyRefused if two keys are equal, in whatever encoding: who copies a key copies another's part.

    beside: points of other keys that they must differ from too.
    """
    found = [key if key[-1] < _UNIQUE_BELOW else _point(key) for key in public_keys]
    different = set(found)
    if len(different) != len(found) or not different.isdisjoint(beside):
        raise KeyRefused("expected different public keys, got two equal ones. Exclude their senders.")


def first_words(public_keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the lowest 64 bits of each key's point, uint64 [keys]. public_keys: uint8 [keys, 32].

    Where these differ the keys differ. The honest ones' are equal with probability 2^-64 a pair.
    """
    words: NDArray[np.uint64] = np.ascontiguousarray(public_keys[:, :8]).view("<u8").ravel().astype(np.uint64)
    for row in np.flatnonzero(public_keys[:, 31] & _UNIQUE_BELOW == _UNIQUE_BELOW).tolist():
        words[row] = int.from_bytes(_point(public_keys[row].tobytes())[:8], "little")
    return words


def check_all_distinct(public_keys: NDArray[np.uint8], beside: Set[bytes], words_beside: NDArray[np.uint64]) -> None:
    """Do what check_distinct does for a long list, uint8 [keys, 32]. words_beside: first words of `beside`."""
    words = np.sort(np.concatenate([first_words(public_keys), words_beside]))
    if (words[1:] == words[:-1]).any():
        check_distinct([key.tobytes() for key in public_keys], beside)


def _point(public: bytes) -> bytes:
    """Return the u-coordinate's one encoding: the top bit masked, the rest modulo p. Source: RFC 7748, section 5."""
    return ((int.from_bytes(public, "little") & ((1 << 255) - 1)) % _FIELD).to_bytes(32, "little")


def share_key(channel: bytes, ctx1: bytes, dealer: int, holder: int, public: bytes, seed_commitment: bytes) -> bytes:
    """Return the key of one sealed pair of shares; the dealer's fresh key and seed are in it."""
    info = labelled("share") + lp_of_ids(dealer, holder) + lp_of_hashes(public, seed_commitment)
    return _expand(channel, ctx1, info)


def confirmations(channel: bytes, ctx2: bytes, me: int, other: int, survivors_digest: bytes) -> tuple[bytes, bytes]:
    """Return my word to the other that I saw this survivor set, and the other's to me, 32 bytes each.

    Both come out of one derivation, which nobody without the channel key can make: 64 bytes, the smaller id's first.
    """
    low, high = (me, other) if me < other else (other, me)
    info = labelled("confirm") + lp_of_ids(low, high) + lp(survivors_digest)
    both = _expand(channel, ctx2, info, 2 * SECRET_BYTES)
    first, second = both[:SECRET_BYTES], both[SECRET_BYTES:]
    return (first, second) if me == low else (second, first)


def link_key(channel: bytes, context: bytes, message_type: MessageType, fresh: bytes) -> bytes:
    """Return the key of one frame between a site and the coordinator, in the direction of its type."""
    down = message_type in _TO_SITE
    return derive(channel, context, "link", "down" if down else "up", STAGE_NAMES[message_type], fresh)


_T = MessageType
_TO_SITE = frozenset({_T.R0, _T.R1P, _T.R3A, _T.R3C, _T.R5, _T.R5C})


def pair_key(own: KeyPair, public: bytes, ctx2: bytes, one: int, other: int) -> bytes:
    """Return the key of the mask that two sites share. Raises KeyRefused."""
    return derive(own.exchange(public), ctx2, "pair-mask", min(one, other), max(one, other))


def self_key(seed: bytes, ctx2: bytes, site: int) -> bytes:
    """Return the key of a site's own mask."""
    return derive(seed, ctx2, "self-mask", site)
