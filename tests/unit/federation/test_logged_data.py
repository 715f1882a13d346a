"""A study on logged trajectories through every room: what it is charged, what nobody sees, and who may not join."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from round_contexts import round_context

from secure_frl.errors import BudgetExhausted, DataRefused, InvalidParameter, UnexpectedState
from secure_frl.evidence.verify import verify
from secure_frl.federation import run_folder, simulation, training
from secure_frl.federation.enrolment import enrol, open_site
from secure_frl.federation.logged_patients import LoggedPatients
from secure_frl.federation.run_folder import RunOptions
from secure_frl.federation.site import StudySite
from secure_frl.learning.environments.icu_sepsis import IcuSepsis, admissible_actions
from secure_frl.learning.rollout import roll_out_table
from secure_frl.learning.steps_table import write_steps
from secure_frl.learning.trajectories import Trajectories
from secure_frl.privacy.events import GaussianSumEvent, decode_event
from secure_frl.privacy.planning import make_plan
from secure_frl.records.ledger import read_ledger_state
from secure_frl.secure_sum import RandomSource, SiteId, SumTerms
from secure_frl.study import Study
from secure_frl.study_file import load_study
from secure_frl.wire.capture import read_capture
from secure_frl.wire.envelope import read_header

pytestmark = pytest.mark.slow

STUDY = Path(__file__).parents[2] / "studies" / "logged.toml"
PATIENTS = 24  # as the study declares; each has two stays
MAX_STEPS = 12
Change = Callable[[Trajectories], Trajectories]


def _write_tables(folder: Path, change: Change | None = None, *, is_simulated: bool = True) -> Path:
    """Write a steps table for each of three sites; `change` spoils that of site-02."""
    folder.mkdir()
    admissible = admissible_actions().astype(np.float64)
    uniform = admissible / admissible.sum(axis=1, keepdims=True)
    for number in (1, 2, 3):
        names = np.arange(2 * PATIENTS, dtype=np.uint64)
        stays = roll_out_table(uniform, IcuSepsis(2 * PATIENTS, MAX_STEPS), np.random.default_rng(number), names)
        if change is not None and number == 2:
            stays = change(stays)
        patients = [f"p{int(person) // 2}" for person in stays.persons]
        write_steps(folder / f"site-{number:02d}.parquet", stays, patients, is_simulated=is_simulated)
    return folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_tables(tmp_path_factory.mktemp("data") / "steps")


def _study(tables: Path, **overrides: Any) -> Study:
    return load_study(STUDY, {"data.path": str(tables), **overrides})


def _run(study: Study, folder: Path, **options: Any) -> None:
    simulation.run(study, folder / "run", RunOptions(state=folder / "state", **options))


@pytest.fixture(scope="module")
def finished(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logged")
    _run(_study(tables), folder, capture=folder / "capture")
    return folder


def _events(folder: Path) -> list[GaussianSumEvent]:
    return [decode_event(event) for event in read_ledger_state(folder / "state/sites/site-01/ledger.sqlite").events()]


# --- what it is charged ----------------------------------------------------------------------------------------------


def _epsilon_by_hand(events: list[GaussianSumEvent], delta: float) -> float:
    """From the fields of the events alone, by dp-accounting: every release composes, each with its sampling rate."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for event in events:
        shares = event.honest_shares if event.mechanism == "distributed" else 1
        sigma = math.sqrt(shares * event.integer_noise_scale**2 - 4) / event.rounding_bound
        sampled = dp_accounting.PoissonSampledDpEvent(event.sampling_rate, dp_accounting.GaussianDpEvent(sigma))
        accountant.compose(dp_accounting.SelfComposedDpEvent(sampled, event.noised_sums))
    return float(accountant.get_epsilon(delta))


def test_every_release_composes_and_verify_finds_the_same_epsilon(finished: Path, tables: Path) -> None:
    outcome, events = verify(finished / "run"), _events(finished)

    assert outcome.findings == ()
    assert [event.composition_group for event in events] == ["ward-a"] * 2
    assert {(event.sampler, event.sampling_rate, event.declared_batch, event.noised_sums) for event in events} == {
        ("poisson", 0.25, 6, 1)
    }
    assert outcome.epsilon_recomputed == outcome.epsilon_claimed
    assert outcome.epsilon_claimed == pytest.approx(_epsilon_by_hand(events, 1e-3), rel=5e-3)
    assert outcome.epsilon_claimed > 1.05 * _epsilon_by_hand(events[:1], 1e-3)  # not the maximum over the rounds
    assert make_plan(_study(tables)).epsilon == outcome.epsilon_claimed <= 1.0


