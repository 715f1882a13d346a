"""Attacks in pairs: each wins against a copy with one defence taken out, and loses against the protocol.

The adversary is the coordinator with all its keys, or one peer with valid keys.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from secure_frl.encoding.lanes import from_ring_sum, to_ring_vector
from secure_frl.errors import PeerError, RoundAborted
from secure_frl.masking import contexts, coordinator_states, prg, site_attempt, site_states
from secure_frl.masking.coordinator_memory import AskingShares
from secure_frl.masking.keys import KeyPair, pair_key, self_key
from secure_frl.masking.neighbourhoods import PairTable
from secure_frl.masking.secret_sharing import SHARE_BYTES, combine
from secure_frl.masking.site_memory import InputSent
from secure_frl.masking.unmasking import unmask_
from secure_frl.wire import envelope
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES, read_header
from secure_frl.wire.messages import (
    Confirmations,
    MessageType,
    ReturnedShares,
    decode_body,
)
from secure_frl.wire.records import Confirmation, Share, pack_records, unpack_records


def masked_input(parties, site):
    for direction, who, frame in parties.frames:
        if (direction, who) == ("up", site) and read_header(frame).type == MessageType.R2:
            return np.frombuffer(frame[HEADER_BYTES:-TAG_BYTES], "<u4").astype(np.uint32)
    raise AssertionError("no masked input")


def items_of(state, site, frame):
    body = decode_body(Confirmations, state.view.unseal(site, read_header(frame), state.ctx2, frame))
    return unpack_records(Confirmation, body.items)


def pass_mail(state, site, items):
    body = Confirmations(pack_records(item for item in items if item.receiver == site))
    return state.view.seal(site, MessageType.R3C, state.ctx2, body)


def shares_of(state, site, frame):
    body = decode_body(ReturnedShares, state.view.unseal(site, read_header(frame), state.ctx2, frame))
    return dict(unpack_records(Share, body.of_seeds)), dict(unpack_records(Share, body.of_keys))


# --- one victim as survivor and as lost ------------------------------------------------------------------------------


def ask_twice_for_the_victim(parties, victim):
    """Return the victim's words if the coordinator can get both its secrets, else the refusals."""
    machine = parties.up_to_survivors()
    state, everybody = machine._state, list(range(parties.n))
    seed_shares, key_shares, codes = {}, {}, set()
    for survivors in (everybody, [site for site in everybody if site != victim]):
        items, holders = [], []
        for site in survivors:
            request = parties.name_survivors(state, site, survivors)
            reply = parties.sites[site].handle(request)
            code = parties.refusal(site, request, reply)
            if code:
                codes.add(code)
                continue
            items += items_of(state, site, reply)
            holders.append(site)
        for site in holders:
            reply = parties.sites[site].handle(pass_mail(state, site, items))
            seeds, keys = shares_of(state, site, reply)
            if victim in seeds:
                seed_shares[site] = seeds[victim]
            if victim in keys:
                key_shares[site] = keys[victim]
    t = parties.constants.threshold
    if len(seed_shares) < t or len(key_shares) < t:
        return codes
    seed = combine(dict(sorted(seed_shares.items())[:t]))
    pair = KeyPair.from_secret(combine(dict(sorted(key_shares.items())[:t])))
    words, adder = masked_input(parties, victim), prg.PairwiseMasks(len(masked_input(parties, victim)))
    adder.add_(words, self_key(seed, state.ctx2, victim), -1)
    for other, keys in state.members.items():
        if other != victim:
            adder.add_(words, pair_key(pair, keys.public_key, state.ctx2, victim, other), -1 if victim < other else +1)
    return words & np.uint32((1 << parties.constants.modulus_bits) - 1)


def test_a_site_is_never_both_survivor_and_lost(federation):
    assert ask_twice_for_the_victim(federation(5), 2) == {"AlreadyAnswered"}


