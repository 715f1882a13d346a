"""The specification's invariants that are properties of all schedules, over all attempts and restarts of a round.

Source: secure_aggregation.md, section 8; the numbers in the tests' comments are its items.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace

import pytest
from drawn_schedules import check_losses, losses
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from secure_frl.errors import RoundAborted
from secure_frl.masking import contexts
from secure_frl.masking.site_memory import SharesSent
from secure_frl.secure_sum import SumConstants
from secure_frl.wire.envelope import read_header, unseal_frame
from secure_frl.wire.messages import (
    Announcement,
    Body,
    Confirmations,
    EpochList,
    Inbox,
    MessageType,
    OpenEpoch,
    PublishedSum,
    ReturnedShares,
    Survivors,
    decode_body,
)
from secure_frl.wire.records import Confirmation, Share, pack_records, unpack_records

EASY = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def shares_in(site, reply, before):
    """What one R4 gives: sites whose seed, and sites whose key, it has a share of."""
    body = decode_body(ReturnedShares, unseal_frame(reply, before.attempt.link(MessageType.R4, before.ctx2)))
    seeds, keys = unpack_records(Share, body.of_seeds), unpack_records(Share, body.of_keys)
    return [share.site for share in seeds], [share.site for share in keys]


# --- 1: enough answers give the exact sum ----------------------------------------------------------------------------


def test_any_losses_give_the_exact_sum_or_an_abort(federation):
    @given(lost=losses(5, 0, 3), bits=st.integers(14, 64))
    @example(lost={2: "R1p"}, bits=24)  # whose masks the others take off
    @EASY
    def losing(lost, bits):
        parties = federation(5, length=3, modulus_bits=bits)
        check_losses(parties, parties.begin(parties.open()), range(5), lost)

    losing()


# --- 4: one bit of a context ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["session", "epoch_hash", "round", "attempt", "cohort"])
def test_one_bit_of_ctx1_makes_a_sites_shares_unopenable(federation, field):
    @given(bit=st.integers(0, 255))
    @EASY
    def flipping(bit):
        parties = federation(5, length=1)
        machine = parties.begin(parties.open())
        parties.exchange(machine)
        machine.close_stage()
        state, terms = parties.sites[0]._state, parties.terms
        context = state.attempt.context
        fields = {
            "session": context.session,
            "epoch_hash": context.epoch_hash,
            "round": context.round,
            "attempt": context.attempt,
            "cohort": context.cohort,
        }
        value = fields[field]
        if isinstance(value, bytes):
            fields[field] = (int.from_bytes(value, "big") ^ (1 << bit)).to_bytes(32, "big")
        elif isinstance(value, int):
            fields[field] = value ^ (1 << bit % 40)
        else:
            fields[field] = tuple(site for site in value if site != 1 + bit % 4)
        ctx1 = contexts.attempt_context(*fields.values())
        parties.sites[0]._state = replace(state, attempt=replace(state.attempt, ctx1=ctx1))

        parties.exchange(machine)

        # the link of R1' is under ctx1 too: already the inbox does not open, so nothing of it is used
        assert parties.logs[0][-1][0] == "BadSignature"
        assert isinstance(parties.sites[0]._state, SharesSent)
        assert terms.session == context.session

    flipping()


@pytest.mark.parametrize("field", ["model", "config", "members"])
def test_one_bit_of_ctx2_keeps_a_sites_input_out_and_its_masks_do_not_cancel(federation, field, monkeypatch):
    genuine = contexts.mask_context

    @given(bit=st.integers(0, 255))
    @EASY
    def flipping(bit):
        parties = federation(5, length=1)
        machine = parties.begin(parties.open())
        parties.exchange(machine)
        machine.close_stage()
        requests = dict(machine.requests())

        def flipped(ctx1, model, config, members):
            values = {"model": model, "config": config, "members": members}
            values[field] = (int.from_bytes(values[field], "big") ^ (1 << bit)).to_bytes(32, "big")
            return genuine(ctx1, **{"model_tag": values["model"], "config_digest": values["config"]},
                           members_digest=values["members"])  # fmt: skip

        monkeypatch.setattr(contexts, "mask_context", flipped)
        reply = parties.sites[0].handle(requests[0])
        monkeypatch.setattr(contexts, "mask_context", genuine)

        with pytest.raises(Exception, match="tag"):
            machine.receive(0, reply)
        assert machine.excluded == {0: "BadSignature"}
        # and if it were taken: its words against those that the others' masks expect
        ctx2 = machine._state.ctx2
        assert parties.sites[0]._state.ctx2 != ctx2

    flipping()


# --- 5: one confirmation and one answer a round, over all attempts and restarts --------------------------------------


def test_a_site_that_confirmed_a_set_joins_no_other_attempt_of_that_round(federation):
    parties = federation(5)
    epoch = parties.open()
    machine = parties.begin(epoch)
    for _ in range(2):
        parties.exchange(machine)
        machine.close_stage()
    parties.exchange(machine)  # every site has confirmed; the coordinator forgets that it asked
    epoch.survivors_named_in = 0
    again = parties.begin(epoch, 1, 1)

    parties.exchange(again)

    assert again.excluded == dict.fromkeys(range(5), "AlreadyAnswered")
    assert [register.trail.count("record R1") for register in parties.registers] == [1] * 5


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("name"), st.integers(0, 1), st.integers(0, 5)),  # attempt, site left out (5: nobody)
        st.tuples(st.just("mail"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("attempt"), st.just(0), st.just(0)),
        st.tuples(st.just("restart"), st.integers(0, 4), st.just(0)),
        st.tuples(st.just("epoch"), st.integers(1, 2), st.just(0)),
    ),
    max_size=9,
)


def test_whatever_the_coordinator_asks_a_site_answers_once_and_gives_one_kind_of_share(federation):
    # a coordinator with all its keys, in any order: other sets, other attempts, confirmations mixed, restarts, epochs
    @given(actions=ACTIONS)
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def asking(actions):
        parties = federation(5, length=1)
        epoch = parties.open()
        machines, items = [parties.begin(epoch)], defaultdict(list)
        answers, kinds, sets = {}, {}, set()

        def ask(site, request):
            before = parties.sites[site]._state
            reply = parties.sites[site].handle(request)
            kind = MessageType(read_header(reply).type)
            if kind in (MessageType.R3B, MessageType.R4):
                answers.setdefault((site, kind), set()).add(hashlib.sha256(reply).digest())
            if kind is MessageType.R3B:
                state = parties.sites[site]._state
                plain = unseal_frame(reply, state.attempt.link(MessageType.R3B, state.ctx2))
                return unpack_records(Confirmation, decode_body(Confirmations, plain).items)
            if kind is MessageType.R4 and hasattr(before, "survivors"):
                seeds, keys = shares_in(site, reply, before)
                sets.add((before.ctx2, before.survivors))
                for name, owners in (("seed", seeds), ("key", keys)):
                    for owner in owners:
                        kinds.setdefault((site, owner), set()).add(name)
                assert site not in keys
            return ()

        for _ in range(2):
            parties.exchange(machines[0])
            machines[0].close_stage()
        for action, which, left_out in actions:
            machine = machines[min(which, len(machines) - 1)] if action in ("name", "mail") else machines[-1]
            state = machine._state
            if action == "name" and hasattr(state, "survivors"):
                survivors = [site for site in state.survivors if site != left_out]
                for site in survivors:
                    items[id(machine)] += ask(site, parties.name_survivors(state, site, survivors))
            elif action == "mail" and hasattr(state, "survivors"):
                for site in state.survivors:
                    mail = pack_records(item for item in items[id(machine)] if item.receiver == site)
                    ask(site, state.view.seal(site, MessageType.R3C, state.ctx2, Confirmations(mail)))
            elif action == "attempt" and len(machines) == 1:
                epoch.survivors_named_in = 0
                machines.append(parties.begin(epoch, 1, 1))
                try:
                    for _ in range(2):
                        parties.exchange(machines[1])
                        machines[1].close_stage()
                except RoundAborted:
                    pass
            elif action == "restart":
                parties.restart(which)
            elif action == "epoch":
                try:
                    epoch = parties.open(epoch=1 + which, first_round=1)
                    machines.append(parties.begin(epoch, 1, 2))
                    for _ in range(2):
                        parties.exchange(machines[-1])
                        machines[-1].close_stage()
                except RoundAborted:
                    pass
                machines = machines[-2:]

        assert all(len(found) == 1 for found in answers.values())
        assert all(len(found) == 1 for found in kinds.values())
        assert len(sets) <= 1  # 15: two sites with different sets never both unmask
        assert all(register.trail.count("record R3b") <= 1 for register in parties.registers)

    asking()


def test_an_answer_holds_one_kind_of_share_a_peer_and_none_of_the_own_key(federation):
    parties = federation(10)
    machine = parties.begin(parties.open())
    for lost in ((), (2, 7), ()):
        parties.exchange(machine, lost)
        machine.close_stage()
    for site, request in list(machine.requests()):
        before = parties.sites[site]._state
        seeds, keys = shares_in(site, parties.sites[site].handle(request), before)

        assert seeds == [0, 1, 3, 4, 5, 6, 8, 9]
        assert keys == [2, 7]


def test_a_second_attempt_draws_every_secret_anew(federation):
    parties = federation(5)
    epoch = parties.open()
    secrets = []
    for attempt in (0, 1):
        parties.exchange(parties.begin(epoch, 1, attempt))
        state = parties.sites[0]._state
        secrets += [state.keys.secret, state.keys.public, state.seed, state.attempt.fresh_site, state.own_share]

    assert len(set(secrets)) == 10


# --- 15: constants come from the charter ------------------------------------------------------------------------------


def test_no_request_carries_a_constant_of_the_charter():
    requests: tuple[type[Body], ...] = (
        OpenEpoch,
        EpochList,
        Announcement,
        Inbox,
        Survivors,
        Confirmations,
        PublishedSum,
    )

    carried = {name for body in requests for name in body.__struct_fields__}

    assert carried & set(SumConstants.__dataclass_fields__) == set()
