"""A blind coordinator's program ends at an exact place, then `resume`: the sites' tags settle the round.

What a killed process leaves is in test_kills.py; here each place is met for certain.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interposed_sites import Killed, KilledAt, held_tags, interposed, silent

from secure_frl.evidence.verify import verify
from secure_frl.federation import simulation
from secure_frl.federation.policy_keepers import TAGS_DIFFER
from secure_frl.federation.released import SiteReleases
from secure_frl.federation.run_folder import RunOptions
from secure_frl.records.journal import Journal, read_journal
from secure_frl.records.ledger import Ledger
from secure_frl.study import Study
from secure_frl.wire.messages import MessageType

pytestmark = pytest.mark.slow
Tiny = Callable[..., Study]
KEPT, LOST = "summed", f"lost: {TAGS_DIFFER}"  # what becomes of the interrupted round


def killed_and_resumed(study: Study, run: Path, **how: Any) -> None:
    with pytest.raises(Killed):
        simulation.run(study, run, **how)
    simulation.resume(run)


def outcomes(run: Path) -> list[str]:
    rounds = read_journal(run / "journal.sqlite").rounds
    return [one.outcome + (f": {one.reason}" if one.reason else "") for one in rounds]


def assert_whole(run: Path, sites: int = 3, state: Path | None = None) -> None:
    """One policy at all sites, the one of the journal's tag, released; figures of each sum; nothing for verify."""
    journal = read_journal(run / "journal.sqlite")
    tag = journal.rounds[0].policy_tag
    for one in journal.rounds:
        assert one.policy_tag == tag
        tag = one.next_tag
    assert held_tags(run, state) == {f"site-{number:02d}": tag for number in range(1, sites + 1)}
    described = json.loads((run / "policies" / "policy.json").read_text())
    assert described["keyed_tag"] == tag.hex()
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in metrics] == [one.round for one in journal.rounds if one.outcome == "summed"]
    assert all("return" in line for line in metrics)
    assert verify(run).findings == ()


def steps_back(run: Path) -> list[int]:
    """How often each site went back to the policy before."""
    logs = sorted(run.glob("state/sites/*/site.log"))
    return [log.read_text().count("went back to the policy of step") for log in logs]


def once(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, when: Callable[..., bool]) -> None:
    """End the program as a method is called for which `when` holds."""
    real = getattr(owner, name)

    def ended(self: Any, *arguments: Any, **more: Any) -> Any:
        if when(self, *arguments):
            monkeypatch.setattr(owner, name, real)
            raise Killed
        return real(self, *arguments, **more)

    monkeypatch.setattr(owner, name, ended)


@pytest.mark.parametrize(
    ("protection", "took", "becomes", "back"),  # at most one of the three sites may lie
    [
        ("ckks", 0, LOST, [0, 0, 0]),
        ("ckks", 1, LOST, [1, 0, 0]),
        ("ckks", 2, KEPT, [0, 0, 0]),
        ("ckks+masking", 1, LOST, [1, 0, 0]),
    ],
)
def test_a_sum_that_reached_some_sites_gives_a_policy_when_more_of_them_made_it_than_may_lie(
    protection: str, took: int, becomes: str, back: list[int], tiny: Tiny, tmp_path: Path
) -> None:
    study = tiny({"protection.method": protection, "training.rounds": 3})
    at = KilledAt(MessageType.R5C, after=took, round=2)

    killed_and_resumed(study, tmp_path / "run", open_sites=interposed(at))

    assert outcomes(tmp_path / "run") == [KEPT, becomes, KEPT]
    assert steps_back(tmp_path / "run") == back
    assert_whole(tmp_path / "run")


