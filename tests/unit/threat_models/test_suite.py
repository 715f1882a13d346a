"""The suite over real rehearsals: what the first attack reads with the defence off and on, and what is refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from secure_frl.errors import InvalidParameter, UnexpectedState
from secure_frl.federation.site import StudySite
from secure_frl.secure_sum import RingVector, RoundContext
from secure_frl.study import Study
from secure_frl.study_file import load_study
from threat_models.adversaries.column_support import ColumnSupport
from threat_models.defences import MASKING, changed, defended
from threat_models.evaluation import Effort, Task
from threat_models.evaluations.canary_search import CanarySearchEvaluation
from threat_models.evaluations.column_support import REFERENCE
from threat_models.laboratory import Recording, rehearse, view_of
from threat_models.public import public_of
from threat_models.results import Bar, Cell, Kind, Verdict, judge
from threat_models.suite import attack
from threat_models.threat import Threat, View
from threat_models.truth import Truth

pytestmark = pytest.mark.threats
Tiny = Callable[..., Study]


@pytest.fixture(scope="module")
def recording(tiny: Tiny) -> Recording:
    study = changed(tiny(), REFERENCE, {"training.rounds": 2})
    return rehearse(defended(study, MASKING, clip_norm=0.3))


def _guess(recording: Recording) -> dict[str, bytes]:
    adversary = ColumnSupport()
    adversary.prepare(public_of(recording.study), np.random.default_rng(0))
    guess = adversary.run(view_of(recording, View.COORDINATOR))
    return {name: scores.tobytes() for name, scores in guess.items()}


def test_a_masked_sum_over_numbered_states_shows_exactly_who_was_where(recording: Recording) -> None:
    public = public_of(recording.study)
    adversary = ColumnSupport()
    adversary.prepare(public, np.random.default_rng(0))

    guess = adversary.run(view_of(recording, View.COORDINATOR))

    for number in (1, 2):
        visited = recording.truth.states_of(number, (0, 1, 2), 713)
        assert np.array_equal(guess[f"sum/{number}"][:713] > 0, visited)


def test_the_guess_is_byte_identical_when_only_the_truth_changes(recording: Recording) -> None:
    others = {key: people.select(np.arange(people.count)[::-1]) for key, people in recording.truth.trajectories.items()}
    perturbed = replace(recording, truth=Truth(others, {}, {}))

    assert _guess(perturbed) == _guess(recording)


def test_each_role_sees_its_own_wires_and_memory_only(recording: Recording) -> None:
    network, coordinator = view_of(recording, View.NETWORK), view_of(recording, View.COORDINATOR)
    site, coalition = view_of(recording, View.SITE, (1,)), view_of(recording, View.COALITION, (0, 2))

    assert not network.sums
    assert not network.policies
    assert {item.site for item in site.frames} == {1}
    assert {key[1] for key in site.own_updates} == {1}
    assert {key[1] for key in coalition.own_updates} == {0, 2}
    assert not coordinator.own_updates
    assert set(coordinator.sums) == {1, 2}
    with pytest.raises(InvalidParameter, match="sites that one site controls"):
        view_of(recording, View.SITE)


def test_a_blind_coordinator_sees_no_sum_and_no_policy(recording: Recording) -> None:
    blind = replace(recording, study=changed(recording.study, {"protection.method": "ckks+masking"}))

    seen = view_of(blind, View.COORDINATOR)

    assert not seen.sums
    assert not seen.policies
    assert view_of(blind, View.SITE, (0,)).sums


def test_records_of_living_people_are_never_attacked(tiny: Tiny) -> None:
    study = tiny()
    logged = study.model_copy(update={"data": study.data.model_copy(update={"source": "steps"})})

    with pytest.raises(InvalidParameter, match="simulated patients"):
        rehearse(logged)
    with pytest.raises(InvalidParameter, match="simulated patients"):
        attack(logged)


THREAT = Threat("SFRL-X", "look", "look", frozenset({View.COORDINATOR}), "-", "-", ("-",), "", "", "", "")


class _Two:
    """A control and a defence."""

    threats = (THREAT,)

    def why_not(self, study: Study) -> str:
        return "" if study.sites.count == 3 else "three sites only"

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        names = ("unsafe-plain", "noise")
        return tuple(Task("look", (n,), n, 1.0, partial(_measured, n), n == "unsafe-plain") for n in names)


def _measured(name: str, study: Study, effort: Effort) -> Iterator[Cell]:
    kind = Kind.CONTROL if name == "unsafe-plain" else Kind.DEFENDED
    bars = (Bar(at_least=0.0),)
    yield Cell("look", name, kind, "seed", float(effort.seed), 0.0, 1.0, 1, "coordinator", bars=bars)


def test_one_s_own_evaluation_runs_beside_or_instead_of_the_suite(tiny: Tiny) -> None:
    report = attack(tiny(), evaluations=(_Two(),), effort=Effort(seed=7), jobs=1)

    assert [(cell.defence, cell.value) for cell in report.cells] == [("unsafe-plain", 7.0), ("noise", 7.0)]


def test_controls_run_whatever_columns_are_asked_for(tiny: Tiny) -> None:
    evaluations = (_Two(),)

    asked = attack(tiny(), evaluations=evaluations, defences=("noise",), jobs=1)
    control = attack(tiny(), evaluations=evaluations, defences=("unsafe-plain",), jobs=1)

    assert len(asked.cells) == 2
    assert len(control.cells) == 1


def test_unknown_names_are_refused_with_those_that_there_are(tiny: Tiny) -> None:
    with pytest.raises(InvalidParameter, match="expected an attack of look; got 'listen'"):
        attack(tiny(), evaluations=(_Two(),), attacks=("listen",))
    with pytest.raises(InvalidParameter, match="got 'walls'"):
        attack(tiny(), evaluations=(_Two(),), defences=("walls",), jobs=1)


def test_an_attack_that_does_not_apply_is_not_tested(tiny: Tiny) -> None:
    report = attack(tiny({"sites.count": 4}), evaluations=(_Two(),), jobs=1)

    assert [cell.reason for cell in report.cells] == ["three sites only"]


def test_a_study_of_values_over_a_gymnasium_environment_is_attacked_where_an_attack_applies() -> None:
    study = load_study(Path(__file__).parents[3] / "examples/cartpole/dqn.toml")

    report = attack(study, effort=Effort(quick=True), attacks=("canary_search", "dynamics_inference"), jobs=1)

    said = {(cell.attack, cell.defence): verdict for cell, verdict in zip(report.cells, report.verdicts, strict=True)}
    assert said["canary_search", "unsafe-plain"] is Verdict.WINS
    assert said["canary_search", "masking"] is Verdict.HOLDS
    assert said["dynamics_inference", ""] is Verdict.NOT_TESTED
    assert report.exit_code == 0
    rows = report.plain()
    assert {row["id"] for row in rows["results"]} == {"SFRL-D4", "SFRL-B4"}
    assert "torch" in rows["versions"]
    plain, masked = (row["defence_digest"] for row in rows["results"] if row["attack"] == "canary_search")
    assert plain != masked


def test_attacks_that_are_named_and_not_tested_are_no_result(tiny: Tiny) -> None:
    with pytest.raises(InvalidParameter, match="look: three sites only"):
        attack(tiny({"sites.count": 4}), evaluations=(_Two(),), attacks=("look",), jobs=1)


def test_an_attack_that_the_quick_suite_leaves_out_says_so(tiny: Tiny) -> None:
    quick = attack(tiny(), evaluations=(_Two(), _FullOnly()), effort=Effort(quick=True), jobs=1)
    full = attack(tiny(), evaluations=(_FullOnly(),), jobs=1)

    assert [(cell.attack, "leave out --quick" in cell.reason) for cell in quick.cells] == [
        ("look", False),
        ("look", False),
        ("stare", True),
    ]
    assert not full.cells[0].reason


class _FullOnly:
    """An attack that takes too long for a quick suite."""

    threats = (replace(THREAT, name="stare"),)

    def why_not(self, study: Study) -> str:
        return ""

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        return () if effort.quick else (Task("stare", ("noise",), "stare", 1.0, _stared),)


def _stared(study: Study, effort: Effort) -> Iterator[Cell]:
    yield from (replace(cell, attack="stare") for cell in _measured("noise", study, effort))


def test_a_task_says_the_same_in_another_process(tiny: Tiny) -> None:
    study, effort = tiny(), Effort(quick=True)
    tasks = CanarySearchEvaluation().tasks(study, effort)

    there = [cell for task in tasks for cell in pickle.loads(pickle.dumps(task.measure))(study, effort)]

    assert [cell.kind for cell in there] == [Kind.CONTROL, Kind.DEFENDED]
    assert judge(there) == [Verdict.WINS, Verdict.HOLDS]


class _Family:
    """Two attacks: one with a task of its own, and a task that gives cells of both."""

    threats = (THREAT, replace(THREAT, name="stare"))

    def __init__(self, shared: Callable[[], None] = lambda: None) -> None:
        self._shared = shared

    def why_not(self, study: Study) -> str:
        return ""

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        both = partial(_both, self._shared)
        return (
            Task("look", ("noise",), "look", 1.0, partial(_measured, "noise")),
            Task("look", ("walls",), "both", 1.0, both, also=("stare",)),
        )


def _both(first: Callable[[], None], study: Study, effort: Effort) -> Iterator[Cell]:
    first()
    (cell,) = _measured("walls", study, effort)
    yield from (cell, replace(cell, attack="stare"))


def test_an_attack_asked_for_by_name_runs_its_own_cells_and_no_other_s_of_its_family(tiny: Tiny) -> None:
    ran: list[str] = []

    def asked(*attacks: str) -> list[tuple[str, str]]:
        def ended(title: str, seconds: float, number: int, of: int) -> None:
            ran.append(title)

        report = attack(tiny(), evaluations=(_Family(),), attacks=attacks, jobs=1, progress=ended)
        assert [row["name"] for row in report.plain()["threats"]] == sorted(attacks or ("look", "stare"))
        return [(cell.attack, cell.defence) for cell in report.cells]

    assert asked("stare") == [("stare", "walls")]
    assert ran == ["both"]
    assert asked("look") == [("look", "noise"), ("look", "walls")]
    assert len(asked()) == len(asked("look", "stare")) == 3


def test_a_task_that_raises_fails_for_each_attack_that_it_would_have_given_cells_of(tiny: Tiny) -> None:
    report = attack(tiny(), evaluations=(_Family(_raise),), jobs=1)

    assert [line.split(":")[0] for line in report.failures] == ["look against walls", "stare against walls"]
    with pytest.raises(InvalidParameter, match="got 'noise'"):
        attack(tiny(), evaluations=(_Family(),), attacks=("stare",), defences=("noise",), jobs=1)


class _Ends(_Two):
    """The same, but what it measures ends early."""

    def __init__(self, how: Callable[[], None], which: str) -> None:
        self._how, self._which = how, which

    def tasks(self, study: Study, effort: Effort) -> tuple[Task, ...]:
        return tuple(
            replace(task, measure=partial(_ended, self._how, task.title)) if task.title == self._which else task
            for task in super().tasks(study, effort)
        )


def _ended(how: Callable[[], None], name: str, study: Study, effort: Effort) -> Iterator[Cell]:
    yield from _measured(name, study, effort)
    how()


def _raise() -> None:
    raise AttributeError("no such thing")


@pytest.mark.parametrize(("which", "exit_code"), [("noise", 1), ("unsafe-plain", 5)])
def test_a_task_that_raises_is_a_cell_that_fails_and_no_other_is_lost(tiny: Tiny, which: str, exit_code: int) -> None:
    report = attack(tiny(), evaluations=(_Ends(_raise, which),), jobs=1)

    assert len(report.cells) == 3  # both that were measured, and what became of the rest
    assert report.exit_code == exit_code
    assert f"look against {which}" in report.failures[0]
    assert f"AttributeError: no such thing (in {which})" in report.failures[0]


def test_a_task_whose_process_dies_is_a_cell_that_fails(tiny: Tiny) -> None:
    report = attack(tiny(), evaluations=(_Ends(partial(os._exit, 3), "noise"),), jobs=2)

    assert report.exit_code in (1, 5)  # its pool is gone: the control may have ended before, or not
    assert any("against noise" in line and "BrokenProcessPool" in line for line in report.failures)


def test_a_rehearsal_that_stopped_early_is_no_recording_unless_that_was_asked_for(tiny: Tiny) -> None:
    study = defended(changed(tiny(), REFERENCE, {"training.rounds": 1}), MASKING, clip_norm=0.3)
    silent = dict.fromkeys(range(3), _Silent)

    with pytest.raises(UnexpectedState, match=r"it stopped .* sites answered: 3 AttributeError"):
        rehearse(study, sites=silent)
    assert rehearse(study, sites=silent, may_stop=True).stopped


class _Silent(StudySite):
    """A site that is broken."""

    def contribute(self, context: RoundContext) -> RingVector:
        raise AttributeError("no such thing")


def test_no_two_cells_share_draws() -> None:
    effort = Effort(seed=3)

    assert effort.study_seed("a", "masking") != effort.study_seed("a", "noise")
    assert effort.study_seed("a", "masking") == Effort(seed=3).study_seed("a", "masking")
