"""A coordinator that keeps tags and parcels, among sites that lie, refuse or come back: it goes on as enough say.

No parcel can be checked here, so each test is a whole study of real sites, one of which is spoiled where it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from interposed_sites import Killed, KilledAt, held_tags, interposed, silent

from secure_frl.errors import ModelMissing, StudyStopped, SumOutOfRange
from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
from secure_frl.federation.blind_site import BlindStudySite
from secure_frl.federation.held_policy import policy_path
from secure_frl.federation.policy_keepers import BlindKeeper
from secure_frl.records.journal import read_journal
from secure_frl.records.ledger import read_ledger_state
from secure_frl.study import Study
from secure_frl.wire.messages import MessageType

pytestmark = pytest.mark.slow
Tiny = Callable[..., Study]
FOUR = {"protection.method": "ckks", "sites.count": 4, "training.rounds": 4}
GARBAGE = b"\x00" * 200


def spoil(monkeypatch: pytest.MonkeyPatch, name: str, spoiled: Callable[..., Any]) -> None:
    """Answer a callback of every site by `spoiled(site, honest, *arguments)`; `honest` is what it would say."""
    real = getattr(BlindStudySite, name)

    def answer(self: BlindStudySite, *arguments: Any) -> Any:
        return spoiled(self._parts.me, lambda: real(self, *arguments), *arguments)

    monkeypatch.setattr(BlindStudySite, name, answer)


def survivors(run: Path) -> list[str]:
    """Return the sites in each round's sum, as digits; what it was lost for, where there is none."""
    rounds = read_journal(run / "journal.sqlite").rounds
    return ["".join(name[-1] for name in one.survivors) or one.reason for one in rounds]


def assert_one_policy(run: Path, sites: Sequence[int]) -> None:
    tags = held_tags(run)
    tag = read_journal(run / "journal.sqlite").tag
    assert [name for name, held in tags.items() if held == tag] == [f"site-0{number}" for number in sites]
    assert verify(run).findings == ()


def log_of(run: Path) -> str:
    return (run / "state/coordinator/coordinator.log").read_text()


def test_a_site_that_answers_another_tag_is_named_and_stays_in(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def failing(me: int, honest: Callable[[], bytes], total: Any) -> bytes:
        asked.append(me)
        if me == 1 and asked.count(1) == 2:
            raise SumOutOfRange("expected a sum in range, got none.")  # answered with random bytes, and no step made
        return honest()

    spoil(monkeypatch, "next_tag", failing)

    simulation.run(tiny(FOUR), tmp_path / "run")

    assert survivors(tmp_path / "run") == ["1234"] * 4
    assert log_of(tmp_path / "run").count("site-02 follows to another policy") == 1
    assert_one_policy(tmp_path / "run", (1, 2, 3, 4))


def test_a_site_whose_disk_fails_as_it_steps_loses_nothing_and_follows_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Path] = []
    real = BlindStudySite.next_tag

    def stepping(self: BlindStudySite, total: Any) -> bytes:
        tag = real(self, total)
        if self._parts.me == 1:
            steps.append(policy_path(self._parts.home, self._parts.terms.session))
            if len(steps) == 2:  # what stands in the file's place takes no file
                steps[-1].rename(tmp_path / "aside")
                steps[-1].mkdir()
        return tag

    def mended(me: int, honest: Callable[[], bytes], *announced: Any) -> bytes:
        if me == 1 and steps and steps[-1].is_dir():
            steps[-1].rmdir()
            (tmp_path / "aside").rename(steps[-1])
        return honest()

    monkeypatch.setattr(BlindStudySite, "next_tag", stepping)
    spoil(monkeypatch, "policy_tag", mended)

    simulation.run(tiny(FOUR), tmp_path / "run")

    run = tmp_path / "run"
    assert survivors(run) == ["1234"] * 4
    assert log_of(run).count("site-02 follows to another policy") == 1
    assert "".join(path.read_text() for path in steps[0].parent.rglob("*.log")).count("round 2: kept the policy") == 1
    spent = read_ledger_state(run / "ledgers/site-02.jsonl").reservations.values()
    assert [one.status for one in spent] == ["summed"] * 4  # and not what is left of a round that nobody ended
    assert_one_policy(run, (1, 2, 3, 4))


