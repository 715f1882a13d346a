"""The coordinator's half of an epoch's opening, stage by stage: only the stage's own answer is taken."""

from __future__ import annotations

from typing import Any

import pytest

from secure_frl.errors import EpochRefused, PeerError, RoundAborted, UnexpectedMessage, UnexpectedState
from secure_frl.masking.contexts import sizes_of
from secure_frl.masking.coordinator_epoch import EpochOpening
from secure_frl.secure_sum import COORDINATOR_ID
from secure_frl.wire.envelope import EMPTY_32, Address
from secure_frl.wire.messages import MessageType
from secure_frl.wire.registry import REGISTRY

T = MessageType
STAGES: dict[int, dict[str, set[T]]] = {  # sites -> what each stage takes, written out from section 11
    3: {"_AskingKeys": {T.E0_REPLY}, "_AskingAcks": {T.E1_REPLY}},
    101: {"_AskingKeys": {T.E0_REPLY}, "_AskingNonces": {T.E1_REPLY}, "_AskingAcks": {T.E2_REPLY}},
}


def refused(opening: Any, parties: Any, site: int) -> dict[T, str]:
    """Send a frame of zeros of every type as one site. Returns the name of what each one raised."""
    found = {}
    for kind, spec in REGISTRY.items():
        size = spec.limit(sizes_of(parties.terms))
        header = Address(parties.terms.session, 1, 0, 0, site, COORDINATOR_ID, EMPTY_32).header(kind, size)
        with pytest.raises(PeerError) as caught:
            opening.receive(site, header.encode() + bytes(size + spec.trailer_bytes))
        found[kind] = type(caught.value).__name__
        opening._letters._excluded.clear()
    return found


def bring_to(parties: Any, opening: EpochOpening, stage: str) -> None:
    for _ in range(3):
        if type(opening._state).__name__ == stage:
            break
        parties.exchange(opening)
        opening.close_stage()
    assert type(opening._state).__name__ == stage


def expected(taken: set[T]) -> dict[T, str]:
    return {kind: "BadSignature" if kind in taken else "UnexpectedMessage" for kind in REGISTRY}


@pytest.fixture
def opening_of(monkeypatch, federation):
    """Return a function: sites -> a federation and the opening of its first epoch."""
    monkeypatch.setattr("secure_frl.masking.site_epoch.CHECKED_AT_ONCE", 0)  # of 101 peers, when they are neighbours

    def made(n: int) -> tuple[Any, EpochOpening]:
        parties = federation(n, length=1)
        given = (parties.terms, parties.coordinator_key, parties.random, lambda: parties.now, 1, 1, parties.now + 60)
        return parties, EpochOpening(*given)

    return made


@pytest.mark.parametrize(("n", "stage"), [(n, stage) for n, stages in STAGES.items() for stage in stages])
def test_in_each_stage_only_its_own_answer_is_taken(opening_of, n, stage):
    parties, opening = opening_of(n)
    bring_to(parties, opening, stage)
    state = opening._state
    list(opening.requests())

    assert refused(opening, parties, 0) == expected(STAGES[n][stage] | {T.REFUSAL})
    assert opening._state is state
    with pytest.raises(UnexpectedState):
        opening.outcome()


def test_an_open_epoch_takes_nothing_more_also_from_a_site_whose_word_was_late(opening_of):
    parties, opening = opening_of(5)
    bring_to(parties, opening, "_AskingAcks")
    late = parties.sites[4].handle(dict(opening.requests())[4])
    parties.exchange(opening, [4])
    opening.close_stage()
    state = opening._state

    assert opening.is_open
    for site in (0, 4):
        assert refused(opening, parties, site) == expected(set())
    with pytest.raises(UnexpectedMessage):
        opening.receive(4, late)
    assert opening._state is state
    assert opening.awaiting == ()
    assert list(opening.requests()) == []
    with pytest.raises(UnexpectedState):
        opening.close_stage()
    assert opening.outcome().members == (0, 1, 2, 3)


@pytest.mark.parametrize(("n", "stage"), [(3, "_AskingKeys"), (3, "_AskingAcks"), (101, "_AskingNonces")])
def test_a_failed_opening_takes_nothing_and_gives_no_epoch(opening_of, n, stage):
    parties, opening = opening_of(n)
    bring_to(parties, opening, stage)
    late = parties.sites[1].handle(dict(opening.requests())[1])
    with pytest.raises(RoundAborted):  # nobody's answer came in time
        opening.close_stage()
    state = opening._state
    assert type(state).__name__ == "_Failed"

    assert refused(opening, parties, 0) == expected(set())
    with pytest.raises(UnexpectedMessage):
        opening.receive(1, late)
    assert opening._state is state
    assert opening.awaiting == ()
    assert list(opening.requests()) == []
    for ask in (opening.close_stage, opening.outcome):
        with pytest.raises(UnexpectedState):
            ask()


def test_a_key_beyond_the_longest_list_is_refused_and_the_epoch_opens_without_it(opening_of, monkeypatch):
    monkeypatch.setattr("secure_frl.masking.coordinator_epoch.MOST_SITES", 4)  # a list of 10,001 opens at no site
    parties, opening = opening_of(5)
    frames = dict(opening.requests())
    replies = {site: parties.sites[site].handle(frames[site]) for site in frames}
    for site in (0, 1, 3, 4):
        opening.receive(site, replies[site])

    with pytest.raises(EpochRefused, match="next epoch"):
        opening.receive(2, replies[2])

    assert opening.excluded == {2: "EpochRefused"}
    opening.close_stage()
    parties.exchange(opening)
    opening.close_stage()
    assert opening.outcome().listed == (0, 1, 3, 4)
