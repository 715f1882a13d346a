"""The vector of an epoch in which an attempt fails, another follows, and then another round: both ends, byte by byte.

What a vector of one round can't show: that secrets are new, that a site joins the next attempt from where it stands,
and that the channels of the next round are the same whether this round was closed at a site or not.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from vector_parties import EPOCH, Parties, attempts_of, h, load, steps_of

from secure_frl import errors
from secure_frl.secure_sum import SiteId
from secure_frl.wire.envelope import read_header
from secure_frl.wire.messages import MessageType


def test_every_site_answers_every_attempt_of_the_epoch_byte_by_byte():
    vector = load(EPOCH)
    sites = [Parties(vector).site(i) for i in range(vector["constants"]["sites"])]

    for attempt in attempts_of(vector):
        for step in attempt["steps"]:
            reply = sites[step["site"]].handle(h(step["request"]))
            assert reply.hex() == step["reply"], (attempt["round"], attempt["attempt"], step["stage"], step["site"])

    assert {site.state_name for site in sites} == {"EpochOpen"}


def test_the_coordinator_asks_the_cohort_that_the_complaints_leave_and_comes_to_both_sums():
    vector = load(EPOCH)
    parties, attempts = Parties(vector), attempts_of(vector)
    machine = parties.opening()
    for stage in ("E0", "E1"):
        _exchange(machine, attempts[0], stage)
        machine.close_stage()
    epoch, expected = machine.outcome(), None

    for at, attempt in enumerate(attempts):
        machine = parties.begin(epoch, at)
        assert expected in (None, machine.context.cohort)
        for stage in ("R0", "R1p", "R3a", "R3c", "R5"):
            if stage == "R5":
                machine.publish(h(attempt["outcome"]["next_tag"]))
            _exchange(machine, attempt, stage)
            if attempt.get("abort", {}).get("stage") == stage:
                with pytest.raises(getattr(errors, attempt["abort"]["error"])):
                    machine.close_stage()
                break
            machine.close_stage()
        expected = machine.next_cohort
        if "outcome" in attempt:
            assert machine.outcome().integers.tolist() == attempt["outcome"]["sum"]
            assert machine.transcript_hash.hex() == attempt["outcome"]["transcript_hash"]


def test_no_secret_is_drawn_twice_in_the_epoch():
    attempts = attempts_of(load(EPOCH))
    listed = [secret for one in attempts for name in ("fresh", "s_sk", "b") for secret in one["drawn"][name]]
    listed += [one["drawn"]["coordinator"]["fresh"] for one in attempts]

    assert len(set(listed)) == len(listed) == 3 * 3 * 5 + 3


def _exchange(machine, attempt, stage):
    steps = steps_of(attempt, stage)
    assert {i: frame.hex() for i, frame in machine.requests()} == {i: step["request"] for i, step in steps.items()}
    for i, step in steps.items():
        reply = h(step.get("arrives_as", step["reply"]))
        is_complaint = read_header(reply).type == MessageType.BAD_SHARE
        if step["arrives"]:
            with pytest.raises(errors.BadShare) if is_complaint else nullcontext():
                machine.receive(SiteId(i), reply)