def test_control_sites_that_confirm_twice_give_a_victim_away(federation, monkeypatch):
    parties = federation(5)
    for register in parties.registers:
        register.record = lambda *row: None  # the durable answer taken out

    def return_shares_and_forget(party, state, header, body):
        _, reply = site_attempt.return_shares(party, state, header, body)
        back = InputSent(state.attempt, state.ctx2, np.arange(parties.n), state.seed_shares, state.key_shares)
        return back, reply

    key = next(key for key in site_states.TABLE if key[1] is MessageType.R3C)
    monkeypatch.setitem(site_states.TABLE, key, return_shares_and_forget)

    stolen = ask_twice_for_the_victim(parties, 2)

    assert stolen.tolist() == to_ring_vector(parties.values[2], parties.constants).words.tolist()


@pytest.mark.parametrize("when", ["after R3b", "after R4"])
def test_a_site_that_restarts_cannot_answer_for_another_set(federation, when):
    parties = federation(5)
    machine = parties.up_to_survivors()
    state = machine._state
    parties.exchange(machine)
    if when == "after R4":
        machine.close_stage()
        parties.exchange(machine)
    parties.restart(0)

    request = parties.name_survivors(state, 0, [0, 1, 2, 3])
    assert parties.refusal(0, request, parties.sites[0].handle(request)) == "AlreadyAnswered"
    with pytest.raises(RoundAborted):  # nor may the same round begin again in a new epoch
        parties.open(epoch=2, first_round=1)
    assert parties.logs[0][-1][0] == "EpochRefused"


def test_control_a_site_without_its_register_answers_the_round_again(federation):
    parties = federation(5)
    machine = parties.up_to_survivors()
    parties.exchange(machine)
    for site in range(5):
        parties.registers[site].rows.clear()
        parties.registers[site].epoch = 0
        parties.restart(site)

    second = parties.begin(parties.open(epoch=2, first_round=1), 1, 0)

    assert parties.drive(second).contributors == (0, 1, 2, 3, 4)


# --- different survivor sets for different sites ---------------------------------------------------------------------


def name_several_sets(parties):
    """Tell every site a set of eight, so that three of ten count as lost with six sites or more.

    Returns (integers of the seven others' sum, or None; refusal codes). The charter promises eight or more.
    """
    machine = parties.up_to_survivors()
    state = machine._state
    told = {
        0: {1, 2},
        1: {0, 2},
        2: {0, 1},
        3: {0, 1},
        4: {0, 1},
        5: {1, 2},
        6: {1, 2},
        7: {0, 2},
        8: {0, 2},
        9: {0, 1},
    }
    items, codes = [], set()
    for site, missing in told.items():
        reply = parties.sites[site].handle(parties.name_survivors(state, site, sorted(set(range(10)) - missing)))
        items += items_of(state, site, reply)
    survivors = tuple(range(3, 10))
    shares = AskingShares(
        state.view, state.ctx2, state.members, state.dealt, survivors, np.zeros_like(state.accumulator), state.mail,
        set(), PairTable(state.view.near, SHARE_BYTES), {},
    )  # fmt: skip
    for site in told:
        request = pass_mail(state, site, items)
        reply = parties.sites[site].handle(request)
        code = parties.refusal(site, request, reply)
        if code:
            codes.add(code)
            continue
        seeds, keys = shares_of(state, site, reply)
        wanted = {owner: seeds[owner] for owner in survivors if owner in seeds}
        wanted |= {owner: keys[owner] for owner in (0, 1, 2) if owner in keys}
        if site in wanted:
            shares.own_shares[site] = wanted.pop(site)
        rows = np.frombuffer(b"".join(wanted[owner] for owner in sorted(wanted)), np.uint8).reshape(-1, SHARE_BYTES)
        shares.shares.put(site, rows, np.isin(state.view.near.row(site), list(wanted)))
    for site in survivors:
        np.add(shares.accumulator, masked_input(parties, site), out=shares.accumulator)
    try:
        unmask_(shares)
    except RoundAborted:
        return None, codes
    return from_ring_sum(shares.accumulator, parties.constants, len(survivors)), codes


def test_several_survivor_sets_open_nothing_and_are_named(federation):
    parties = federation(10)

    opened, codes = name_several_sets(parties)

    assert opened is None
    assert codes == {"Equivocation", "TooFewConfirmations"}  # the latter where no other set reached the site
    name, text = parties.logs[5][-1]
    assert name == "Equivocation"
    assert "signature=" in text  # the coordinator's own signed list, for the auditor