# what is called, in which of its calls the program ends, what becomes of the round, how often site 1 goes back
PLACES: dict[str, tuple[type, str, Callable[..., bool], str, int]] = {
    "the parcel came and is not written down": (
        Journal,
        "sum_round",
        lambda journal, *_: journal.rounds()[-1].round == 2,
        KEPT,
        0,
    ),
    "the sum is written down and figures are not": (
        SiteReleases,
        "round_ended",
        lambda _, outcome: outcome.round == 2,
        KEPT,
        0,
    ),
    "a site has the policy and its ledger does not": (
        Ledger,
        "commit",
        lambda ledger, receipt, *_: receipt.sequence > 3,
        LOST,
        1,
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_program_that_ends_around_a_sum_goes_on(
    place: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, when, becomes, back = PLACES[place]
    once(monkeypatch, owner, name, when)

    killed_and_resumed(tiny({"protection.method": "ckks", "training.rounds": 3}), tmp_path / "run")

    assert outcomes(tmp_path / "run") == [KEPT, becomes, KEPT]
    assert steps_back(tmp_path / "run") == [back, 0, 0]
    assert_whole(tmp_path / "run")


def test_all_sites_answered_and_nobody_was_asked_for_the_policy(tiny: Tiny, tmp_path: Path) -> None:
    study, run = tiny({"protection.method": "ckks", "training.rounds": 3}), tmp_path / "run"
    with pytest.raises(Killed):
        simulation.run(study, run, open_sites=interposed(KilledAt(MessageType.R6, after=1)))
    assert outcomes(run) == [KEPT, "published"]
    assert verify(run).findings == ()  # unfinished

    simulation.resume(run, end=True)  # what the sites made of the published sum counts, though no round follows

    assert outcomes(run) == [KEPT, KEPT]
    assert steps_back(run) == [0, 0, 0]
    assert_whole(run)


def test_a_program_that_ends_as_keys_are_handed_out_begins_again_with_one_secret(tiny: Tiny, tmp_path: Path) -> None:
    killed = interposed(KilledAt(MessageType.PACKAGE, after=1))  # no round was announced under that secret

    killed_and_resumed(tiny({"protection.method": "ckks"}), tmp_path / "run", open_sites=killed)

    assert outcomes(tmp_path / "run") == [KEPT, KEPT]
    assert_whole(tmp_path / "run")


def test_sites_that_lag_behind_settle_nothing(tiny: Tiny, tmp_path: Path) -> None:
    """Two sites, more than may lie, hold the policy before: it is none that follows from the published sum."""
    study = tiny({"protection.method": "ckks", "training.rounds": 4, "sites.count": 6, "sites.min_survivors": 4})
    deaf, at = silent({4, 5}, {2}, {MessageType.R5C}), KilledAt(MessageType.R5C, round=3)
    away = silent({4, 5}, {3})

    def before(site: int, header: Any) -> None:
        deaf(site, header)
        away(site, header)
        at(site, header)

    killed_and_resumed(study, tmp_path / "run", open_sites=interposed(before))

    assert outcomes(tmp_path / "run") == [KEPT, KEPT, LOST, KEPT]
    assert_whole(tmp_path / "run", sites=6)


def test_a_study_that_is_interrupted_loses_nothing_to_another_one_at_the_same_sites(tiny: Tiny, tmp_path: Path) -> None:
    of_ward = {"data.dataset_id": "ward-a", "data.lifetime_epsilon": 4.0, "privacy.target_epsilon": 2.0}
    of_ward |= {"protection.method": "ckks", "training.rounds": 3}
    study, shared = tiny(of_ward), RunOptions(state=tmp_path / "state")
    at = KilledAt(MessageType.R5C, after=2, round=2)
    with pytest.raises(Killed):
        simulation.run(study, tmp_path / "one", shared, open_sites=interposed(at))

    simulation.run(study, tmp_path / "two", shared)
    simulation.resume(tmp_path / "one")

    for run in ("one", "two"):
        assert outcomes(tmp_path / run) == [KEPT, KEPT, KEPT]
        assert_whole(tmp_path / run, state=tmp_path / "state")
    for home in (tmp_path / "state/sites").glob("site-*"):
        assert len(list(home.glob("policy-*.held"))) == len(list(home.glob("site-secret-*.key"))) == 2
