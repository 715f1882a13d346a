"""What published implementations got wrong, as attacks by the coordinator or a peer on this one.

ENTRIES names the tests of each entry of secure_aggregation.md, section 12, that concerns this protocol: some stand in
other files, the missing ones here. Each attack here wins against a copy with the defence taken out (a test whose name
begins with test_control), so it is an attack; against the protocol it is refused by name or finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_frl.encoding import ring
from secure_frl.errors import CharterRefused, RoundAborted
from secure_frl.masking import (
    contexts,
    coordinator_states,
    keys,
    prg,
    site_attempt,
    site_epoch,
    site_states,
    unmasking,
)
from secure_frl.masking.keys import KeyPair, pair_key, self_key, share_key
from secure_frl.masking.secret_sharing import combine
from secure_frl.masking.site_shares import seed_commitment
from secure_frl.secure_sum import SiteId
from secure_frl.wire import envelope
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES, read_header
from secure_frl.wire.hashing import lp
from secure_frl.wire.messages import MessageType
from secure_frl.wire.records import DealtShares, unpack_records

ROOT = Path(__file__).parents[3]
ATTACKS, STATES = "test_protocol_attacks.py", "test_site_states.py"
HERE, WORDS = "test_what_others_got_wrong.py", "test_what_others_got_wrong_in_words.py"
ENTRIES: dict[str, list[tuple[str, str]]] = {  # entry -> (file beside this one, test)
    "one victim in both lists": [
        (ATTACKS, "test_a_site_is_never_both_survivor_and_lost"),
        (ATTACKS, "test_control_sites_that_confirm_twice_give_a_victim_away"),
    ],
    "protocol parameters taken from the server": [
        (ATTACKS, "test_constants_that_the_sites_have_not_signed_are_refused"),
        (HERE, "test_sites_keep_their_own_constants_when_the_refusal_is_taken_out"),
        (HERE, "test_control_sites_that_take_the_coordinators_constants_send_their_signs"),
    ],
    "folded seeds": [
        (HERE, "test_no_two_masks_share_a_stream_and_every_key_has_256_bits"),
        (HERE, "test_a_search_of_a_small_space_opens_no_input"),
        (HERE, "test_control_a_folded_seed_is_found_by_search"),
    ],
    "weights in clear": [
        (HERE, "test_nothing_beside_the_masked_words_depends_on_the_data"),
        (HERE, "test_control_a_weight_beside_the_masked_words_is_read"),
    ],
    "no authentication of keys": [
        ("test_site_epoch.py", "test_a_list_of_keys_is_believed_only_as_everybody_signed_it"),
        (HERE, "test_a_coordinator_cannot_play_all_other_sites"),
        (HERE, "test_control_without_signatures_the_coordinator_plays_all_other_sites"),
    ],
    "no agreement on survivors": [
        (ATTACKS, "test_several_survivor_sets_open_nothing_and_are_named"),
        (ATTACKS, "test_control_without_the_confirmation_check_a_sum_of_too_few_opens"),
    ],
    "secrets kept after the round": [
        (STATES, "test_secrets_are_gone_when_their_life_is_over"),
        (HERE, "test_a_site_seized_after_the_round_opens_nothing"),
        (HERE, "test_control_a_site_that_keeps_its_secrets_opens_its_input"),
        (HERE, "test_control_a_site_that_keeps_old_channel_keys_opens_old_shares"),
    ],
    "thresholds of 2": [
        ("test_contexts.py", "test_constants_that_break_the_claims_are_refused"),
        (HERE, "test_two_sites_with_the_coordinator_open_nothing"),
        (HERE, "test_control_a_threshold_of_two_lets_two_sites_open_an_input"),
    ],
    "silent overflow": [
        ("test_contexts.py", "test_the_bit_budget_is_exact"),
        (WORDS, "test_a_ring_that_a_sum_could_leave_is_refused"),
        (WORDS, "test_control_without_the_bit_budget_a_sum_wraps_in_silence"),
    ],
    "a mask that is one float per vector": [
        (WORDS, "test_differences_of_coordinates_are_hidden"),
        (WORDS, "test_control_one_word_for_a_whole_vector_shows_every_difference"),
    ],
    "float masks correlated with the plain vector": [
        (ATTACKS, "test_an_upload_equals_the_plain_words_only_under_unsafe_plain"),
        (WORDS, "test_an_upload_does_not_correlate_with_the_update"),
        (WORDS, "test_control_normal_masks_correlate"),
    ],
    "bit budgets": [
        (WORDS, "test_every_number_of_sites_has_the_width_that_it_needs"),
        (WORDS, "test_ten_sites_at_both_ends_of_the_range_sum_exactly"),
    ],
    "carry into the next element": [
        (WORDS, "test_ten_sites_at_both_ends_of_the_range_sum_exactly"),
        (WORDS, "test_control_packed_elements_carry_into_their_neighbours"),
    ],
    "failure after 70 rounds": [(WORDS, "test_eighty_rounds_over_two_epochs_are_exact")],
    "pickle from a peer": [
        (WORDS, "test_a_pickle_from_a_peer_is_malformed_and_runs_nothing"),
        (WORDS, "test_control_the_same_bytes_run_where_somebody_unpickles"),
        (WORDS, "test_no_module_can_unpickle"),
    ],
}


def test_every_entry_has_its_tests() -> None:
    absent = [
        (file, test)
        for tests in ENTRIES.values()
        for file, test in tests
        if f"def {test}(" not in (Path(__file__).parent / file).read_text()
    ]

    assert absent == []


# --- what an attacker records and computes ---------------------------------------------------------------------------


def frames_of(parties: Any, kind: MessageType, direction: str = "up") -> dict[int, bytes]:
    """Return the last frame of a type from (or to) each site."""
    return {s: f for d, s, f in parties.frames if d == direction and read_header(f).type == kind}


def upload(parties: Any, site: int) -> np.ndarray:
    frame = frames_of(parties, MessageType.R2)[site]
    return np.frombuffer(frame[HEADER_BYTES:-TAG_BYTES], "<u4").copy()


def width_mask(parties: Any) -> np.uint32:
    return np.uint32((1 << parties.constants.modulus_bits) - 1)


def has_lanes(words: np.ndarray, weight: int = 1) -> bool:
    """Whether words carry the lanes of one plain vector."""
    return [int(words[at]) for at in (0, 1, -2, -1)] == [1, 0, weight, 0]


def values_of(words: np.ndarray, parties: Any) -> list[int]:
    found: list[int] = ring.centred(words, parties.constants.modulus_bits)[2:-2].tolist()
    return found


def unmask(parties: Any, state: Any, victim: int, seed: bytes, pair: KeyPair) -> np.ndarray:
    """Return what is left of an upload when both secrets of its sender are tried on it."""
    words, adder = upload(parties, victim), prg.PairwiseMasks(parties.constants.length + 4)
    adder.add_(words, self_key(seed, state.ctx2, victim), -1)
    for other, dealt in state.members.items():
        if other != victim:
            key = pair_key(pair, dealt.public_key, state.ctx2, victim, other)
            adder.add_(words, key, -1 if victim < other else +1)
    return words & width_mask(parties)


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


# --- protocol parameters taken from the server -----------------------------------------------------------------------


def test_sites_keep_their_own_constants_when_the_refusal_is_taken_out(federation, monkeypatch):
    # the comparison of constants at R0 taken out: sites mask under what they signed, so nothing verifies at the
    # coordinator, whose other numbers are in its keys; R0 carries a hash of numbers, never a number to take
    parties = federation(5)
    genuine = site_attempt.check_announcement

    def credulous(party: Any, view: Any, header: Any, body: Any) -> None:
        own = type(body)(body.cohort, body.fresh, party.config_hash, body.model_tag, body.sealed_digest)
        genuine(party, view, header, own)

    monkeypatch.setattr(site_attempt, "check_announcement", credulous)
    epoch, signed = parties.open(), parties.terms
    parties.terms = replace(signed, constants=replace(parties.constants, protection="unsafe-plain"))
    machine = parties.begin(epoch)
    parties.exchange(machine)
    machine.close_stage()

    parties.exchange(machine)

    assert set(machine.excluded.values()) == {"BadSignature"}
    raw = [site._sent[MessageType.R1P].reply[HEADER_BYTES:-TAG_BYTES] for site in parties.sites]
    assert not any(has_lanes(np.frombuffer(words, "<u4")) for words in raw)


def test_control_sites_that_take_the_coordinators_constants_send_their_signs(federation):
    # a copy in which the coordinator's word is the charter: no masks, and w = 14, where a sign is one bit
    parties = federation(5, protection="unsafe-plain", modulus_bits=14)
    machine = parties.begin(parties.open())

    parties.drive(machine)

    signs = [(upload(parties, site)[2:-2] >> np.uint32(13)) == 1 for site in range(5)]
    assert [row.tolist() for row in signs] == (parties.values < 0).tolist()


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


# --- no authentication of keys ---------------------------------------------------------------------------------------


def play_all_others(federation: Any) -> tuple[bool, list[str]]:
    """The coordinator shows site 0 an epoch of puppets under its own keys, and takes their zeros off the sum."""
    honest, puppets = federation(5), federation(5, seed=9)
    puppets.keys = [honest.keys[0], *[replace_key(40 + i) for i in range(1, 5)]]
    puppets.terms = replace(
        puppets.terms, site_public_keys=tuple(key.public_key().public_bytes_raw() for key in puppets.keys)
    )
    puppets.values[1:] = 0
    puppets.sites = [honest.sites[0], *[puppets.start(SiteId(i)) for i in range(1, 5)]]
    try:
        total = puppets.drive(puppets.begin(puppets.open()))
    except RoundAborted:
        total = None
    refused = [name for name, _ in honest.logs[0]]
    is_opened = total is not None and 0 in total.contributors and total.integers.tolist() == honest.values[0].tolist()
    return is_opened, refused


def replace_key(number: int) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def test_a_coordinator_cannot_play_all_other_sites(federation):
    is_opened, refused = play_all_others(federation)

    assert not is_opened
    assert refused[0] == "BadSignature"


def test_control_without_signatures_the_coordinator_plays_all_other_sites(federation, monkeypatch):
    monkeypatch.setattr(site_epoch, "check_entry", lambda *entry: None)

    is_opened, refused = play_all_others(federation)

    assert is_opened  # the sum of one site and four zeros is that site's update
    assert refused == []


# --- secrets kept after the round ------------------------------------------------------------------------------------


def reachable(thing: object, seen: set[int] | None = None) -> Iterator[bytes]:
    """Yield every 32-byte string that a memory image of an object holds."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, bytes):
        if len(thing) == 32:
            yield thing
        return
    if isinstance(thing, dict):
        inner: list[Any] = [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset):
        inner = list(thing)
    else:
        names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        inner = [getattr(thing, name, None) for name in names] + list(getattr(thing, "__dict__", {}).values())
    for one in inner:
        yield from reachable(one, seen)


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