def test_control_without_the_confirmation_check_a_sum_of_too_few_opens(federation, monkeypatch):
    monkeypatch.setattr(site_attempt, "confirming_sites", lambda party, state, body: set(state.survivors))
    parties = federation(10)

    opened, codes = name_several_sets(parties)

    assert codes == set()
    assert opened.tolist() == parties.plain_sum(range(3, 10)).tolist()  # seven, where the charter promises eight


def test_two_halves_with_different_sets_get_no_shares(federation):
    parties = federation(10)
    machine = parties.up_to_survivors()
    state, items, codes = machine._state, [], set()
    for site in range(10):
        survivors = sorted(set(range(10)) - ({9} if site < 5 else {0} if site != 0 else set()))
        request = parties.name_survivors(state, site, survivors)
        reply = parties.sites[site].handle(request)
        if parties.refusal(site, request, reply) is None:
            items += items_of(state, site, reply)
    for site in range(1, 9):  # each half is shown only its own half's confirmations
        half = [item for item in items if (item.sender < 5) == (site < 5)]
        request = pass_mail(state, site, half)
        codes.add(parties.refusal(site, request, parties.sites[site].handle(request)))

    assert codes == {"TooFewConfirmations"}
    assert all("record R4" not in register.trail for register in parties.registers)


def test_forged_confirmations_count_for_nothing(federation):
    parties = federation(5)
    machine = parties.up_to_survivors()
    state, site = machine._state, 0
    parties.sites[site].handle(parties.name_survivors(state, site, [0, 1, 2, 3]))
    digest = contexts.survivors_hash(state.ctx2, (0, 1, 2, 3))
    items = [Confirmation(other, site, digest, bytes(32)) for other in (1, 2, 3)]
    request = pass_mail(state, site, items)

    assert parties.refusal(site, request, parties.sites[site].handle(request)) == "TooFewConfirmations"
    assert "record R4" not in parties.registers[site].trail


def test_confirmations_of_another_set_that_the_coordinator_rewrites_count_for_nothing(federation):
    parties = federation(5)
    machine = parties.up_to_survivors()
    state, items = machine._state, []
    for site in (1, 2, 3):
        items += items_of(state, site, parties.sites[site].handle(parties.name_survivors(state, site, [0, 1, 2, 3])))
    parties.sites[0].handle(parties.name_survivors(state, 0, [0, 1, 2, 3, 4]))
    told = contexts.survivors_hash(state.ctx2, (0, 1, 2, 3, 4))
    request = pass_mail(state, 0, [item._replace(survivors_hash=told) for item in items])

    assert parties.refusal(0, request, parties.sites[0].handle(request)) == "TooFewConfirmations"
    assert "record R4" not in parties.registers[0].trail


def test_one_confirmation_repeated_counts_once(federation):
    parties = federation(5)
    machine = parties.up_to_survivors()
    state, items = machine._state, []
    for site in (0, 1):
        items += items_of(state, site, parties.sites[site].handle(parties.name_survivors(state, site, [0, 1, 2, 3])))
    request = pass_mail(state, 0, [item for item in items if item.sender == 1] * 4)

    assert parties.refusal(0, request, parties.sites[0].handle(request)) == "TooFewConfirmations"


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


def test_a_late_input_stays_closed_when_its_mask_key_has_been_rebuilt(federation):
    parties = federation(10)
    machine = parties.begin(parties.open())
    late = {}
    parties.drive(machine, {"R1p": [2]})
    late = masked_input_of_lost(parties, 2)

    plain = to_ring_vector(parties.values[2], parties.constants).words
    assert (late != plain).mean() > 0.9  # the self mask stays: no share of its seed was given


def masked_input_of_lost(parties, site):
    sent = parties.sites[site]._sent[MessageType.R1P].reply
    return np.frombuffer(sent[HEADER_BYTES:-TAG_BYTES], "<u4").astype(np.uint32)


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
