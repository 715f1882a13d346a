"""Attacks on the set of survivors, in pairs: each wins against a copy with one defence taken out, and loses otherwise.

The adversary is the coordinator with all its keys: it names one victim as survivor and as lost, or tells sites
different sets.
"""

from __future__ import annotations

import numpy as np
import pytest
from attackers_view import upload as masked_input

from secure_frl.encoding.lanes import from_ring_sum, to_ring_vector
from secure_frl.errors import RoundAborted
from secure_frl.masking import contexts, coordinator_states, prg, site_attempt, site_states
from secure_frl.masking.coordinator_memory import AskingConfirmations, AskingShares
from secure_frl.masking.coordinator_requests import requests_of
from secure_frl.masking.graph import Graph
from secure_frl.masking.keys import KeyPair, pair_key, self_key
from secure_frl.masking.neighbourhoods import PairTable
from secure_frl.masking.secret_sharing import SHARE_BYTES, combine
from secure_frl.masking.site_memory import InputSent
from secure_frl.masking.unmasking import unmask_
from secure_frl.wire.envelope import HEADER_BYTES, TAG_BYTES, read_header
from secure_frl.wire.messages import Confirmations, Inbox, MessageType, ReturnedShares, decode_body
from secure_frl.wire.records import Confirmation, DealtShares, Share, pack_members, pack_records, unpack_records


def items_of(state, site, frame):
    body = decode_body(Confirmations, state.view.unseal(site, read_header(frame), state.ctx2, frame))
    return unpack_records(Confirmation, body.items)


def confirmed_to(parties, state, sites, survivors=(0, 1, 2, 3)):
    """The confirmations that these sites give when the coordinator names them these survivors."""
    replies = {site: parties.sites[site].handle(parties.name_survivors(state, site, survivors)) for site in sites}
    return [item for site, reply in replies.items() for item in items_of(state, site, reply)]


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
        items += confirmed_to(parties, state, [site], sorted(set(range(10)) - missing))
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
    state = parties.up_to_survivors()._state
    items = confirmed_to(parties, state, [1, 2, 3])
    parties.sites[0].handle(parties.name_survivors(state, 0, [0, 1, 2, 3, 4]))
    told = contexts.survivors_hash(state.ctx2, (0, 1, 2, 3, 4))
    request = pass_mail(state, 0, [item._replace(survivors_hash=told) for item in items])

    assert parties.refusal(0, request, parties.sites[0].handle(request)) == "TooFewConfirmations"
    assert "record R4" not in parties.registers[0].trail


def test_a_confirmation_for_another_site_counts_for_nothing_though_its_word_is_right(federation):
    parties = federation(5)
    state = parties.up_to_survivors()._state
    mine = [item for item in confirmed_to(parties, state, [0, 1, 2, 3]) if item.receiver == 0]
    body = Confirmations(pack_records([*mine[:-1], mine[-1]._replace(receiver=2)]))
    request = state.view.seal(0, MessageType.R3C, state.ctx2, body)

    assert parties.refusal(0, request, parties.sites[0].handle(request)) == "TooFewConfirmations"
    assert "record R4" not in parties.registers[0].trail


def test_one_confirmation_repeated_counts_once(federation):
    parties = federation(5)
    state = parties.up_to_survivors()._state
    items = confirmed_to(parties, state, [0, 1])
    request = pass_mail(state, 0, [item for item in items if item.sender == 1] * 4)

    assert parties.refusal(0, request, parties.sites[0].handle(request)) == "TooFewConfirmations"


# --- different member lists: the use of 2t > n + c -------------------------------------------------------------------

VICTIM, CORRUPT = 0, (1, 2, 3)  # of ten sites


def split_the_view(parties):
    """Tell the victim of other members than everybody else. Returns its words, or the name of its refusal.

    Everybody else sees the whole cohort and a survivor set with the victim in it, so that t of them give shares of its
    seed and of the mask keys of those named lost. The victim's own list has only these lost, it and the corrupt sites.
    """
    n, t = parties.n, parties.constants.threshold
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    own_keys = {site: parties.sites[site]._state.keys for site in CORRUPT}  # which they hand over
    machine.close_stage()
    state = machine._state
    lost = tuple(range(t + 1, n))  # the others give shares only if t of them, without the victim, confirm
    members = {site: state.members[site] for site in (VICTIM, *CORRUPT, *lost)}
    packed = pack_members((site, keys.public_key, keys.seed_commitment) for site, keys in members.items())
    dealt = [item for item in unpack_records(DealtShares, state.dealt.of(VICTIM)) if item.site in members]
    digest = contexts.members_hash(packed)
    body = Inbox(pack_records(dealt))
    request = state.view.seal(VICTIM, MessageType.R1P, state.view.ctx1, body, packed, digest)
    sent = parties.sites[VICTIM].handle(request)
    code = parties.refusal(VICTIM, request, sent)
    if code is not None:
        return code

    for site in range(1, n):
        parties.sites[site].handle(dict(requests_of(state, [site]))[site])
    survivors, rows = tuple(range(t + 1)), []
    named = AskingConfirmations(
        state.view, state.ctx2, state.members, state.dealt, survivors, state.accumulator, state.dealt, set()
    )
    items = confirmed_to(parties, named, survivors[1:], survivors)
    for site in survivors[1:]:
        rows.append((site, shares_of(state, site, parties.sites[site].handle(pass_mail(state, site, items)))))
    seed = combine({site: seeds[VICTIM] for site, (seeds, _) in rows})
    keys = {other: KeyPair.from_secret(combine({site: of[other] for site, (_, of) in rows})) for other in lost}
    words, adder = np.frombuffer(sent[HEADER_BYTES:-TAG_BYTES], "<u4").copy(), prg.PairwiseMasks(21)
    context = state.view.context
    ctx2 = contexts.mask_context(state.view.ctx1, context.policy_tag, context.config_hash, digest)
    adder.add_(words, self_key(seed, ctx2, VICTIM), -1)
    for other, pair in (own_keys | keys).items():
        adder.add_(words, pair_key(pair, members[VICTIM].public_key, ctx2, VICTIM, other), -1)  # all above its id
    return words & np.uint32((1 << parties.constants.modulus_bits) - 1)


def of_ten(threshold):
    return {"threshold": threshold, "max_colluders": 3, "min_survivors": threshold, "honest_shares": threshold - 3}


def test_a_site_that_is_told_of_other_members_than_the_others_stays_closed(federation):
    parties = federation(10, **of_ten(7))  # 2t = 14 > 13 = n + c: no such list has more than n + c - t = 6 members

    assert split_the_view(parties) == "RosterRefused"
    assert "at least 7 members, got 6" in parties.logs[VICTIM][-1][1]
    assert "release" not in parties.registers[VICTIM].trail


@pytest.mark.parametrize("without", ["one share more", "the bounds of a member list"])
def test_control_a_split_view_opens_one_site(federation, monkeypatch, without):
    threshold = 7
    if without == "one share more":  # 2t = 12: a charter that no site would take
        threshold = 6
        for module in (contexts, coordinator_states, site_states):
            monkeypatch.setattr(module, "check_constants", lambda constants: None)
    parties = federation(10, **of_ten(threshold))
    if without != "one share more":
        monkeypatch.setattr(Graph, "members_fault", lambda graph, members, constants: None)

    opened = split_the_view(parties)

    assert opened.tolist() == to_ring_vector(parties.values[VICTIM], parties.constants).words.tolist()
