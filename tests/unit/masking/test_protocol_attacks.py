"""Attacks by constants, models, captured uploads and keys used twice: refused by name, or with nothing to find.

The adversary is the coordinator with all its keys, or one peer with valid keys. Attacks on the set of survivors stand
in test_survivor_attacks.py.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from itertools import count

import numpy as np
import pytest
from attackers_view import upload as masked_input
from drawn_schedules import examples
from hypothesis import given
from hypothesis import strategies as st

from secure_frl.encoding.lanes import to_ring_vector
from secure_frl.errors import LaneMismatch, PeerError, RoundAborted, UnexpectedState
from secure_frl.masking import contexts, coordinator_states
from secure_frl.secure_sum import COORDINATOR_ID, SumConstants
from secure_frl.wire import envelope
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES, Address, mac_frame
from secure_frl.wire.messages import MessageType

# --- the coordinator's own constants ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{"protection": "unsafe-plain"}, {"modulus_bits": 14}, {"min_survivors": 5, "honest_shares": 3}, {"scale": 1.0}],
)
def test_constants_that_the_sites_have_not_signed_are_refused(federation, changes):
    parties = federation(5)
    epoch = parties.open()
    signed, parties.terms = parties.terms, replace(parties.terms, constants=replace(parties.constants, **changes))
    machine = parties.begin(epoch)
    parties.terms = signed

    parties.exchange(machine)

    assert set(machine.excluded.values()) == {"RoundRefused"}
    assert all(host.contexts == [] for host in parties.hosts)  # nothing was sampled


OTHERS = {
    "int": st.integers(0, 2**40),
    "float": st.floats(0, 1e9),
    "str": st.sampled_from(["masking", "ckks", "unsafe-plain", "cross_device", "local", "unsafe-none", ""]),
}


def test_15_one_constant_that_the_sites_have_not_signed_is_refused_whichever_it_is(federation, monkeypatch):
    parties, numbers, genuine = federation(5), count(1), contexts.config_hash
    epoch = parties.open()

    @given(st.sampled_from([field for field in fields(SumConstants) if field.name != "blocks"]), st.data())
    @examples(40)
    def lying(field, data):
        signed = getattr(parties.constants, field.name)
        other = data.draw(OTHERS[field.type].filter(lambda value: value != signed))
        changed = genuine(replace(parties.constants, **{field.name: other}))
        monkeypatch.setattr(coordinator_states, "config_hash", lambda constants: changed)
        machine = parties.begin(epoch, next(numbers))

        parties.exchange(machine)

        assert machine.excluded == dict.fromkeys(range(5), "RoundRefused")
        assert all(host.contexts == [] for host in parties.hosts)

    lying()


def test_a_smaller_cohort_than_min_survivors_is_refused(federation, monkeypatch):
    parties = federation(5)
    epoch, signed = parties.open(), parties.terms
    honest_hash = contexts.config_hash(parties.constants)
    monkeypatch.setattr(coordinator_states, "check_constants", lambda constants: None)
    monkeypatch.setattr(coordinator_states, "config_hash", lambda constants: honest_hash)  # a lie about its constants
    parties.terms = replace(signed, constants=replace(parties.constants, min_survivors=3))
    machine = parties.begin(epoch, cohort=(0, 1, 2))

    parties.exchange(machine)

    assert machine.excluded == dict.fromkeys(range(3), "RoundRefused")
    assert "min_survivors" in parties.logs[0][-1][1]


def test_a_model_that_differs_between_sites_is_refused(federation):
    parties = federation(5)
    parties.hosts[3].model = b"a model of another kind"
    machine = parties.begin(parties.open())

    parties.exchange(machine)

    assert machine.excluded == {3: "ModelMissing"}


def test_another_model_sealed_to_one_site_is_refused(federation):
    parties = federation(5)  # model inconsistency: one tag for all, and for site 3 a policy of another kind
    machine = parties.begin(parties.open(), models={3: b"a model for site 3 alone"})

    parties.exchange(machine)

    assert machine.excluded == {3: "RoundRefused"}


def test_sites_that_believe_another_model_make_the_sum_garbage_that_lanes_catch(federation, monkeypatch):
    # the check at R0 taken out: masks still do not cancel, for each site's own tag is in ctx2
    parties = federation(5)
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    state = parties.sites[3]._state
    context = replace(state.attempt.context, policy_tag=b"\x99" * 32)
    parties.sites[3]._state = replace(state, attempt=replace(state.attempt, context=context))
    machine.close_stage()
    parties.exchange(machine)
    assert parties.errors == {3: ["BadSignature"]}  # its link key differs as well: its input is not even taken

    # a coordinator that puts its own tag on those words: its masks and the others' do not cancel
    view, asking = machine._view, machine._state
    sent = parties.sites[3]._sent[MessageType.R1P].reply
    link = view.link(3, MessageType.R2, asking.ctx2, view.fresh_of[3])
    address = Address(parties.terms.session, 1, 1, 0, 3, COORDINATOR_ID, view.fresh_of[3])
    machine._letters._excluded.clear()
    machine.receive(3, mac_frame(address, MessageType.R2, memoryview(sent[HEADER_BYTES:-TAG_BYTES]), link))
    for _ in range(2):
        machine.close_stage()
        parties.exchange(machine)
    with pytest.raises(LaneMismatch):
        machine.close_stage()
    with pytest.raises(UnexpectedState):
        machine.outcome()


# --- the control of the capture test ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("protection", "is_plain"), [("masking", False), ("unsafe-plain", True)])
def test_an_upload_equals_the_plain_words_only_under_unsafe_plain(federation, protection, is_plain):
    parties = federation(5, length=1000, protection=protection)
    machine = parties.begin(parties.open())
    total = parties.drive(machine)

    assert total.integers.tolist() == parties.plain_sum(range(5)).tolist()
    for site in range(5):
        plain = to_ring_vector(parties.values[site], parties.constants).words
        sent = masked_input(parties, site)
        assert (sent.tolist() == plain.tolist()) == is_plain
        correlation = abs(np.corrcoef(sent.astype(float)[2:-2], parties.values[site])[0, 1])
        assert is_plain or correlation < 5 / np.sqrt(1000)


def test_no_key_seals_two_messages(federation, monkeypatch):
    sealed: dict[bytes, set[bytes]] = {}
    genuine = envelope.AESGCM

    class Recording:
        def __init__(self, key):
            self._key, self._cipher = key, genuine(key)

        def encrypt(self, nonce, data, associated):
            message = hashlib.sha256(nonce + bytes(associated) + b"|" + bytes(data)).digest()
            sealed.setdefault(bytes(self._key), set()).add(message)
            return self._cipher.encrypt(nonce, data, associated)

        def decrypt(self, nonce, data, associated):
            return self._cipher.decrypt(nonce, data, associated)

    genuine_mac = envelope.gmac

    def recorded_mac(key, *parts):
        sealed.setdefault(bytes(key), set()).add(hashlib.sha256(b"mac" + b"".join(parts)).digest())
        return genuine_mac(key, *parts)

    monkeypatch.setattr(envelope, "AESGCM", Recording)
    monkeypatch.setattr(envelope, "gmac", recorded_mac)
    parties = federation(5)
    epoch = parties.open()
    with pytest.raises(RoundAborted):
        parties.drive(parties.begin(epoch, 1), {"R1p": [0, 1]})
    machine = parties.begin(epoch, 1, 1)
    list(machine.requests())
    parties.drive(machine)
    parties.publish(machine)
    parties.restart(2)
    model = parties.hosts[0].model
    machine = parties.begin(parties.open(2, 2), 2, models={4: model})
    parties.drive(machine, {"R1p": [3]})
    parties.publish(machine, model)

    assert len(sealed) > 150
    assert max(len(messages) for messages in sealed.values()) == 1
    envelope.seal(b"k" * 32, b"one", b"")  # control: the double sees a reuse
    envelope.seal(b"k" * 32, b"two", b"")
    assert max(len(messages) for messages in sealed.values()) == 2


def test_peer_errors_end_only_their_site(federation):
    parties = federation(5)
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    machine.close_stage()
    for site, request in list(machine.requests()):
        reply = parties.sites[site].handle(request)
        if site == 4:
            with pytest.raises(PeerError):
                machine.receive(site, reply[:-1] + bytes([reply[-1] ^ 1]))
        else:
            machine.receive(site, reply)
    machine.close_stage()
    for _ in range(2):
        parties.exchange(machine)
        machine.close_stage()

    assert machine.outcome().integers.tolist() == parties.plain_sum(range(4)).tolist()
    assert machine.excluded == {4: "BadSignature"}
