"""What others got wrong in sharing: an aggregator that rebuilds every secret, one secret that all sites have.

The table of test_what_others_got_wrong.py names these tests. A control runs the same attack against a copy with the
mistake in it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from attackers_view import frames_of, has_lanes, reachable, unmask, upload, values_of, width_mask

from secure_frl.masking import keys, prg, site_attempt, site_states
from secure_frl.masking.keys import KeyPair
from secure_frl.masking.secret_sharing import combine
from secure_frl.wire.envelope import read_header, unseal_frame
from secure_frl.wire.messages import MessageType, ReturnedShares, decode_body
from secure_frl.wire.records import Share, pack_records, unpack_records

# --- an aggregator that rebuilds every seed and key ------------------------------------------------------------------


def rebuild_everything(parties: Any) -> dict[int, list[int]]:
    """The coordinator rebuilds, out of all the R4 that it gets, both secrets of whomever it can, and opens inputs."""
    machine = parties.begin(parties.open())
    for _ in range(3):
        parties.exchange(machine)
        machine.close_stage()
    state, t = machine._state, parties.constants.threshold
    parties.exchange(machine)
    pools: dict[str, dict[int, dict[int, bytes]]] = {"seed": defaultdict(dict), "key": defaultdict(dict)}
    for holder, frame in frames_of(parties, MessageType.R4).items():
        link = state.view.link(holder, MessageType.R4, state.ctx2, read_header(frame).fresh)
        body = decode_body(ReturnedShares, unseal_frame(frame, link))
        for kind, given in (("seed", body.of_seeds), ("key", body.of_keys)):
            for share in unpack_records(Share, given):
                pools[kind][share.site][holder] = share.words
    found = {}
    for site in range(parties.n):
        seeds, key_shares = (dict(list(pools[kind][site].items())[:t]) for kind in ("seed", "key"))
        if len(seeds) == len(key_shares) == t:
            words = unmask(parties, state, site, combine(seeds), KeyPair.from_secret(combine(key_shares)))
            if has_lanes(words):
                found[site] = values_of(words, parties)
    assert len(pools["seed"]) == parties.n  # it has what it needs for the sum
    return found


def test_a_coordinator_can_rebuild_no_site_that_sent_its_input(federation):
    assert rebuild_everything(federation(5)) == {}


def test_control_sites_that_return_every_share_let_it_rebuild_every_input(federation, monkeypatch):
    at = next(at for at in site_states.TABLE if at[1] is MessageType.R3C)
    genuine = site_states.TABLE[at]

    def returning_all(party: Any, state: Any, *message: Any) -> Any:
        every = pack_records(Share(site, share) for site, share in state.key_shares.items())
        monkeypatch.setattr(site_attempt, "ReturnedShares", lambda seeds, of_keys: ReturnedShares(seeds, every))
        return genuine(party, state, *message)

    monkeypatch.setitem(site_states.TABLE, at, returning_all)
    parties = federation(5)

    assert rebuild_everything(parties) == dict(enumerate(parties.values.tolist()))


# --- one secret shared by all ----------------------------------------------------------------------------------------

SHARED = b"\x5a" * 32  # what every site has from the start, or from a first message to all


def read_as_a_peer(parties: Any) -> dict[int, list[int]]:
    """Site 2 and a carrier: every secret that site 2 holds is tried as the one secret behind all masks of an input."""
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    machine.close_stage()
    before = set(reachable(parties.sites[2]))  # its key and its seed are gone once its input is masked
    parties.exchange(machine)
    state, found = machine._state, {}
    for secret in before | set(reachable(parties.sites[2])) | {SHARED}:
        for site in range(parties.n):
            words, adder = upload(parties, site), prg.PairwiseMasks(parties.constants.length + 4)
            adder.add_(words, keys.derive(secret, state.ctx2, "self-mask", site), -1)
            for other in set(range(parties.n)) - {site}:
                pair = keys.derive(secret, state.ctx2, "pair-mask", min(site, other), max(site, other))
                adder.add_(words, pair, -1 if site < other else +1)
            if site != 2 and has_lanes(words & width_mask(parties)):
                found[site] = values_of(words & width_mask(parties), parties)
    return found


def test_nothing_that_a_peer_holds_opens_the_input_of_another(federation):
    assert read_as_a_peer(federation(3)) == {}


def test_control_one_secret_behind_all_masks_lets_a_peer_read_every_input(
    federation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_attempt, "self_key", lambda seed, ctx2, site: keys.derive(SHARED, ctx2, "self-mask", site))
    monkeypatch.setattr(
        site_attempt,
        "pair_key",
        lambda own, public, ctx2, one, other: keys.derive(SHARED, ctx2, "pair-mask", min(one, other), max(one, other)),
    )
    parties = federation(3)

    assert read_as_a_peer(parties) == {site: parties.values[site].tolist() for site in (0, 1)}
    assert np.unique(parties.values).size > 3
