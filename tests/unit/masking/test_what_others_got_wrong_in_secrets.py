"""What others got wrong in secrets: seeds of few bits, weights in clear beside the masks, keys kept after their round.

The table of test_what_others_got_wrong.py names these tests. A control runs the same attack against a copy with the
mistake in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from attackers_view import has_lanes, reachable, unmask, upload, values_of, width_mask

from secure_frl.errors import RoundAborted
from secure_frl.masking import contexts, keys, prg, site_states, unmasking
from secure_frl.masking.keys import KeyPair, pair_key, self_key, share_key
from secure_frl.masking.site_shares import seed_commitment
from secure_frl.secure_sum import SiteId
from secure_frl.wire import envelope
from secure_frl.wire.envelope import HEADER_BYTES, read_header
from secure_frl.wire.hashing import lp
from secure_frl.wire.messages import MessageType
from secure_frl.wire.records import DealtShares, unpack_records


def record_masks(monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes] = lambda key: key) -> list[Any]:
    """Note (purpose, context, sites, key) of every mask key derived, after changing the key."""
    genuine, seen = keys.derive, []

    def derive(secret: bytes, salt: bytes, purpose: str, *fields: Any) -> bytes:
        key = genuine(secret, salt, purpose, *fields)
        if purpose in ("pair-mask", "self-mask"):
            key = change(key)
            seen.append((purpose, salt, fields, key))
        return key

    monkeypatch.setattr(keys, "derive", derive)
    return seen


# --- folded seeds ----------------------------------------------------------------------------------------------------


def test_no_two_masks_share_a_stream_and_every_key_has_256_bits(federation, monkeypatch):
    parties, seen = federation(5), record_masks(monkeypatch)
    epoch, model = parties.open(), b"first model"
    for number, attempt in ((1, 0), (2, 0), (3, 1)):
        machine = parties.begin(epoch, number, attempt)
        parties.drive(machine, {"R1p": [2]})
        parties.publish(machine, model)
        model = parties.hosts[0].model

    streams = {}
    for purpose, salt, fields, key in seen:
        streams.setdefault(key, set()).add((purpose, salt, fields))
    assert len(streams) == 3 * (5 + 10)  # a self mask a site and a pair mask a pair, new in each round
    assert all(len(uses) == 1 for uses in streams.values())
    assert {len(key) for key in streams} == {32}
    bits = np.array([list(key) for key in streams], np.uint8)
    ones = np.unpackbits(bits, axis=1).sum(axis=0)  # each of the 256 bits takes both values among 45 keys: 2^-44 each
    assert ones.min() > 0
    assert ones.max() < len(streams)


SPACE = 1 << 12  # 4,096 keys instead of 2^32: the search of the same loop over 2^32 is what took 7 core-hours


def fold(key: bytes) -> bytes:
    """Return a key out of a space so small that it can be searched."""
    return (int.from_bytes(key[:4], "big") % SPACE).to_bytes(32, "big")


def search(parties: Any) -> list[int] | None:
    """The coordinator with site 2 of three sites looks for the one mask between sites 0 and 1 that it lacks."""
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    machine.close_stage()
    mate = parties.sites[2]._state.keys  # the colluding site gives away its own key
    parties.exchange(machine)
    for _ in range(2):
        machine.close_stage()
        parties.exchange(machine)
    state = machine._state  # all shares are in: the coordinator rebuilds every self mask, as it should
    words, adder = upload(parties, 0), prg.PairwiseMasks(parties.constants.length + 4)
    adder.add_(words, self_key(unmasking._rebuild(state, SiteId(0), 3), state.ctx2, 0), -1)
    adder.add_(words, pair_key(mate, state.members[0].public_key, state.ctx2, 0, 2), -1)
    for number in range(SPACE):
        tried = words.copy()
        adder.add_(tried, number.to_bytes(32, "big"), -1)
        if has_lanes(tried & width_mask(parties)):
            return values_of(tried & width_mask(parties), parties)
    return None


def test_a_search_of_a_small_space_opens_no_input(federation):
    assert search(federation(3)) is None


def test_control_a_folded_seed_is_found_by_search(federation, monkeypatch):
    parties = federation(3)
    record_masks(monkeypatch, fold)

    assert search(parties) == parties.values[0].tolist()


# --- weights in clear ------------------------------------------------------------------------------------------------


def visible(parties: Any, site: int) -> list[tuple[int, bytes]]:
    """Return what a carrier sees of a site beside masked words and their tag: all headers, all other frames."""
    shown = []
    for direction, who, frame in parties.frames:
        kind = read_header(frame).type
        if (direction, who) == ("up", site):
            shown.append((kind, frame[:HEADER_BYTES] if kind == MessageType.R2 else frame))
    return shown


def of_few_and_many_units(federation: Any) -> list[Any]:
    """Two runs with the same secrets; site 0 has no units at all in the first."""
    runs = []
    for many in (False, True):
        parties = federation(3)
        parties.values[0] = 900 if many else 0
        parties.drive(parties.begin(parties.open()))
        runs.append(parties)
    return runs


def test_nothing_beside_the_masked_words_depends_on_the_data(federation):
    few, many = of_few_and_many_units(federation)

    assert visible(few, 0) == visible(many, 0)
    assert upload(few, 0).tolist() != upload(many, 0).tolist()
    assert not has_lanes(upload(few, 0))  # the weight lane is masked like every value


class ClearWeight(prg.PairwiseMasks):
    """Masks everything but the weight lane: num_examples leaves as it is."""

    __slots__ = ()

    def add_all_(self, accumulator: np.ndarray, masks: Iterable[tuple[bytes, int]]) -> None:
        weight = accumulator[-2]
        super().add_all_(accumulator, masks)
        accumulator[-2] = weight


def test_control_a_weight_beside_the_masked_words_is_read(federation, monkeypatch):
    monkeypatch.setattr(site_states, "mask_adder", lambda constants: ClearWeight(constants.length + 4))
    parties = federation(3)
    genuine = parties.hosts[0].contribute

    def weighted(context: Any) -> Any:
        vector = genuine(context)
        vector.words[-2] = 4711  # the number of examples
        return vector

    parties.hosts[0].contribute = weighted
    with pytest.raises(RoundAborted):
        parties.drive(parties.begin(parties.open()))  # here the lane would even break the sum: LaneMismatch

    assert upload(parties, 0)[-2] == 4711


# --- secrets kept after the round ------------------------------------------------------------------------------------


@dataclass
class Recorded:
    """A carrier's records of round 1, and the site seized in round 2."""

    parties: Any
    state: Any  # the coordinator's, for public keys and contexts
    ctx1: bytes

    def open_input(self) -> list[int] | None:
        """Try every secret of the seized site 0 as mask key and seed on its input of round 1."""
        held = set(reachable(self.parties.sites[0]))
        pairs = [KeyPair.from_secret(secret) for secret in held]
        dealt = self.state.members[0]
        for pair in pairs:
            if pair.public == dealt.public_key:
                for seed in held:
                    if seed_commitment(self.ctx1, SiteId(0), seed) == dealt.seed_commitment:
                        return values_of(unmask(self.parties, self.state, 0, seed, pair), self.parties)
        return None

    def open_shares(self) -> int:
        """Try every secret of the seized site as channel key on the shares that it was dealt in round 1."""
        opened = 0
        for channel in set(reachable(self.parties.sites[0])):
            for item in unpack_records(DealtShares, self.state.dealt.of(SiteId(0))):
                dealer, dealt = item.site, self.state.members[SiteId(item.site)]
                key = share_key(channel, self.ctx1, dealer, 0, dealt.public_key, dealt.seed_commitment)
                try:
                    envelope.unseal(key, item.sealed, lp(dealer, 0, item.commitment_s, item.commitment_b))
                except envelope.BadSignature:
                    continue
                opened += 1
        return opened