# --- thresholds of 2 -------------------------------------------------------------------------------------------------


def pool_two_sites(federation: Any, **changes: Any) -> list[int] | None:
    """The coordinator with sites 3 and 4 of five pools what they hold of site 0."""
    parties = federation(5, **changes)
    machine = parties.begin(parties.open())
    for _ in range(2):
        parties.exchange(machine)
        machine.close_stage()
    mates = {SiteId(site): parties.sites[site]._state for site in (3, 4)}
    seed = combine({site: mate.seed_shares[0] for site, mate in mates.items()})
    pair = KeyPair.from_secret(combine({site: mate.key_shares[0] for site, mate in mates.items()}))
    words = unmask(parties, machine._state, 0, seed, pair)
    return values_of(words, parties) if has_lanes(words) else None


def test_two_sites_with_the_coordinator_open_nothing(federation):
    assert pool_two_sites(federation) is None


def test_control_a_threshold_of_two_lets_two_sites_open_an_input(federation, monkeypatch):
    with pytest.raises(CharterRefused, match="2t > n"):
        federation(5, threshold=2, max_colluders=1, honest_shares=3)
    for module in (site_states, coordinator_states, contexts):
        monkeypatch.setattr(module, "check_constants", lambda constants: None)

    stolen = pool_two_sites(federation, threshold=2, max_colluders=1, honest_shares=3)

    assert stolen == federation(5).values[0].tolist()