def test_sites_that_hand_over_nothing_are_passed_over(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(me: int, honest: Callable[[], bytes], tag: bytes) -> bytes:
        if me != 2:
            raise ModelMissing("expected to be left alone.")
        return honest()

    spoil(monkeypatch, "sealed_policy", refusing)

    simulation.run(tiny(FOUR), tmp_path / "run", open_sites=interposed(silent({3}, {2}, {MessageType.R5C})))

    assert survivors(tmp_path / "run") == ["1234"] * 4  # the site that missed a step has it from the one that gives it
    log = log_of(tmp_path / "run")
    assert [f"site-0{number} is out: Refused" in log for number in (1, 2, 3, 4)] == [True, True, False, True]
    assert log.count("site-03 hands the policy over") == 4
    assert_one_policy(tmp_path / "run", (1, 2, 3, 4))


def test_a_site_that_got_no_policy_gets_anothers_in_the_next_epoch(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is asked as it is missing is a liar for ever; the others go on, and ask somebody else."""
    asked: list[int] = []

    def lying(me: int, honest: Callable[[], bytes], tag: bytes) -> bytes:
        asked.append(me)
        return GARBAGE if len(asked) > 1 and me == asked[1] else honest()

    spoil(monkeypatch, "sealed_policy", lying)

    simulation.run(tiny(FOUR), tmp_path / "run", open_sites=interposed(silent({3}, {2}, {MessageType.R5C})))

    assert survivors(tmp_path / "run") == ["1234", "1234", "123", "1234"]
    assert_one_policy(tmp_path / "run", (1, 2, 3, 4))


def test_a_liar_that_all_depend_on_stops_no_study(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No site may be missing here: a parcel that never opens would lose every round."""
    asked: list[int] = []

    def lying(me: int, honest: Callable[[], bytes], tag: bytes) -> bytes:
        asked.append(me)
        return GARBAGE if len(asked) > 1 and me == asked[1] else honest()

    spoil(monkeypatch, "sealed_policy", lying)
    study = tiny({"protection.method": "ckks", "training.rounds": 4})

    simulation.run(study, tmp_path / "run", open_sites=interposed(silent({2}, {2}, {MessageType.R5C})))

    assert survivors(tmp_path / "run") == ["123", "123", "TooFewSurvivors", "123"]
    assert_one_policy(tmp_path / "run", (1, 2, 3))


def test_garbage_in_the_place_of_the_parcel_costs_who_needs_it_one_round(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = BlindKeeper.machine

    def with_garbage(self: BlindKeeper, epoch: Any, number: int, *more: Any) -> Any:
        if number == 3:
            self._ties.journal.keep_parcel(GARBAGE)
        return machine(self, epoch, number, *more)

    monkeypatch.setattr(BlindKeeper, "machine", with_garbage)

    simulation.run(tiny(FOUR), tmp_path / "run", open_sites=interposed(silent({0}, {2})))

    assert survivors(tmp_path / "run") == ["1234", "234", "234", "1234"]
    assert_one_policy(tmp_path / "run", (1, 2, 3, 4))


def test_a_site_that_stays_away_comes_back_to_the_same_policy(tiny: Tiny, tmp_path: Path) -> None:
    study = tiny({**FOUR, "protection.method": "ckks+masking"})

    simulation.run(study, tmp_path / "run", open_sites=interposed(silent({1}, {2, 3})))

    assert survivors(tmp_path / "run") == ["1234", "134", "134", "1234"]
    assert (tmp_path / "run/state/sites/site-02/site.log").read_text().count("took the policy of step 3") == 1
    assert_one_policy(tmp_path / "run", (1, 2, 3, 4))


def test_sites_drawn_by_the_drop_schedule_miss_the_last_step_at_most(tiny: Tiny, tmp_path: Path) -> None:
    drops = {"sites.simulate_drop": {"before_masked": 1, "after_masked": 1}, "sites.count": 6, "sites.min_survivors": 5}

    simulation.run(tiny({**FOUR, **drops}), tmp_path / "run")

    journal = read_journal(tmp_path / "run/journal.sqlite")
    assert [len(one.survivors) for one in journal.rounds] == [5] * 4
    tags = list(held_tags(tmp_path / "run").values())
    assert (tags.count(journal.tag), tags.count(journal.rounds[-1].policy_tag)) == (4, 2)


def test_a_step_that_too_few_made_and_that_missed_the_way_back_is_left(tiny: Tiny, tmp_path: Path) -> None:
    """Site 1 alone made the interrupted round's policy, and was away when the study went on from the one before."""
    study = tiny(FOUR)
    with pytest.raises(Killed):
        simulation.run(study, tmp_path / "run", open_sites=interposed(KilledAt(MessageType.R5C, after=1, round=2)))
    away = silent({0}, {3})

    simulation.resume(tmp_path / "run", open_sites=interposed(away))

    assert survivors(tmp_path / "run") == ["1234", "TagsDiffer", "234", "1234"]
    assert_one_policy(tmp_path / "run", (1, 2, 3, 4))


def test_a_first_policy_that_too_few_name_stops_the_study_before_any_round(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "held_tag", lambda me, honest: bytes([me]) * 32)

    with pytest.raises(StudyStopped, match="same tag of the first policy"):
        simulation.run(tiny(FOUR), tmp_path / "run")

    assert read_journal(tmp_path / "run/journal.sqlite").rounds == []
    monkeypatch.undo()
    assert simulation.resume(tmp_path / "run").rounds_completed == 4


def test_a_steward_with_a_secret_that_nobody_else_has_stops_no_study(tiny: Tiny, tmp_path: Path) -> None:
    """It made one, was gone before it could hand it over, and is back when the study has begun without it."""
    with pytest.raises(Killed):
        simulation.run(tiny(FOUR), tmp_path / "run", open_sites=interposed(KilledAt(MessageType.PACKAGE)))
    in_epoch_2 = [True]

    def away(site: int, header: Any) -> None:
        in_epoch_2[0] &= header.epoch <= 2
        if site == 0 and in_epoch_2[0]:
            raise ConnectionError

    result = simulation.resume(tmp_path / "run", open_sites=interposed(away))

    assert result.rounds_completed == 4
    assert survivors(tmp_path / "run") == ["234", *["1234"] * 3]  # its secret was nobody's, and is given up
    assert_one_policy(tmp_path / "run", (1, 2, 3, 4))