def test_books_that_call_logged_data_fresh_do_not_verify(finished: Path, tables: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Study, "composition_group", lambda self, dataset_id: "fresh")
        _run(_study(tables), tmp_path)

    said = [one.message for one in verify(tmp_path / "run").findings]
    assert any("composition_group='fresh' instead of 'ward-a'" in one for one in said)
    assert verify(finished / "run").holds  # the control


def test_a_second_study_on_the_same_records_finds_the_budget_spent(
    finished: Path, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(_events(finished))
    monkeypatch.setattr(LoggedPatients, "collect", lambda *_: pytest.fail("sampled before the budget was sure"))

    with pytest.raises(BudgetExhausted):
        simulation.run(_study(tables), finished / "second", RunOptions(state=finished / "state"))

    assert len(_events(finished)) == before == 2


def test_several_noised_steps_a_round_are_one_release_of_so_many_sums(tables: Path, tmp_path: Path) -> None:
    several = {"training.local_steps": 3, "training.aggregation": "fedavg", "privacy.noise": "local"}
    _run(_study(tables, **several), tmp_path)

    outcome, events = verify(tmp_path / "run"), _events(tmp_path)

    assert outcome.findings == ()
    assert [event.noised_sums for event in events] == [3, 3]
    assert outcome.epsilon_claimed == pytest.approx(_epsilon_by_hand(events, 1e-3), rel=5e-3)


# --- the sample ------------------------------------------------------------------------------------------------------


def _open(study: Study, folder: Path) -> tuple[StudySite, SumTerms]:
    """Open one site of a rehearsal without noise, so that its messages show who was drawn."""
    run = run_folder.begin(folder / "run", study, RunOptions(rehearse=True), None)
    enrolled = enrol(run, study, rehearse=True)
    return open_site(run, enrolled, SiteId(0)), enrolled.terms


def test_another_attempt_draws_another_sample_and_writes_down_nobody(tables: Path, tmp_path: Path) -> None:
    study = _study(tables, **{"data.dataset_id": "", "privacy.noise": "unsafe-none", "training.rounds": 9})
    site, terms = _open(study, tmp_path)
    messages = []
    for number, attempt in ((1, 0), (1, 1), (2, 0)):
        messages.append(site.contribute(round_context(terms, number, attempt)).words[2:-2].tolist())
        site.release()
        site.close("aborted")
    with pytest.raises(UnexpectedState, match="never admitted"):
        site.contribute(round_context(terms, 1, 1))
    site.shut_down()

    home = tmp_path / "run/state/sites/site-01"
    assert len(read_ledger_state(home / "ledger.sqlite").events()) == 3
    assert len({tuple(message) for message in messages}) == 3
    with sqlite3.connect(home / "register.sqlite") as books:
        assert {people for (people,) in books.execute("SELECT persons FROM windows")} == {b""}


def test_samples_come_from_the_sites_own_generator(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[RandomSource] = []
    drawn: list[NDArray[np.bool_]] = []
    real = training.poisson_sample

    def watched(units: NDArray[np.int64], rate: float, random: RandomSource) -> NDArray[np.bool_]:
        sources.append(random)
        drawn.append(real(units, rate, random))
        return drawn[-1]

    monkeypatch.setattr(training, "poisson_sample", watched)

    for name in ("one", "two"):  # one seed, two runs
        _run(_study(tables), tmp_path / name)

    assert len(sources) == 2 * 2 * 3
    assert not any(source.is_rehearsal for source in sources)
    assert len({id(source) for source in sources}) == 6
    samples = {tuple(found.tolist()) for found in drawn}
    assert len(samples) == len(drawn)  # 12 samples of 24 units: any two are equal with probability 5e-9
    assert all((found[::2] == found[1::2]).all() for found in drawn)  # both stays of a patient, or none


# --- silence ---------------------------------------------------------------------------------------------------------


def _with_nan(records: Trajectories) -> Trajectories:
    rewards = records.rewards.copy()
    rewards[:7, 0] = np.nan
    return replace(records, rewards=rewards)


def _with_unknown_states(records: Trajectories) -> Trajectories:
    observations = records.observations.copy()
    observations[:, 0] = 10_000
    return replace(records, observations=observations)


def _too_long(records: Trajectories) -> Trajectories:
    def twice(values: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([values, values], axis=1)

    return replace(
        records,
        observations=twice(records.observations),
        actions=twice(records.actions),
        rewards=twice(records.rewards),
        log_behaviour=twice(records.log_behaviour) if records.log_behaviour is not None else None,
        steps=np.ones((records.count, 2 * records.steps.shape[1]), dtype=np.bool_),
    )


def _many_more_people(records: Trajectories) -> Trajectories:
    many = records.select(np.tile(np.arange(records.count), 20))
    return replace(many, persons=np.arange(many.count, dtype=np.uint64))


def _nobody(records: Trajectories) -> Trajectories:
    return records.select(np.zeros(0, dtype=np.int64))


def _all_unusable(records: Trajectories) -> Trajectories:
    return _too_long(_with_unknown_states(_with_nan(records)))


SPOILT: dict[str, Change] = {
    "unusable": _all_unusable,
    "more people than declared": _many_more_people,
    "empty site": _nobody,
}


def _seen(capture: Path) -> list[tuple[str, int, int, int, int]]:
    headers = [(item, read_header(item.frame)) for item in read_capture(capture)]
    return [(item.direction, item.site, header.type, header.round, len(item.frame)) for item, header in headers]


@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT.keys())
def test_what_a_site_holds_changes_no_size_and_no_reply(
    change: Change, finished: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = LoggedPatients.collect

    def spoilt(self: LoggedPatients, *arguments: Any) -> Trajectories:
        records = collect(self, *arguments)
        return change(records) if self._name == "site-02" else records

    monkeypatch.setattr(LoggedPatients, "collect", spoilt)

    _run(_study(tables), tmp_path, capture=tmp_path / "capture")

    assert _seen(tmp_path / "capture") == _seen(finished / "capture")


def test_a_sample_of_nobody_is_answered_and_charged_like_any_other(
    finished: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "poisson_sample", lambda units, rate, random: np.zeros(units.shape, np.bool_))

    _run(_study(tables), tmp_path, capture=tmp_path / "capture")

    assert _seen(tmp_path / "capture") == _seen(finished / "capture")
    assert len(_events(tmp_path)) == 2


# --- who may not join ------------------------------------------------------------------------------------------------


def _one_state_is_unknown(stays: Trajectories) -> Trajectories:
    observations = stays.observations.copy()
    observations[5, 0] = 716
    return replace(stays, observations=observations)


def _one_more_person(stays: Trajectories) -> Trajectories:
    persons = stays.persons.copy()
    persons[-1] = 2 * PATIENTS
    return replace(stays, persons=persons)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_with_nan, "row 1, column reward: expected a finite number"),
        (_one_state_is_unknown, "1 hold a state or action that it does not know"),
        (_one_more_person, "at most 24 units were declared, but 25 came"),
    ],
)
def test_records_that_may_not_join_are_refused_and_why_stays_at_the_site(
    change: Change, why: str, tmp_path: Path
) -> None:
    study = _study(_write_tables(tmp_path / "steps", change))

    with pytest.raises(DataRefused) as refused:
        _run(study, tmp_path)

    assert why not in str(refused.value)
    assert "those of site-02 may not" in str(refused.value)
    assert str(tmp_path / "state/sites/site-02/site.log") in str(refused.value)
    assert why in (tmp_path / "state/sites/site-02/site.log").read_text()
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__  # a traceback would show it all


