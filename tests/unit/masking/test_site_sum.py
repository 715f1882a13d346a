"""R5 at a site: whose sum it may be, and what is gone once it is taken."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from small_federation import Federation, next_model

from secure_frl.masking import contexts
from secure_frl.masking.contexts import model_tag
from secure_frl.secure_sum import COORDINATOR_ID
from secure_frl.wire.envelope import read_header, seal_frame, signed_bytes
from secure_frl.wire.messages import MessageType, PublishedSum, encode_body

REACHED_BY = {"SharesSent": MessageType.R1P, "InputSent": MessageType.R3A}  # state of site 0: the first lost request


def summed(parties: Federation, lost: MessageType | None) -> Any:
    """A round that is summed; from one request on, site 0 hears nothing of it."""

    def wire(direction: str, site: int, frame: bytes) -> bytes | None:
        is_lost = lost is not None and direction == "down" and site == 0 and read_header(frame).type >= lost
        return None if is_lost else frame

    parties.wire = wire
    machine = parties.begin(parties.open())
    parties.drive(machine)
    return machine._state


def published(parties: Federation, state: Any, survivors: tuple[int, ...]) -> bytes:
    """R5 to site 0 over a list of the coordinator's choice, in all else as it must be."""
    view, digest = state.view, hashlib.sha256(state.total_bytes).digest()
    ctx2 = getattr(parties.sites[0]._state, "ctx2", bytes(32))
    transcript = contexts.transcript_hash(ctx2, contexts.survivors_hash(ctx2, survivors), digest)
    tag = model_tag(next_model(b"first model", state.total))
    signed = signed_bytes("R5", view.ctx1, list(survivors), digest, tag, transcript)
    body = PublishedSum(survivors, state.total_bytes, tag, transcript, parties.coordinator_key.sign(signed))
    key = view.link(0, MessageType.R5, view.ctx1, view.fresh)
    return seal_frame(view.address(0, view.fresh), MessageType.R5, encode_body(body), key)


@pytest.mark.parametrize("state", REACHED_BY)
@pytest.mark.parametrize("fault", ["none", "a site twice", "not ascending", "outside the cohort"])
def test_a_sum_goes_over_distinct_sites_of_the_cohort_in_ascending_order(federation, state, fault):
    # the lanes, which count the sites, and the transcript fit each of the lists: only the list itself is wrong
    parties = federation(5)
    found = summed(parties, REACHED_BY[state])
    honest, site = found.survivors, parties.sites[0]
    assert site.state_name == state
    survivors = {
        "none": honest,
        "a site twice": (*honest[:-1], honest[-2]),
        "not ascending": honest[::-1],
        "outside the cohort": (*honest[:-1], 9),
    }[fault]

    request = published(parties, found, survivors)
    code = parties.refusal(0, request, site.handle(request))

    assert code == (None if fault == "none" else "SurvivorsRefused")
    assert (parties.hosts[0].total is not None) == (fault == "none")
    assert parties.hosts[0].closed == [
        "summed" if fault == "none" else "aborted" if state == "SharesSent" else "unknown"
    ]
    assert parties.registers[0].rows[-1] == (1, 0, "closed")
    assert site.state_name == "EpochOpen"


def test_channel_keys_of_a_closed_round_are_gone_when_the_sum_is_taken(federation):
    parties = federation(5)
    machine = parties.begin(parties.open())
    parties.drive(machine)
    held = [site._state.attempt.view.channels for site in parties.sites]
    of_the_round = [bytes(channels.key(COORDINATOR_ID)) for channels in held]
    assert [channels.at_round for channels in held] == [1] * 5

    parties.publish(machine)

    assert [site._state.view.channels.at_round for site in parties.sites] == [2] * 5
    assert [site._state.view.channels for site in parties.sites] == held
    assert all(channels.key(COORDINATOR_ID) != key for channels, key in zip(held, of_the_round, strict=True))
