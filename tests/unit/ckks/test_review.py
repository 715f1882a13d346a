"""What a coordinator may learn from sites that hold the key, and an opening whose steward falls silent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from blind_federation import BlindFederation

from secure_frl.secure_sum import RingVector, RoundContext, SiteId
from secure_frl.wire.envelope import read_header
from secure_frl.wire.messages import MessageType


@pytest.fixture
def federation() -> Iterator[BlindFederation]:
    made = BlindFederation(5)
    yield made
    made.close()


def spoil(federation: BlindFederation, word: int, by: int) -> None:
    """Let site 4 add to one word of its vector: what a coordinator can do to the encrypted sum without any key."""
    host = federation.hosts[4]
    honest = host.contribute

    def spoiled(context: RoundContext) -> RingVector:
        vector = honest(context)
        words = vector.words.copy()
        words[word] = (int(words[word]) + by) % (1 << vector.modulus_bits)
        return replace(vector, words=words)

    host.contribute = spoiled  # type: ignore[method-assign]


@pytest.mark.threats
@pytest.mark.parametrize(("word", "by"), [(0, 1), (5, 20_000)], ids=["lanes", "range"])
def test_three_sums_that_decrypt_to_no_sum_make_a_key_suspect(federation: BlindFederation, word: int, by: int) -> None:
    """Whether a value is in range tells who adds to it something about it: such answers are counted as any other."""
    blind = federation.open_blind()
    spoil(federation, word, by)
    for number in (1, 2, 3):
        machine = federation.begin_blind(number)
        federation.drive_blind(machine)
        federation.publish_blind(machine)
        assert len(set(machine.followers.values())) == 5  # nobody has a sum: 32 random bytes each

    federation.exchange(federation.begin_blind(4))

    assert [log[-1][0] for log in federation.logs] == ["KeySuspect"] * 5
    assert federation.open_blind(epoch=2, first_round=5).key_id != blind.key_id
    federation.exchange(federation.begin_blind(5))
    assert [log[-1][0] for log in federation.logs] == ["KeySuspect"] * 5  # a new key: no other refusal


def test_a_policy_that_was_handed_over_for_another_tag_is_not_taken_for_this_one(federation: BlindFederation) -> None:
    """Frames outside rounds have no number of their own: who carries them could answer with one of an earlier round."""
    earlier: list[bytes] = []

    def record(direction: str, site: int, frame: bytes) -> bytes:
        if read_header(frame).type == MessageType.R6_REPLY:
            earlier.append(frame)
        return frame

    def replay(direction: str, site: int, frame: bytes) -> bytes:
        return earlier[0] if site == 0 and read_header(frame).type == MessageType.R6_REPLY else frame

    federation.open_blind()
    parcels, tag = [], federation.hosts[0].held_tag()
    for number, wire in ((1, record), (2, replay)):
        machine = federation.begin_blind(number, tag=tag)
        federation.drive_blind(machine)
        federation.publish_blind(machine)
        tag = machine.followers[SiteId(0)]
        federation.wire = wire
        parcels.append(federation.fetch(tag, [0, 1]).parcel)

    assert federation.errors == {0: ["UnexpectedMessage"]}
    assert parcels[1] not in (None, parcels[0])  # the next site was asked
