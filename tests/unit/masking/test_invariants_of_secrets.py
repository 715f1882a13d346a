"""The specification's invariants of secrets, over drawn schedules; a test is named by its invariant's number.

What a rebuilt key opens, what logs and errors say, how often a key is used.
Source: secure_aggregation.md, section 8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from attackers_view import has_lanes
from drawn_schedules import SITE, STAGES, examples, flipped
from hypothesis import given
from hypothesis import strategies as st
from small_federation import Federation

from secure_frl.encoding.lanes import to_ring_vector
from secure_frl.encoding.ring import reduce_
from secure_frl.errors import PeerError, RoundAborted
from secure_frl.masking import unmasking
from secure_frl.masking.keys import KeyPair, pair_key, self_key
from secure_frl.masking.prg import mask_adder
from secure_frl.secure_sum import COORDINATOR_ID, SiteId
from secure_frl.wire import envelope
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES
from secure_frl.wire.messages import MessageType

# --- 8: a late input and the rebuilt mask key ------------------------------------------------------------------------


@given(victim=SITE, seed=st.integers(1, 10**6), bits=st.sampled_from([20, 32, 33, 60]))
@examples(12)
def test_8_a_late_input_without_its_pair_masks_is_uniform_while_its_self_mask_stays(victim, seed, bits):
    parties = Federation(5, seed=seed, length=500, modulus_bits=bits)
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    own = parties.sites[victim]._state
    machine.close_stage()
    parties.exchange(machine, [victim])
    late = parties.sites[victim]._sent[MessageType.R1P].reply[HEADER_BYTES:-TAG_BYTES]
    machine.close_stage()
    parties.exchange(machine)
    machine.close_stage()
    parties.exchange(machine)
    state = machine._state
    rebuilt = KeyPair.from_secret(unmasking._rebuild(state, SiteId(victim), parties.constants.threshold))
    assert rebuilt.public == own.keys.public

    adder, words = mask_adder(parties.constants), np.frombuffer(late, own.words.dtype.newbyteorder("<")).copy()
    others = [site for site in range(5) if site != victim]
    keys = {other: pair_key(rebuilt, state.members[other].public_key, state.ctx2, victim, other) for other in others}
    adder.add_all_(words, [(key, -1 if victim < other else +1) for other, key in keys.items()])
    reduce_(words, bits)

    plain = to_ring_vector(parties.values[victim], parties.constants).words
    ones = int(np.unpackbits(words.view(np.uint8)).sum())
    assert not has_lanes(words)
    assert (words == plain).sum() <= 3
    assert abs(ones - words.size * bits / 2) < 6 * np.sqrt(words.size * bits) / 2
    adder.add_all_(words, [(self_key(own.seed, state.ctx2, victim), -1)])
    reduce_(words, bits)
    assert words.tolist() == plain.tolist()  # the control: nothing but the self mask was left


# --- 12: no secret in what people and programs read ------------------------------------------------------------------

MASKED = (MessageType.R1P,)  # requests that a masked input answers
Fault = Callable[[Federation, Any, int], None]  # (parties, machine, a site) before the stage whose name it stands under


def set_words(at: int, by: int) -> Fault:
    def spoil(parties: Federation, machine: Any, site: int) -> None:
        parties.sites[site]._state.words[at] += by

    return spoil


def other_shares(parties: Federation, machine: Any, site: int) -> None:
    state = parties.sites[site]._state
    parties.sites[site]._state = replace(state, seed_shares=dict.fromkeys(state.seed_shares, bytes(64)))


def other_confirmations(parties: Federation, machine: Any, site: int) -> None:
    state = parties.sites[site]._state
    parties.sites[site]._state = replace(state, awaited=dict.fromkeys(state.awaited, bytes(32)))


def two_sets(parties: Federation, machine: Any, site: int) -> None:
    for others in ([0, 1, 2], [0, 1, 2, 3, 4], [other for other in range(5) if other != 4]):
        parties.sites[site].handle(parties.name_survivors(machine._state, site, others))


def other_commitments(parties: Federation, machine: Any, site: int) -> None:
    parties.sites[site]._state = replace(parties.sites[site]._state, seed_commitment=bytes(32))


def spoiled_wire(parties: Federation, machine: Any, site: int) -> None:
    parties.wire = lambda direction, who, frame: flipped(frame, 1300) if who == site else frame


FAULTS: dict[str, tuple[str, Fault]] = {
    "LaneMismatch": ("R1p", set_words(0, 1)),
    "SumOutOfRange": ("R1p", set_words(5, 1 << 22)),
    "HolderCheated": ("R3c", other_shares),
    "TooFewConfirmations": ("R3c", other_confirmations),
    "SurvivorsRefused": ("R3a", two_sets),
    "RosterRefused": ("R1p", other_commitments),
    **{f"BadSignature at {stage}": (stage, spoiled_wire) for stage in STAGES},
}


@pytest.mark.parametrize("name", FAULTS)
def test_12_no_secret_is_in_a_log_an_exception_or_a_repr_of_a_round_that_fails(federation, name):
    @given(site=SITE, seed=st.integers(1, 10**6))
    @examples(4)
    def failing(site, seed):
        with recorded_keys() as keys:
            secrets, texts = told(federation(5, seed=seed), *FAULTS[name], site)
        joined = " ".join(" ".join(texts).split())  # arrays print their values in columns

        assert name.split(" ")[0] in texts  # else the fault went nowhere
        assert min(len(secrets), len(keys)) > 30
        for secret in [*secrets, *keys]:
            for form in forms_of(secret):
                assert form not in joined
        assert "array(" not in joined

    failing()


def told(parties: Federation, place: str, fault: Fault, site: int) -> tuple[list[Any], list[str]]:
    """Return the secrets of a round that fails, and all texts that it leaves."""
    texts, secrets = [], []
    epoch = parties.open()
    machine = parties.begin(epoch)
    for stage in STAGES:
        if stage == place:
            fault(parties, machine, site)
        try:
            watched_exchange(parties, machine, texts)
            for one in parties.sites:
                secrets += secrets_of(one._state)
                secrets += [one._sent[kind].reply[HEADER_BYTES:-TAG_BYTES] for kind in one._sent if kind in MASKED]
            look(parties, machine, epoch, texts)
            machine.close_stage()
        except RoundAborted as error:
            texts += [type(error).__name__, str(error), repr(error), repr(error.args)]
            break
        parties.wire = lambda direction, who, frame: frame
    look(parties, machine, epoch, texts)
    return secrets, [*texts, *(text for log in parties.logs for line in log for text in line)]


def watched_exchange(parties: Federation, machine: Any, texts: list[str]) -> None:
    for site, request in list(machine.requests()):
        reply = parties.sites[site].handle(parties.wire("down", site, request))
        try:
            machine.receive(site, parties.wire("up", site, reply))
        except PeerError as error:
            texts += [type(error).__name__, str(error), repr(error), repr(error.args)]


def secrets_of(state: Any) -> list[Any]:
    """Keys, seeds, shares and vectors of one state of a site: bytes, or words."""
    found = [getattr(state, name) for name in ("seed", "own_share") if hasattr(state, name)]
    found += [state.keys.secret] if hasattr(state, "keys") else []
    found += [state.words] if hasattr(state, "words") else []
    for name in ("seed_shares", "key_shares", "awaited"):
        found += [secret for secret in getattr(state, name, {}).values() if any(secret)]  # a fault's zeros are none
    view = getattr(state, "view", None) or state.attempt.view
    return [*found, view.channels.key(COORDINATOR_ID)]


def forms_of(secret: Any) -> Iterator[str]:
    if isinstance(secret, np.ndarray):  # four values together, which no count or size repeats
        few = [int(value) for value in secret[4:8]]
        yield from (between.join(map(str, few)) for between in (", ", " ", ","))
        secret = secret[4:8].tobytes()
    for part in (bytes(secret), bytes(secret)[:16]):
        yield from (repr(part)[2:-1], part.hex())


def look(parties: Federation, machine: Any, epoch: Any, texts: list[str]) -> None:
    for site in parties.sites:
        texts += [repr(site), repr(site._state), repr(site._party), repr(site._sent.keys())]
        texts.append(repr(getattr(site._state, "attempt", None)))
    texts += map(repr, (machine, machine._view, epoch))
    texts += [] if machine.state_name == "Summed" else [repr(machine._state)]  # the sum itself is published


# --- 14: no key seals two messages -----------------------------------------------------------------------------------


@contextmanager
def recorded_keys() -> Iterator[dict[bytes, set[bytes]]]:
    """What each key seals or MACs while this lasts: hashes of nonce, associated data and text."""
    seen: dict[bytes, set[bytes]] = {}
    cipher, gmac = envelope.AESGCM, envelope.gmac

    def note(key: bytes, *parts: Any) -> None:
        digest = hashlib.sha256(b"|".join(hashlib.sha256(part).digest() for part in parts))
        seen.setdefault(bytes(key), set()).add(digest.digest())

    class Recording:
        def __init__(self, key: bytes) -> None:
            self._key, self._cipher = key, cipher(key)

        def encrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
            note(self._key, nonce, associated, data)
            return self._cipher.encrypt(nonce, data, associated)

        def decrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
            return self._cipher.decrypt(nonce, data, associated)

    def noted_gmac(key: bytes, *parts: Any) -> bytes:
        note(key, b"mac", b"".join(map(bytes, parts)))
        return gmac(key, *parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "AESGCM", Recording)
        patch.setattr(envelope, "gmac", noted_gmac)
        yield seen


MOVES = st.one_of(
    st.tuples(st.just("round"), st.sampled_from(STAGES), st.sets(SITE, max_size=2)),  # who is lost, and where
    st.tuples(st.just("again"), st.sampled_from(STAGES), st.sets(SITE, max_size=1)),  # the next attempt at this round
    st.tuples(st.just("restart"), st.sampled_from(STAGES), st.sets(SITE, min_size=1, max_size=2)),  # inside a round
    st.tuples(st.just("epoch"), st.just("R0"), st.just(set())),
)


def test_14_no_key_seals_two_messages_whatever_is_lost_begun_again_or_restarted(federation):
    @given(moves=st.lists(MOVES, min_size=2, max_size=5))
    @examples(15)
    def moving(moves):
        with recorded_keys() as seen:
            parties = federation(5, length=1)
            epoch, number, attempt = parties.open(), 0, 0
            for move, place, sites in [("round", "R0", set()), *moves]:
                if move == "epoch":
                    epoch = parties.open(epoch.epoch + 1, number + 1)
                    continue
                again = move == "again" and max(epoch.first_round, epoch.survivors_named_in + 1) <= number
                number, attempt = (number, attempt + 1) if again else (number + 1, 0)
                restarted = sites if move == "restart" else set()
                play(parties, parties.begin(epoch, number, attempt, models=MODELS), place, sites, restarted)

            assert len(seen) > 30
            assert max(map(len, seen.values())) == 1

    moving()
    with recorded_keys() as seen:  # the control: the double sees a reuse
        for text in (b"one", b"two", b"two"):
            envelope.seal(bytes(32), text, b"")
        assert list(map(len, seen.values())) == [2]


MODELS = dict.fromkeys(range(5), b"first model")  # sealed to every site, in every attempt


def play(parties: Federation, machine: Any, place: str, lost: set[int], restarted: set[int]) -> None:
    try:
        for stage in STAGES:
            for site in restarted if stage == place else ():
                parties.restart(site)
            parties.exchange(machine, lost if stage == place else ())
            machine.close_stage()
    except RoundAborted:
        return
    machine.publish(bytes(32))  # of a policy that follows from nothing: each site keeps the first
    parties.exchange(machine)
