"""The specification's invariants over drawn schedules, shares and frames; a test is named by its invariant's number.

Those of all answers of a round stand in test_invariants.py, those of secrets in test_invariants_of_secrets.py; 3, 10,
11, 15 and 16 beside their fixed cases, as `test_<number>_`. Examples are few, for each is a federation of its own.
Source: secure_aggregation.md, section 8.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import numpy as np
import pytest
from drawn_schedules import SITE, check_losses, examples, flipped, losses
from hypothesis import example, given
from hypothesis import strategies as st
from small_federation import Federation

from secure_frl.errors import MalformedMessage, PeerError, RoundAborted
from secure_frl.masking.coordinator_epoch import EpochOpening
from secure_frl.masking.secret_sharing import combine, split
from secure_frl.randomness import rehearsal_source
from secure_frl.wire.envelope import read_header
from secure_frl.wire.messages import MessageType

# --- 1: enough answers give the exact sum, also where neighbours are few ---------------------------------------------


FOUR_LEFT = ["R1p", "R0", "R1p", "R3a", "R3a", "R3c", "R3c"]  # of a site and its ten neighbours


def test_1_losses_around_a_site_of_a_sparse_graph_give_the_exact_sum_or_an_abort(federation, monkeypatch):
    monkeypatch.setattr("secure_frl.masking.site_epoch.CHECKED_AT_ONCE", 0)
    parties = federation(101, length=3, modulus_bits=41)
    epoch, rounds = parties.open(), count(1)

    @given(centre=st.integers(0, 100), lost=losses(parties.constants.neighbours + 1, 4, 9))
    @example(centre=7, lost=dict(enumerate(FOUR_LEFT)))  # t = 4
    @example(centre=60, lost=dict(enumerate([*FOUR_LEFT, "R3c"])))
    @examples(1)
    def losing(centre, lost):
        machine = parties.begin(epoch, next(rounds))
        check_losses(parties, machine, [centre, *machine._view.graph.neighbours(centre)], lost)

    losing()


# --- 2: any t shares, no fewer ---------------------------------------------------------------------------------------

WORD = st.sampled_from([0, 1, 65_534, 65_535]) | st.integers(0, 65_535)


@given(
    secret=st.lists(WORD, min_size=16, max_size=16).map(lambda words: np.array(words, "<u2").tobytes()),
    holders=st.lists(st.integers(0, 65_534), min_size=2, max_size=24, unique=True),
    data=st.data(),
)
@examples(60)
def test_2_any_threshold_shares_rebuild_and_one_fewer_do_not(secret, holders, data):
    t = data.draw(st.integers(2, len(holders)))
    shares = split(secret, t, holders, rehearsal_source(3, secret.hex(), str(t)))
    chosen = data.draw(st.permutations(holders))[:t]

    assert combine({site: shares[site] for site in chosen}) == secret
    assert combined({site: shares[site] for site in chosen[1:]}) != secret


def combined(shares: dict[int, bytes]) -> bytes | None:
    try:
        return combine(shares)
    except MalformedMessage:
        return None


# --- 6: any recorded frame at any place ------------------------------------------------------------------------------

NAMED = {"MalformedMessage", "UnexpectedMessage", "BadSignature", "AlreadyAnswered", "RoundRefused", "EpochRefused"}
Place = Callable[[Any, int], None]  # (machine, number of the stage) before a stage's frames go out


def story(parties: Federation, before: Place) -> None:
    """Two epochs; a round lost, its second attempt, two more rounds. Random bytes are those of every other telling."""
    stages = iter(range(100))

    def tell(machine: Any, count: int, lost: tuple[int, ...] = ()) -> None:
        for stage in range(count):
            before(machine, next(stages))
            parties.exchange(machine, lost if stage == 1 else ())
            machine.close_stage()

    def opened(number: int, first_round: int) -> Any:
        opening = opening_of(parties, number, first_round)
        tell(opening, 2)
        return opening.outcome()

    epoch = opened(1, 1)
    with pytest.raises(RoundAborted):
        tell(parties.begin(epoch), 4, (0, 1))
    for number, attempt in ((1, 1), (2, 0), (3, 0)):
        epoch = epoch if number < 3 else opened(2, 3)
        machine = parties.begin(epoch, number, attempt)
        tell(machine, 4)
        machine.publish(bytes(32))
        assert machine.outcome().integers.tolist() == parties.plain_sum(range(5)).tolist()


def opening_of(parties: Federation, number: int, first_round: int) -> Any:
    keys = (parties.terms, parties.coordinator_key, parties.random, lambda: parties.now)
    return EpochOpening(*keys, number, first_round, parties.now + 3600)


BEGINNINGS = (MessageType.E0, MessageType.R0)
EARLIER = (5, "a beginning", 1, 0, True, "as it was", 0)  # R0 of attempt 0 to site 0, which has joined attempt 1
PLACES = 2 + 2 + 4 + 4 + 2 + 4  # stages of the story
CHANGES: dict[str, Callable[[bytes, int], bytes]] = {
    "as it was": lambda frame, at: frame,
    "cut": lambda frame, at: frame[: at % len(frame)],
    "longer": lambda frame, at: frame + frame[: 1 + at % 40],
    "one bit": lambda frame, at: flipped(frame, at % (8 * len(frame))),
}


def test_6_a_recorded_frame_is_refused_by_name_at_any_place_or_has_its_one_answer(federation):
    twin, other = federation(5, length=2), federation(5, length=2, charter=b"another charter")
    passed: list[tuple[int, bytes]] = []
    twin.wire = lambda direction, site, frame: passed.append((site, frame)) or frame  # type: ignore[func-returns-value]
    story(twin, lambda machine, stage: None)
    story(other, lambda machine, stage: None)
    answers = {request: reply for request, (_, reply) in zip(passed[::2], passed[1::2], strict=True)}
    replies = {(site, frame) for direction, site, frame in twin.frames if direction == "up"}
    earlier: list[bool] = []  # of announcements delivered: whether the site has joined the next attempt at its round

    def choose(parties: Federation, source: str, index: int, due: bytes) -> bytes:
        """One of the frames so far and of the other session; what is still to come nobody has recorded."""
        pool = [frame for _, _, frame in (*parties.frames, *other.frames)]
        kin = [frame for frame in pool if (frame[4], frame[64:80]) == (due[4], due[64:80])]  # its type and both ends
        begins = [frame for frame in pool if frame[4] in BEGINNINGS and frame[72:80] == due[72:80]]
        frames = {"any": pool, "of its kind": [*kin, due], "the due one": [due], "a beginning": [*begins, due]}[source]
        return frames[index % len(frames)]

    @given(
        st.lists(
            st.tuples(
                st.integers(0, PLACES - 1),
                st.sampled_from(["any", "of its kind", "the due one", "a beginning"]),
                st.integers(0, 10_000),
                SITE,
                st.booleans(),
                st.sampled_from([*CHANGES]),
                st.integers(0, 10_000),
            ),
            min_size=80,
            max_size=100,
        )
    )
    @example([EARLIER])  # which only the pair in the register tells from one that may be answered
    @examples(7)
    def replaying(given_frames):
        parties = federation(5, length=2)

        def before(machine: Any, stage: int) -> None:
            due = dict(machine.requests())
            for place, source, index, site, is_request, change, at in given_frames:
                if place == stage and (site, due.get(site, b"")) in answers:
                    expected = due[site] if is_request else answers[site, due[site]]
                    frame = CHANGES[change](choose(parties, source, index, expected), at)
                    if is_request:
                        deliver(parties, machine, due, site, frame)
                    elif frame != expected:  # which no site has made yet
                        hand_in(machine, site, frame)

        story(parties, before)
        assert [frame for _, _, frame in parties.frames] == [frame for _, _, frame in twin.frames]  # as if nothing was

    def deliver(parties: Federation, machine: Any, due: dict[int, bytes], site: int, frame: bytes) -> None:
        state, rows = parties.sites[site]._state, list(parties.registers[site].rows)
        if (site, frame) in answers and frame[4] == MessageType.R0 and rows:
            asked = read_header(frame)
            earlier.append((asked.round, asked.attempt + 1) == rows[-1][:2])
        reply = parties.sites[site].handle(frame)
        code = parties.refusal(site, frame, reply)
        assert code is None or code in NAMED
        if code is None:
            assert reply == answers.get((site, frame))
        if due.get(site) != frame:
            assert parties.sites[site]._state is state
            assert parties.registers[site].rows == rows

    def hand_in(machine: Any, site: int, frame: bytes) -> None:
        if (site, frame) in replies:  # accepted in its stage and after it, late or out of turn elsewhere
            with suppress(PeerError):
                machine.receive(site, frame)
        else:
            with pytest.raises(PeerError) as caught:
                machine.receive(site, frame)
            assert type(caught.value).__name__ in NAMED | {"LateMessage"}
        assert machine._letters._excluded.pop(site, "UnexpectedMessage") in NAMED  # this test lets it in again

    replaying()
    assert earlier[0]  # what EARLIER is said to be: explicit examples come first
