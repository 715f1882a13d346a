"""Profile cross_device over real frames: 101 sites on a random circle, nonces before graphs, exact sums."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from msgspec import structs

from secure_frl.errors import CharterRefused, InvalidParameter, NonceWithheld, RoundAborted, TooFewSurvivors
from secure_frl.masking.contexts import check_constants, epoch_hash, is_enrolled, nonce_commitment, sizes_of
from secure_frl.masking.coordinator_states import EpochOpening
from secure_frl.secure_sum import COORDINATOR_ID
from secure_frl.wire.envelope import EMPTY_32, Address, read_header, sign_frame
from secure_frl.wire.messages import EpochList, EpochNonces, MessageType, decode_body, encode_body
from secure_frl.wire.registry import REGISTRY

N = 101  # k = 10, t = 4, min_survivors = 95: see conftest.py


@pytest.fixture(autouse=True)
def signatures_wait(monkeypatch):
    """Check peers when they become neighbours, as in lists above 1,000 sites: 101 sites check 101 others in 1 s."""
    monkeypatch.setattr("secure_frl.masking.site_epoch.CHECKED_AT_ONCE", 0)


def opening_of(parties, epoch=1, **more):
    return EpochOpening(
        parties.terms, parties.coordinator_key, parties.random, lambda: parties.now, epoch, 1, parties.now + 60, **more
    )


def beside(machine, site):
    return set(machine._view.graph.neighbours(site))


def test_the_sum_is_exact_after_losses_before_and_after_the_masked_input(federation):
    parties = federation(N)
    machine = parties.begin(parties.open())

    total = parties.drive(machine, {"R0": [7], "R1p": [3, 50, 77], "R3a": [1], "R3c": [100, 30]})
    parties.publish(machine)

    survivors = [site for site in range(N) if site not in (3, 7, 50, 77)]
    assert total.contributors == tuple(survivors)
    assert total.integers.tolist() == parties.plain_sum(survivors).tolist()
    assert {host.closed[-1] for host in parties.hosts} == {"summed"}


def test_a_sites_frames_hold_its_neighbours_and_nobody_else(federation):
    parties = federation(N)
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    dealt = {site: set(machine._state.dealt.makers(site).tolist()) for site in machine._state.members}
    for _ in range(2):
        machine.close_stage()
        parties.exchange(machine)
    confirmed = {site: set(machine._state.mail.makers(site).tolist()) for site in machine._state.confirmed}
    machine.close_stage()
    parties.exchange(machine)
    holders = {site: {*machine._state.shares.makers(site).tolist(), site} for site in machine._state.own_shares}

    assert all(dealt[site] == beside(machine, site) == confirmed[site] for site in range(N))
    assert all(holders[site] == beside(machine, site) | {site} for site in range(N))
    assert Counter(map(len, dealt.values())) == {10: N}


def test_each_round_and_attempt_has_a_graph_of_its_own(federation):
    parties = federation(N)
    epoch = parties.open()
    one, two = parties.begin(epoch), parties.begin(epoch, attempt=1)
    three = parties.begin(epoch, 2)

    assert len({frozenset(beside(machine, 0)) for machine in (one, two, three)}) == 3


def test_a_lost_site_with_too_few_neighbours_left_ends_the_round_before_survivors_are_named(federation):
    parties = federation(N, min_survivors=90, honest_shares=87, neighbours=14, threshold=8)  # allows 11 to be lost
    machine = parties.begin(parties.open())
    parties.exchange(machine)
    machine.close_stage()
    lost = sorted(beside(machine, 20))[:7]  # seven of its fourteen: with itself, eight hold its seed; its key has seven

    parties.exchange(machine, [20, *lost])

    with pytest.raises(TooFewSurvivors, match="holders of the key of lost site"):
        machine.close_stage()
    assert machine.next_cohort == tuple(range(N))  # enough sites answered, and another attempt is another graph


def test_a_site_refuses_a_cohort_of_another_size(federation):
    parties = federation(N, enrolled=N + 1)
    epoch = parties.open()
    assert len(epoch.members) == N + 1

    with pytest.raises(InvalidParameter):
        parties.begin(epoch, cohort=epoch.members)
    with pytest.raises(InvalidParameter):
        parties.begin(epoch, cohort=epoch.members[:-2])
    machine = parties.begin(epoch, cohort=epoch.members[1:])
    assert parties.drive(machine).integers.tolist() == parties.plain_sum(range(1, N + 1)).tolist()


# --- nonces ----------------------------------------------------------------------------------------------------------


def test_the_epochs_hash_holds_every_nonce_and_none_is_shown_before_all_are_committed(federation):
    parties = federation(N)
    epoch = parties.open()
    kinds = [read_header(frame).type for direction, _, frame in parties.frames if direction == "up"]
    lists = [frame for direction, _, frame in parties.frames if direction == "down"]
    entries = next(decode_body(EpochList, frame[152:-64]).entries for frame in lists if frame[4] == MessageType.E1)
    nonces = next(decode_body(EpochNonces, frame[152:-64]).nonces for frame in lists if frame[4] == MessageType.E2)

    assert kinds == [MessageType.E0_REPLY] * N + [MessageType.E1_REPLY] * N + [MessageType.E2_REPLY] * N
    assert len(set(nonces)) == N
    session = parties.terms.session
    assert all(
        nonce_commitment(session, 1, entry.site, nonce) == entry.nonce_commitment
        for entry, nonce in zip(entries, nonces, strict=True)
    )
    rows = [(entry.site, entry.public_key, nonce) for entry, nonce in zip(entries, nonces, strict=True)]
    assert epoch.epoch_hash == epoch_hash(session, 1, rows, epoch.public_keys[-1])


def test_a_site_that_shows_no_nonce_is_removed_and_the_next_epoch_opens_without_it(federation):
    parties = federation(N, enrolled=N + 2)
    opening = opening_of(parties)
    parties.exchange(opening)
    opening.close_stage()
    parties.exchange(opening, [4, 90])

    with pytest.raises(NonceWithheld) as withheld:
        opening.close_stage()

    assert withheld.value.sites == (4, 90)
    again = opening_of(parties, 2, without=withheld.value.sites)
    for _ in range(3):
        parties.exchange(again)
        again.close_stage()
    assert again.outcome().members == tuple(site for site in range(N + 2) if site not in (4, 90))


def test_a_nonce_that_does_not_open_its_commitment_excludes_its_site(federation):
    parties = federation(N)
    opening = opening_of(parties)
    parties.exchange(opening)
    opening.close_stage()

    def wire(direction, site, frame):
        if direction == "up" and site == 6:
            body = bytearray(frame[152:-64])
            body[-1] ^= 1
            return sign_frame(read_header(frame), bytes(body), parties.keys[6])
        return frame

    parties.wire = wire
    parties.exchange(opening)

    assert parties.errors == {6: ["EpochRefused"]}
    with pytest.raises(NonceWithheld):
        opening.close_stage()


@pytest.mark.parametrize("lie", ["another nonce", "one too few", "two exchanged"])
def test_a_site_refuses_nonces_that_do_not_open_the_list_it_saw(federation, lie):
    parties = federation(N)
    opening = opening_of(parties)
    for _ in range(2):
        parties.exchange(opening)
        opening.close_stage()
    site, frame = next(iter(opening.requests()))
    nonces = list(decode_body(EpochNonces, frame[152:-64]).nonces)
    if lie == "another nonce":
        nonces[40] = bytes(32)
    elif lie == "one too few":
        nonces.pop()
    else:
        nonces[40], nonces[41] = nonces[41], nonces[40]
    body = encode_body(EpochNonces(tuple(nonces)))
    header = replace(read_header(frame), body_bytes=len(body))
    request = sign_frame(header, body, parties.coordinator_key)

    assert parties.refusal(site, request, parties.sites[site].handle(request)) == "EpochRefused"
    assert parties.sites[site].state_name == "NonceShown"


def test_a_site_that_has_shown_its_nonce_takes_only_a_new_epoch_or_the_nonces(federation):
    parties = federation(N)
    opening = opening_of(parties)
    parties.exchange(opening)
    opening.close_stage()
    site, shown = parties.sites[0], dict(opening.requests())[0]
    answer = site.handle(shown)
    state = site._state

    for kind, spec in REGISTRY.items():  # bodies of zeros behind plausible headers
        size = spec.limit(sizes_of(parties.terms))
        address = Address(parties.terms.session, 1, 1, 0, COORDINATOR_ID, 0, EMPTY_32)
        request = address.header(kind, size).encode() + bytes(size + spec.trailer_bytes)
        code = parties.refusal(0, request, site.handle(request))
        if kind in (MessageType.E0, MessageType.E2):
            assert code == "BadSignature", kind
        else:
            assert code in {"UnexpectedMessage", "AlreadyAnswered"}, kind
        assert site._state is state
    assert site.state_name == "NonceShown"
    assert site.handle(shown) == answer  # the identical request has its identical answer
    assert parties.hosts[0].closed == []


def test_a_site_refuses_a_list_in_which_one_site_has_committed_to_nothing(federation):
    parties = federation(N)
    opening = opening_of(parties)
    parties.exchange(opening)
    opening.close_stage()
    site, frame = next(iter(opening.requests()))
    entries = list(decode_body(EpochList, frame[152:-64]).entries)
    entries[40] = structs.replace(entries[40], nonce_commitment=b"")
    body = encode_body(EpochList(tuple(entries)))
    request = sign_frame(replace(read_header(frame), body_bytes=len(body)), body, parties.coordinator_key)

    assert parties.refusal(site, request, parties.sites[site].handle(request)) == "RosterRefused"


def test_a_list_below_n_is_refused(federation):
    parties = federation(N)
    opening = opening_of(parties)
    parties.exchange(opening, [5])

    with pytest.raises(RoundAborted):
        opening.close_stage()


# --- signatures that wait --------------------------------------------------------------------------------------------


def forge(parties, forger):
    """Let one site sign its entry with a key that is not enrolled for it; the frame around it is right."""
    real = parties.keys[forger]

    def wire(direction, site, frame):
        if direction == "up" and site == forger:
            return sign_frame(read_header(frame), frame[152:-64], real)
        return frame

    parties.wire = wire
    object.__setattr__(parties.sites[forger]._party, "signing_key", parties.keys[forger - 1])


def test_in_a_short_list_a_forged_entry_is_found_at_once(federation, monkeypatch):
    monkeypatch.setattr("secure_frl.masking.site_epoch.CHECKED_AT_ONCE", 1000)
    monkeypatch.setattr("secure_frl.masking.coordinator_epoch.check_signature", lambda *fields: None)
    parties = federation(N)
    forge(parties, 9)
    opening = opening_of(parties)
    parties.exchange(opening)
    opening.close_stage()

    site, request = next(iter(opening.requests()))

    assert parties.refusal(site, request, parties.sites[site].handle(request)) == "BadSignature"


def test_in_a_long_list_a_forged_entry_is_found_when_its_site_becomes_a_neighbour(federation, monkeypatch):
    monkeypatch.setattr("secure_frl.masking.coordinator_epoch.check_signature", lambda *fields: None)
    parties = federation(N)
    forge(parties, 9)
    machine = parties.begin(parties.open())
    near = beside(machine, 9)

    parties.exchange(machine)

    assert {site for site, code in machine.excluded.items() if code == "BadSignature"} >= near
    assert all(not parties.hosts[site].contexts for site in near)  # found before a vector was made
    checked = {len(site._state.attempt.view.unchecked) for i, site in enumerate(parties.sites) if i not in near | {9}}
    assert checked == {N - 10}  # ten signatures each, not a hundred


# --- constants -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"sites": 100},
        {"neighbours": 9},
        {"neighbours": 100},
        {"threshold": 11},
        {"threshold": 0},
        {"threshold": 3},  # three corrupt neighbours of one site are not rare enough
        {"min_survivors": 70, "honest_shares": 67},  # 31 may be lost: the honest may fall apart
        {"max_colluders": 0, "honest_shares": 95},
        {"profile": "cross_town"},
    ],
)
def test_constants_that_the_graph_does_not_carry_are_refused(make_constants, changes):
    check_constants(make_constants(N))

    with pytest.raises(CharterRefused):
        check_constants(make_constants(N, **changes))


def test_more_sites_than_a_cohort_may_be_enrolled_in_cross_device_only(federation):
    device, silo = federation(N), federation(5)
    more = (b"\x01" * 32,)

    assert is_enrolled(replace(device.terms, site_public_keys=device.terms.site_public_keys + more))
    assert not is_enrolled(replace(silo.terms, site_public_keys=silo.terms.site_public_keys + more))
    assert not is_enrolled(replace(device.terms, site_public_keys=device.terms.site_public_keys[1:]))
