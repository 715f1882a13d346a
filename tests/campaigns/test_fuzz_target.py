"""The fuzz target without its fuzzer: its corpus and seeded changes of it pass through, and it can fail."""

from __future__ import annotations

from random import Random

import pytest
from fuzz_machines import Target
from mutation_judge import changed_bytes

from secure_frl.masking import coordinator_stages


def test_the_corpus_and_changes_of_it_break_nothing() -> None:
    target, random = Target(), Random(3)
    corpus = dict(target.corpus())

    for data in corpus.values():
        target(data)
        for _ in range(15):
            target(data[:2] + changed_bytes(random, data[2:] or b"\x00"))

    assert len(corpus) == 3 * 16 + 5 + 4


def test_a_request_that_comes_again_has_its_old_answer_and_the_target_sees_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = Target()
    corpus = dict(target.corpus())
    again = corpus["R1P-site-frame"][:2] + corpus["R0-site-frame"][2:]  # both places are of one world
    target(again)
    monkeypatch.setattr(target.places[again[0]].bench.world.sites[0], "handle", lambda frame: b"another")

    with pytest.raises(AssertionError, match="another answer"):
        target(again)


def test_control_the_target_sees_a_coordinator_that_takes_shares_of_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target()
    data = dict(target.corpus())["R3C-coordinator-plaintext"]
    at = 2 + 4 + 68 + 4  # behind two heads and the share of its own seed: the words of another's
    changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    target(changed)
    monkeypatch.setattr(coordinator_stages, "_matching", lambda state, site, shares, alive, lost: alive | lost)

    with pytest.raises(AssertionError, match="accepted"):
        target(changed)
