"""What a site logs about two survivor sets convicts the coordinator with nothing else but its public key."""

from __future__ import annotations

import re

from secure_frl.wire.envelope import unseal_frame
from secure_frl.wire.messages import Confirmations, MessageType, decode_body
from secure_frl.wire.records import Confirmation, pack_records, unpack_records
from secure_frl.wire.signatures import check_signature

READ = re.compile(r"survivors=\[([\d, ]+)\], signature=(\w+), round=(\d+), attempt=(\d+), ctx2=(\w+)\.")


def test_the_logged_lists_of_two_sites_verify_under_the_coordinators_key(federation):
    parties = federation(5)
    machine = parties.up_to_survivors()
    state = machine._state
    told = {0: [0, 1, 2, 3, 4], 1: [0, 1, 2, 3]}
    items = []
    for site, survivors in told.items():
        reply = parties.sites[site].handle(parties.name_survivors(state, site, survivors))
        key = state.view.link(site, MessageType.R3B, state.ctx2, state.view.fresh_of[site])
        items += unpack_records(Confirmation, decode_body(Confirmations, unseal_frame(reply, key)).items)
    for site in told:
        body = Confirmations(pack_records(item for item in items if item.receiver == site))
        parties.sites[site].handle(state.view.seal(site, MessageType.R3C, state.ctx2, body))

    lists = []
    for site in told:
        name, text = parties.logs[site][-1]
        assert name == "Equivocation"
        survivors, signature, number, attempt, ctx2 = READ.search(text).groups()
        named = [int(one) for one in survivors.split(",")]
        fields = (parties.terms.session, int(number), int(attempt), bytes.fromhex(ctx2), named)
        check_signature(parties.terms.coordinator_public_key, bytes.fromhex(signature), "R3a", *fields)
        lists.append((int(number), named))
    assert lists == [(1, told[0]), (1, told[1])]  # two sets under one round: only the coordinator can have signed them