def seize_in_round_two(federation: Any) -> Recorded:
    parties = federation(3)
    epoch = parties.open()
    first = parties.begin(epoch)
    for _ in range(4):
        parties.exchange(first)
        state = first._state
        first.close_stage()
    parties.publish(first)
    recorded = list(parties.frames)
    second = parties.begin(epoch, 2, tag=contexts.model_tag(parties.hosts[0].model))
    parties.exchange(second)
    parties.frames = recorded
    return Recorded(parties, state, first._view.ctx1)


def test_a_site_seized_after_the_round_opens_nothing(federation):
    recorded = seize_in_round_two(federation)

    assert recorded.open_input() is None
    assert recorded.open_shares() == 0
    assert len(set(reachable(recorded.parties.sites[0]))) > 10  # the search does reach its present secrets


def test_control_a_site_that_keeps_its_secrets_opens_its_input(federation, monkeypatch):
    key = next(key for key in site_states.TABLE if key[1] is MessageType.R1P)
    genuine = site_states.TABLE[key]

    def keeping(party: Any, state: Any, *message: Any) -> Any:
        party.host.kept = state  # "for debugging"
        return genuine(party, state, *message)

    monkeypatch.setitem(site_states.TABLE, key, keeping)
    recorded = seize_in_round_two(federation)

    assert recorded.open_input() == recorded.parties.values[0].tolist()


def test_control_a_site_that_keeps_old_channel_keys_opens_old_shares(federation, monkeypatch):
    monkeypatch.setattr(keys.Channels, "advance_to", lambda self, number: setattr(self, "at_round", number))
    monkeypatch.setattr(keys.Channels, "key_at", lambda self, peer, number: self._keys[peer])  # no ratchet

    assert seize_in_round_two(federation).open_shares() == 2
