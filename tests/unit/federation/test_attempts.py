"""A dealer that cheats costs a window, never the study: the attempt without it, its people and its books."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from secure_frl.errors import StudyStopped
from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
from secure_frl.masking import site_attempt
from secure_frl.records.journal import read_journal
from secure_frl.records.ledger import read_ledger_state
from secure_frl.secure_sum import RoundContext
from secure_frl.study import Study
from secure_frl.wire.envelope import read_header
from secure_frl.wire.messages import MessageType
from secure_frl.wire.records import DealtShares, pack_records, unpack_records

Tiny = Callable[..., Study]
FIVE = {"sites.count": 5, "sites.min_survivors": 4, "training.rounds": 3}


def cheat(monkeypatch: pytest.MonkeyPatch, dealer: int, victims: Collection[int]) -> None:
    """Let one site seal shares that do not open at its victims; everything else it does is right."""
    real = site_attempt.deal

    def deal(*arguments: Any, **more: Any) -> Any:
        body, own = real(*arguments, **more)
        if arguments[2] != dealer:
            return body, own
        items = unpack_records(DealtShares, body.dealt)
        dealt = pack_records(replace_sealed(item) if item.site in victims else item for item in items)
        return type(body)(body.public_key, body.seed_commitment, body.own_commitment, dealt), own

    monkeypatch.setattr(site_attempt, "deal", deal)


def replace_sealed(item: DealtShares) -> DealtShares:
    return item._replace(sealed=bytes(len(item.sealed)))


def events(run: Path, holder: str) -> list[tuple[int, int]]:
    book = run / ("state/coordinator" if holder == "coordinator" else f"state/sites/{holder}") / "ledger.sqlite"
    decoded = [json.loads(event) for event in read_ledger_state(book).events()]
    return [(event["round"], event["attempt"]) for event in decoded]


@pytest.mark.slow
def test_a_cheating_dealer_costs_a_window_and_the_round_gets_its_sum_without_it(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheat(monkeypatch, 0, {1, 2})
    seeds: list[tuple[int, int, int]] = []
    real = simulation.open_all_sites

    def open_sites(*arguments: Any) -> Any:
        sites = real(*arguments)
        for site in sites.values():
            patients = site._parts.patients
            collect = patients.collect

            def noted(probabilities: Any, context: RoundContext, site: Any = site, collect: Any = collect) -> Any:
                found = collect(probabilities, context)
                seeds.append((context.round, context.attempt, hash(found.persons.tobytes())))
                return found

            patients.collect = noted
        return sites

    result = simulation.run(tiny(FIVE), tmp_path / "run", open_sites=open_sites)

    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    attempts = [(line["round"], line["attempt"], line["outcome"], len(line["cohort"])) for line in lines]
    assert attempts == [(1, 0, "lost", 5), (1, 1, "summed", 4), (2, 0, "summed", 4)]  # three windows were announced
    assert lines[1]["survivors"] == ["site-02", "site-03", "site-04", "site-05"]
    assert result.rounds_completed == 2
    assert result.rounds_lost == 0
    assert verify(tmp_path / "run").findings == ()

    # ledger events = releases: who complained had sent nothing, the dealer is asked once
    assert events(tmp_path / "run", "coordinator") == [(1, 0), (1, 1), (2, 0)]
    assert events(tmp_path / "run", "site-01") == [(1, 0)]
    assert events(tmp_path / "run", "site-02") == events(tmp_path / "run", "site-03") == [(1, 1), (2, 0)]
    assert events(tmp_path / "run", "site-04") == [(1, 0), (1, 1), (2, 0)]
    assert len({people for number, _, people in seeds}) == len(seeds)  # no attempt meets another one's people

    journal = read_journal(tmp_path / "run" / "journal.sqlite").rounds
    assert journal[0].details["complaints"] == {"site-02": ["site-01"], "site-03": ["site-01"]}
    assert journal[0].reason == "TooFewSurvivors"


@pytest.mark.slow
def test_no_attempt_is_made_when_too_few_remain(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheat(monkeypatch, 0, {1})

    with pytest.raises(StudyStopped, match="all were lost"):
        simulation.run(tiny(), tmp_path / "run")  # three sites, three needed

    rounds = read_journal(tmp_path / "run" / "journal.sqlite").rounds
    assert [(one.round, one.attempt, one.outcome) for one in rounds] == [(1, 0, "lost"), (2, 0, "lost")]


@pytest.mark.slow
def test_a_complaint_that_leaves_enough_inputs_costs_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheat(monkeypatch, 0, {1})

    result = simulation.run(tiny(FIVE), tmp_path / "run")

    assert result.rounds_completed == 3
    assert events(tmp_path / "run", "site-02") == []  # it complained in place of every masked input
    assert verify(tmp_path / "run").findings == ()


@pytest.mark.slow
def test_no_attempt_is_made_beyond_the_announced_windows(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheat(monkeypatch, 0, {1, 2})

    with pytest.raises(StudyStopped, match="all were lost"):
        simulation.run(tiny(FIVE | {"training.rounds": 1}), tmp_path / "run")

    rounds = read_journal(tmp_path / "run" / "journal.sqlite").rounds
    assert [(one.round, one.attempt, one.outcome) for one in rounds] == [(1, 0, "lost")]
    assert events(tmp_path / "run", "coordinator") == [(1, 0)]


@pytest.mark.slow
def test_what_left_counted_at_the_carrier_equals_what_is_booked_over_dropouts_and_second_attempts(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A masked input that reached the carrier is a release, whatever became of its round."""
    cheat(monkeypatch, 0, {1, 2})
    left: list[tuple[int, int, int]] = []  # site, round, attempt
    exchange = simulation.InProcessCarrier.exchange

    def counted(self: Any, requests: Any, deadline_s: float) -> Any:
        for site, reply in exchange(self, requests, deadline_s):
            header = read_header(reply)
            if header.type == MessageType.R2:
                left.append((int(site), header.round, header.attempt))
            yield site, reply

    monkeypatch.setattr(simulation.InProcessCarrier, "exchange", counted)
    dropping = {"sites.simulate_drop": {"before_masked": 1, "after_masked": 1}, "training.rounds": 6}

    with contextlib.suppress(StudyStopped):  # how it ends is not the point
        simulation.run(tiny(FIVE | dropping | {"sites.count": 6}), tmp_path / "run")

    outcomes = {(one.attempt, one.outcome) for one in read_journal(tmp_path / "run" / "journal.sqlite").rounds}
    assert outcomes >= {(0, "lost"), (1, "lost")} or outcomes >= {(0, "lost"), (1, "summed")}
    assert len(set(left)) == len(left)
    for site in range(6):
        released = [(number, attempt) for who, number, attempt in left if who == site]
        assert events(tmp_path / "run", f"site-{site + 1:02d}") == released
    assert len({(number, attempt) for _, number, attempt in left}) >= 3