def test_a_missing_table_is_told_like_any_other(tmp_path: Path) -> None:
    tables = _write_tables(tmp_path / "steps")
    (tables / "site-03.parquet").unlink()

    with pytest.raises(DataRefused, match="site-03"):
        _run(_study(tables), tmp_path)


def test_real_records_are_never_rehearsed_with(tmp_path: Path) -> None:
    study = _study(_write_tables(tmp_path / "steps", is_simulated=False), **{"data.dataset_id": ""})

    with pytest.raises(DataRefused):
        simulation.run(study, tmp_path / "run", RunOptions(rehearse=True))

    assert "marked as made-up" in (tmp_path / "run/state/sites/site-01/site.log").read_text()


def test_made_up_records_are_rehearsed_with_and_repeat_themselves(tables: Path, tmp_path: Path) -> None:
    study = _study(tables, **{"data.dataset_id": ""})

    one, two = (simulation.run(study, tmp_path / name, RunOptions(rehearse=True)) for name in ("one", "two"))

    assert one.policy_hash == two.policy_hash
    assert not verify(tmp_path / "one").holds
    assert verify(tmp_path / "one", allow_rehearsal=True).findings == ()


def test_records_without_the_name_of_their_data_set_are_not_run_on(tables: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match=r"data\.dataset_id is empty"):
        simulation.run(_study(tables, **{"data.dataset_id": ""}), tmp_path / "run")

    assert not (tmp_path / "run").exists()
