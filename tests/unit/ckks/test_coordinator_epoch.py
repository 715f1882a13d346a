"""The coordinator's half of the epoch's key: what it takes, stewards that are silent or lie, what it never has."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from blind_federation import BlindFederation

from secure_frl.ckks import site_epoch
from secure_frl.ckks.coordinator_epoch import BlindEpochOpening
from secure_frl.errors import KeyRefused, PeerError, RoundAborted, TooFewSurvivors, UnexpectedState
from secure_frl.masking.contexts import sizes_of
from secure_frl.secure_sum import COORDINATOR_ID, SiteId
from secure_frl.wire.envelope import (
    EMPTY_32,
    HEADER_BYTES,
    SIGNATURE_BYTES,
    Address,
    read_header,
    sign_frame,
)
from secure_frl.wire.messages import KeyAck, MessageType, Packages, decode_body, encode_body
from secure_frl.wire.registry import REGISTRY

T = MessageType


@pytest.fixture
def parties() -> Iterator[BlindFederation]:
    made = BlindFederation(5)
    yield made
    made.close()


def brought_to(parties: BlindFederation, stages: int, epoch: int = 1, **options: object) -> BlindEpochOpening:
    opening = parties.opening(epoch, parties.rounds + 1, **options)
    for _ in range(stages):
        parties.exchange(opening)
        opening.close_stage()
    return opening


def run(parties: BlindFederation, opening: BlindEpochOpening, stages: int = 4) -> BlindEpochOpening:
    for _ in range(stages):
        parties.exchange(opening)
        opening.close_stage()
    return opening


def signed(parties: BlindFederation, site: int, kind: MessageType, body: object, epoch: int = 1) -> bytes:
    """What a site may sign in place of its answer."""
    encoded = encode_body(body)
    address = Address(parties.terms.session, epoch, 0, 0, site, COORDINATOR_ID, EMPTY_32)
    return sign_frame(address.header(kind, len(encoded)), encoded, parties.keys[site])


def test_stage_by_stage_only_the_stages_own_answer_is_taken(parties):
    """Keys, list, steward, packages, open: frames of zeros of every type, from the steward and from another site."""
    opening = parties.opening()
    taken = [{T.E0_REPLY}, {T.E1_REPLY}, {T.E3_REPLY}, {T.PACKAGE_REPLY}, set()]
    for stage, kinds in enumerate(taken):
        state, asked = opening._state, dict(opening.requests())
        letters = opening._letters._letters if opening._letters is not None else opening._state._letters
        for site in (0, 1):
            for kind, spec in REGISTRY.items():
                size = spec.limit(sizes_of(parties.terms))
                header = Address(parties.terms.session, 1, 0, 0, site, COORDINATOR_ID, EMPTY_32).header(kind, size)
                with pytest.raises(PeerError) as caught:
                    opening.receive(site, header.encode() + bytes(size + spec.trailer_bytes))
                is_taken = site in asked and kind in {*kinds, T.REFUSAL}
                is_late = site in asked and (stage, kind) == (3, T.E3_REPLY)  # of a steward that was passed over
                named = "BadSignature" if is_taken else "LateMessage" if is_late else "UnexpectedMessage"
                assert type(caught.value).__name__ == named, kind
                letters._excluded.clear()
        assert opening._state is state
        if stage < 4:
            with pytest.raises(UnexpectedState):
                opening.outcome()
            parties.exchange(opening)
            opening.close_stage()

    assert list(opening.requests()) == []
    with pytest.raises(UnexpectedState):
        opening.close_stage()
    assert opening.outcome().epoch.members == (0, 1, 2, 3, 4)


def test_the_coordinator_learns_the_keys_id_and_tags_and_nothing_of_key_or_secret(parties):
    blind = parties.next_epoch()
    key = parties.sites[0]._state.view.cipher.key
    down = b"".join(frame for _, _, frame in parties.frames)
    secret = parties.hosts[0].secret

    assert blind.key_id == key.key_id
    assert set(blind.tags.values()) == {parties.hosts[0].held_tag()}
    assert blind.key_id in down  # the search finds what is there
    assert secret not in down
    parameters = 100  # a context begins with them; they are public
    assert not any(key.context[at : at + 16] in down for at in range(parameters, len(key.context) - 16, 97))
    assert secret.hex() not in repr(blind) + repr(parties.sites[0]._state)
    assert repr(key.context)[2:40] not in repr(blind) + repr(parties.sites[0]._state)


def opened(parties: BlindFederation, opening: BlindEpochOpening) -> BlindEpochOpening:
    """Carry an opening to its end, as a driver does."""
    while any(True for _ in opening.requests()):
        parties.exchange(opening)
        opening.close_stage()
    return opening


@pytest.mark.parametrize("stage", ["E1", "E3"])
def test_when_the_first_site_is_silent_the_next_one_makes_the_key_in_the_same_epoch(parties, stage):
    """A lost answer costs no epoch: whoever acknowledged the list may make the key, and everybody takes it."""
    opening = brought_to(parties, 1 if stage == "E1" else 2)
    parties.exchange(opening, lost=[0])
    opening.close_stage()
    parties.blind = opened(parties, opening).outcome()
    members = (1, 2, 3, 4) if stage == "E1" else (0, 1, 2, 3, 4)
    assert parties.blind.epoch.members == members
    assert {parties.hosts[site].secret for site in members} == {parties.hosts[1].secret}

    parties.rounds = 1
    machine = parties.begin_blind(tag=parties.hosts[1].held_tag())
    parties.drive_blind(machine)
    parties.publish_blind(machine)
    assert machine.outcome().contributors == members
    assert parties.hosts[1].total.integers.tolist() == parties.plain_sum(members).tolist()

    later = opened(parties, parties.opening(2, 2)).outcome()  # the first of the list is back, and may make the key
    assert later.epoch.members == (0, 1, 2, 3, 4)
    assert len({host.secret for host in parties.hosts}) == 1


def test_a_steward_without_the_charters_secret_after_the_first_round_takes_anothers_key(parties):
    """Before the first round it would draw one; later the others hold one, and it must not make another."""
    parties.next_epoch()
    parties.publish_blind(parties.next_round())
    secret, parties.hosts[0].secret, parties.hosts[0].settled = parties.hosts[0].secret, None, None

    opening = brought_to(parties, 2, 2)
    parties.exchange(opening)
    assert opening.excluded == {0: "KeyRefused"}
    opening.close_stage()

    assert opened(parties, opening).outcome().epoch.members == (0, 1, 2, 3, 4)
    assert {host.secret for host in parties.hosts} == {secret}


def test_when_nobody_makes_a_key_there_is_no_epoch(parties):
    opening = brought_to(parties, 2)
    for _ in range(4):
        parties.exchange(opening, lost=range(5))
        opening.close_stage()
    late = dict(opening.requests())
    parties.exchange(opening, lost=range(5))
    with pytest.raises(TooFewSurvivors):
        opening.close_stage()
    assert_is_over(parties, opening, late)


def test_a_steward_that_gives_one_site_a_bad_package_costs_that_site_only(parties, monkeypatch):
    genuine = site_epoch.seal_package

    def sealing(key: object, to: object, *rest: object) -> bytes:
        return b"x" * 200 if to.site == 3 else genuine(key, to, *rest)

    monkeypatch.setattr(site_epoch, "seal_package", sealing)
    opening = run(parties, parties.opening())
    parties.blind = opening.outcome()
    machine = parties.next_attempt()
    parties.drive_blind(machine)
    parties.publish_blind(machine)

    assert opening.excluded == {3: "KeyRefused"}
    assert parties.blind.epoch.members == (0, 1, 2, 4)
    assert machine.outcome().contributors == (0, 1, 2, 4)
    assert parties.hosts[4].total.integers.tolist() == parties.plain_sum([0, 1, 2, 4]).tolist()
    assert parties.hosts[3].secret is None


Change = Callable[[Packages], Packages]


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (lambda body: Packages(body.key_id, body.policy_tag, body.packages[:-1]), TooFewSurvivors),
        (lambda body: Packages(body.key_id, body.policy_tag, (*body.packages, b"x")), TooFewSurvivors),
        (lambda body: Packages(b"o" * 32, body.policy_tag, body.packages), RoundAborted),  # no site acknowledges it
        (lambda body: Packages(body.key_id, body.policy_tag, body.packages[::-1]), RoundAborted),  # each for another
    ],
    ids=["one too few", "one too many", "another key's id", "each for another site"],
)
def test_a_steward_whose_answer_is_unsound_gives_no_epoch(parties, change: Change, outcome):
    def wire(direction: str, site: int, frame: bytes) -> bytes:
        if direction == "down" or read_header(frame).type != T.E3_REPLY:
            return frame
        body = decode_body(Packages, frame[HEADER_BYTES:-SIGNATURE_BYTES])
        return signed(parties, site, T.E3_REPLY, change(body))

    parties.wire = wire
    with pytest.raises(outcome):  # every site's answer is changed, whoever is asked
        opened(parties, parties.opening())


def test_who_names_another_key_or_does_not_answer_is_out_and_too_few_give_no_epoch(parties):
    opening = brought_to(parties, 3)
    parties.wire = lambda direction, site, frame: (
        signed(parties, site, T.PACKAGE_REPLY, KeyAck(b"o" * 32, bytes(32)))
        if (direction, site) == ("up", 2)
        else frame
    )
    parties.exchange(opening)
    opening.close_stage()
    assert opening.excluded == {2: KeyRefused.__name__}
    assert opening.outcome().epoch.members == (0, 1, 3, 4)

    parties.wire = lambda direction, site, frame: frame
    failing = brought_to(parties, 3, 2)
    late = {site: request for site, request in failing.requests() if site in (1, 2)}
    parties.exchange(failing, lost=[1, 2])
    with pytest.raises(TooFewSurvivors):
        failing.close_stage()
    assert_is_over(parties, failing, late)


def assert_is_over(parties: BlindFederation, failed: BlindEpochOpening, asked: dict[SiteId, bytes]) -> None:
    """A late answer, genuine as it is, opens nothing that was given up."""
    for site, request in asked.items():
        with pytest.raises(PeerError):
            failed.receive(site, parties.sites[site].handle(request))
    assert list(failed.requests()) == []
    for ending in (failed.close_stage, failed.outcome):
        with pytest.raises(UnexpectedState):
            ending()


def test_the_sealed_policy_is_asked_of_one_site_after_another(parties):
    parties.next_epoch()
    tag = parties.hosts[0].held_tag()
    parties.hosts[3].model = b"another model"
    before = len(parties.frames)
    silent = parties.wire
    parties.wire = lambda direction, site, frame: None if site == 2 and direction == "up" else frame

    fetching = parties.fetch(tag, [3, 2, 1, 0])

    parties.wire = silent
    asked = [site for direction, site, _ in parties.frames[before:] if direction == "down"]
    assert asked == [3, 2, 1]  # 3 has another, 2 is silent, 0 is not needed
    assert fetching.parcel is not None
    assert parties.hosts[1].model not in fetching.parcel
